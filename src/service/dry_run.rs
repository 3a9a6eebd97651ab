//! A dry run: what a run would do, chunk by chunk, to the money. It takes no lease, writes
//! nothing and leaves nothing behind; its answer is all there is.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::error::{Error, FailureReason};
use super::rate_window::{RateRequest, Rater};
use super::report::Report;
use super::run::{RunSpec, span};
use crate::domain::money::MoneyError;
use crate::domain::outcome::Counts;
use crate::domain::plan::{Breakdown, HourHash, plan_hash};
use crate::domain::pricebook::Pricebook;
use crate::domain::run_state::RunState;
use crate::store::{self, Rated, Rules, Wanted};
use crate::telemetry;

/// The largest changes that an answer names, of models and of customers.
const NAMED: usize = 1_000;

/// What the chunks so far come to.
#[derive(Default)]
struct Sum {
    counts: Counts,
    newest_first: Vec<HourHash>,
    by_model: Breakdown,
    by_auth_id: Breakdown,
}

impl Sum {
    fn add(&mut self, planned: Rated) -> Result<(), MoneyError> {
        self.counts = self.counts.plus(&planned.counts)?;
        self.newest_first.extend(planned.hour_hashes.into_iter().rev());
        self.by_model.add(planned.by_model)?;
        self.by_auth_id.add(planned.by_auth_id)
    }

    fn report(mut self, run: &mut RunSpec, book: &Pricebook) -> Result<Report, MoneyError> {
        self.newest_first.reverse();
        run.plan_hash = plan_hash(run.window, run.basis, book.digest(), &self.newest_first);
        let report = Report::new(run, book.digest(), book.currency(), self.counts, RunState::Succeeded);
        Ok(Report {
            dry_run: true,
            changes_by_model: self.by_model.largest(NAMED)?,
            changes_by_auth_id: self.by_auth_id.largest(NAMED)?,
            ..report
        })
    }
}

impl Rater {
    /// Plans a run; stops between two chunks when `stop` says so.
    pub(super) async fn dry_run(
        &self,
        request: RateRequest,
        stop: CancellationToken,
    ) -> Result<Report, Error> {
        let loaded = self.pricebooks.current().book.clone();
        let decided = self.decide(&request, &loaded).await?;
        let book = match request.pricebook_yaml.is_empty() {
            true => loaded,
            false => Arc::new(self.pricebooks.candidate(request.pricebook_yaml).await?),
        };
        let mut run = RunSpec {
            run_id: String::new(),
            window: decided.window,
            trigger: decided.trigger,
            basis: decided.basis,
            plan_hash: String::new(),
        };
        let span = span::run(&run, &book);
        let planned = self.plan_chunks(&mut run, &book, &stop).instrument(span.clone()).await;
        match &planned {
            Ok(report) => {
                span::count(&span, &report.counts, None);
                let plan_hash = report.plan_hash.clone().into();
                telemetry::describe(&span, [("rater.plan.hash", plan_hash)]);
            }
            Err(error) => span::fail(&span, FailureReason::from(error).as_str(), true),
        }
        planned
    }

    async fn plan_chunks(
        &self,
        run: &mut RunSpec,
        book: &Pricebook,
        stop: &CancellationToken,
    ) -> Result<Report, Error> {
        let rules = Rules { book, trigger: run.trigger, basis: run.basis };
        let wanted = Wanted { hashes: true, details: true, audit: false };
        let too_large = |_| Error::Store(store::Error::CostOutOfRange);
        let mut sum = Sum::default();
        for chunk in run.window.chunks(self.config.chunk_hours) {
            let _slot = self.plan_slot(stop).await?;
            let plan = self.db.plan_chunk(chunk, rules, wanted, self.config.chunk_timeout);
            let span = span::chunk(chunk);
            let planned = plan.instrument(span.clone()).await?;
            span::count(&span, &planned.counts, Some(planned.lost_cost));
            sum.add(planned).map_err(too_large)?;
        }
        let report = sum.report(run, book).map_err(too_large)?;
        tracing::info!(
            since = %super::rfc3339(run.window.start),
            until = %super::rfc3339(run.window.end),
            pricebook_digest = book.digest(),
            plan_hash = report.plan_hash,
            previous_cost = %report.counts.previous_cost,
            total_cost = %report.counts.total_cost,
            "dry run"
        );
        Ok(report)
    }
}
