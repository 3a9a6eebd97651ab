//! A look at the whole run before its first commit, where it must keep to a plan, or a brake is
//! on a routine run of several chunks. And the limits that follow from it: each chunk is held
//! against them once more, inside its own transaction.

use super::Execution;
use super::chunks::{Done, within};
use crate::domain::money::Rate;
use crate::domain::outcome::Counts;
use crate::domain::plan::{HourHash, plan_hash};
use crate::domain::window::{Trigger, Window};
use crate::service::Error;
use crate::store::{self, Wanted};

/// What no chunk of a run may do.
#[derive(Debug, Default)]
pub(super) struct Limits {
    /// The run's window, and a hash of the changes of each of its hours, oldest first.
    plan: Option<(Window, Vec<HourHash>)>,
    brake: Option<Brake>,
}

/// How much billed cost a routine run may take away.
#[derive(Debug, Clone)]
struct Brake {
    /// In percent of the window's billed cost before the run.
    percent: Rate,
    /// The counts that it was surveyed with, for that cost; none for a run of one chunk, whose
    /// own counts say it.
    surveyed: Option<Counts>,
    currency: String,
}

impl Limits {
    pub fn wanted(&self) -> Wanted {
        Wanted { hashes: self.plan.is_some(), ..Wanted::default() }
    }

    /// A chunk's changes are those of the plan.
    pub fn check_plan(&self, chunk: Window, hashes: &[HourHash]) -> Result<(), Error> {
        let Some((window, plan)) = &self.plan else { return Ok(()) };
        let hour =
            |time| usize::try_from(Window { start: window.start, end: time }.hour_count()).unwrap_or(0);
        match plan.get(hour(chunk.start)..hour(chunk.end)) == Some(hashes) {
            true => Ok(()),
            false => Err(Error::PlanChanged { now: None }),
        }
    }

    /// The run, with a chunk on top of what is committed, stays within the brake.
    pub fn check_decrease(&self, committed: &Done, with_chunk: &Done) -> Result<(), Error> {
        self.brake.as_ref().map_or(Ok(()), |brake| brake.check(committed, with_chunk))
    }
}

impl Brake {
    fn check(&self, committed: &Done, done: &Done) -> Result<(), Error> {
        let previous_cost = self.surveyed.as_ref().unwrap_or(&done.counts).previous_cost;
        let too_large = |_| Error::Store(store::Error::CostOutOfRange);
        if done.lost_cost <= previous_cost.percent(self.percent).map_err(too_large)? {
            return Ok(());
        }
        Err(Error::DecreaseRefused {
            lost_cost: done.lost_cost,
            previous_cost,
            currency: self.currency.clone(),
            percent: self.percent,
            // What is lost already is told as such.
            rollups: done.losing_rollups() - committed.losing_rollups(),
        })
    }
}

impl Execution<'_> {
    /// The run's limits; refuses it where the whole of it is past them already.
    pub(super) async fn survey(&self, chunks: &[Window], before: &Done) -> Result<Limits, Error> {
        let mut brake = self
            .rater
            .config
            .max_routine_decrease
            .filter(|_| self.run.trigger == Trigger::Routine)
            .map(|percent| Brake { percent, surveyed: None, currency: self.book.currency().into() });
        let planless = !self.run.plan_hash.is_empty() && self.legacy.plan.is_none();
        let mut plan = self.legacy.plan.clone();
        if planless || brake.is_some() && chunks.len() > 1 {
            let (all, hashes) = self.look_ahead(chunks, before, planless).await?;
            if let Some(brake) = &mut brake {
                brake.surveyed = Some(all.counts.clone());
                brake.check(before, &all)?;
            }
            if planless {
                let now = plan_hash(self.run.window, self.run.basis, self.book.digest(), &hashes);
                if now != self.run.plan_hash {
                    return Err(Error::PlanChanged { now: Some(now) });
                }
                self.rater.db.store_plan(&self.lease, &hashes).await?;
                plan = Some(hashes);
            }
        }
        Ok(Limits { plan: plan.map(|plan| (self.run.window, plan)), brake })
    }

    /// What the run will have done at its end, and the hash of each hour that is left to do.
    async fn look_ahead(
        &self,
        chunks: &[Window],
        before: &Done,
        hashes: bool,
    ) -> Result<(Done, Vec<HourHash>), Error> {
        let (mut all, mut newest_first) = (before.clone(), Vec::new());
        let wanted = Wanted { hashes, ..Wanted::default() };
        for chunk in chunks {
            let _slot = self.rater.slot().await?;
            self.rater.db.may_go_on(&self.lease).await?;
            let timeout = self.rater.config.chunk_timeout;
            let planning = self.rater.db.plan_chunk(*chunk, self.rules(), wanted, timeout);
            let planned = within(self.patience(), planning).await?;
            all = all.with(&planned.counts, planned.lost_cost)?;
            newest_first.extend(planned.hour_hashes.into_iter().rev());
        }
        newest_first.reverse();
        Ok((all, newest_first))
    }
}
