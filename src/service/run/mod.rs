//! Executing a run: chunk by chunk under its lease, newest first, until it is done, can't go on,
//! or is told to stop. Each chunk commits by itself; what is committed stays, and whoever goes
//! on with the run begins with the rest.
//!
//! The flow: `survey` looks at the whole of it first, where the run must keep to a plan or under
//! the brake; `chunks` does the work; [`Execution::finish`] says how it ended, and `tell` tells
//! it to the log and the metrics. Whoever ends a run tells its findings, all of them.

mod chunks;
mod survey;
mod tell;

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::error::{Error, FailureReason, RunFailure};
use super::rate_window::Rater;
use super::report::Report;
use super::stored_text;
use crate::domain::outcome::{Counts, decrease_refused};
use crate::domain::pricebook::Pricebook;
use crate::domain::run_state::RunState;
use crate::domain::window::{RateBasis, Trigger, Window};
use crate::store::{self, Db, Failure, Lease, Leaves, Legacy, NewRun, RunRecord};
use chunks::{Done, Tracker};
pub(super) use tell::{count_end, tell_report};

/// What is kept of an error's text, in bytes.
const MESSAGE_LIMIT: usize = 1_000;

/// What a run is asked to do.
#[derive(Debug, Clone)]
pub(super) struct RunSpec {
    pub run_id: String,
    pub window: Window,
    pub trigger: Trigger,
    pub basis: RateBasis,
    /// The plan that it must keep to; empty: none.
    pub plan_hash: String,
}

impl From<&NewRun> for RunSpec {
    fn from(run: &NewRun) -> RunSpec {
        RunSpec {
            run_id: run.run_id.clone(),
            window: run.window,
            trigger: run.trigger,
            basis: run.basis,
            plan_hash: run.expected_plan_hash.clone().unwrap_or_default(),
        }
    }
}

impl From<&RunRecord> for RunSpec {
    fn from(record: &RunRecord) -> RunSpec {
        RunSpec {
            run_id: record.run_id.clone(),
            window: record.window,
            trigger: record.trigger,
            basis: record.basis,
            plan_hash: record.expected_plan_hash.clone().unwrap_or_default(),
        }
    }
}

/// A run in this process's hands.
pub(super) struct Execution<'a> {
    rater: &'a Rater,
    run: RunSpec,
    lease: Lease,
    book: &'a Pricebook,
    legacy: Legacy,
    before: Done,
    /// When this process took it over; `None` where it began it.
    resumed_at: Option<DateTime<Utc>>,
}

impl<'a> Execution<'a> {
    /// Of a run that begins.
    pub fn new(rater: &'a Rater, run: &NewRun, lease: Lease, book: &'a Pricebook) -> Execution<'a> {
        let (legacy, before) = (Legacy::default(), Done::default());
        Execution { rater, run: run.into(), lease, book, legacy, before, resumed_at: None }
    }

    /// Of one that another process began.
    pub fn resumed(
        rater: &'a Rater,
        record: &RunRecord,
        legacy: Legacy,
        lease: Lease,
        book: &'a Pricebook,
    ) -> Execution<'a> {
        let before = Done { counts: record.counts.clone(), lost_cost: record.lost_cost };
        Execution { rater, run: record.into(), lease, book, legacy, before, resumed_at: record.resumed_at }
    }

    /// Runs to the end, whatever it is, and tells it: to the log, the metrics and the caller.
    pub async fn finish(self) -> Result<Report, Error> {
        let started = Instant::now();
        tell::tell_start(&self.run, self.book, self.legacy.committed.len());
        let left = self.run.window.without(&self.legacy.committed);
        let chunk_hours = self.rater.config.chunk_hours;
        let chunks: Vec<Window> = left.into_iter().flat_map(|gap| gap.chunks(chunk_hours)).collect();
        let heartbeat = AbortOnDropHandle::new(tokio::spawn(beat(self.rater.db.clone(), self.lease.clone())));
        let tracker = Mutex::new(Tracker::new(self.run.window, chunks, self.before.clone()));
        let result = self.work(&tracker).await;
        drop(heartbeat);
        let tracker = tracker.into_inner();
        match result {
            Ok(()) => {
                let report = self.report(tracker.done().counts.clone(), RunState::Succeeded);
                self.tell_end(&report, started.elapsed());
                tell::tell_success(&report, started.elapsed());
                Ok(report)
            }
            Err(error) => self.leave(error, &tracker, started.elapsed()).await,
        }
    }

    fn report(&self, counts: Counts, state: RunState) -> Report {
        Report::new(&self.run, self.book, counts, state)
    }

    fn tell_end(&self, report: &Report, took: Duration) {
        count_end(&self.rater.metrics, report, took);
        tell_report(&self.rater.metrics, report);
    }

    /// The run leaves this process before it is done: it has failed, was cancelled, or goes on
    /// elsewhere.
    async fn leave(&self, error: Error, tracker: &Tracker, took: Duration) -> Result<Report, Error> {
        let failure = self.failure(&error, tracker);
        if let Error::Store(store::Error::LeaseLost) = error {
            return self.taken_over(&error, failure, took).await;
        }
        let (state, refused_rollups) = match failure.reason {
            FailureReason::RunCancelled => (RunState::Cancelled, None),
            FailureReason::ShuttingDown => (RunState::Pending, None),
            FailureReason::DecreaseRefused => (RunState::Failed, error.refused_rollups()),
            _ => (RunState::Failed, None),
        };
        let leaves = match state {
            RunState::Cancelled => Leaves::Cancelled,
            RunState::Pending => Leaves::Waiting,
            _ => {
                let (reason, message) = (failure.reason.as_str(), failure.message.as_str());
                Leaves::Failed(Failure { reason, message, refused_rollups })
            }
        };
        match self.rater.db.leave_run(&self.lease, &leaves).await {
            // Between the error and here another process took it, or its last chunk is committed.
            Ok(false) => return self.taken_over(&error, failure, took).await,
            Ok(true) => {
                tell::tell_leave(&error, &failure);
                if state.is_finished() {
                    self.tell_end(&self.ended(tracker, state, refused_rollups).await, took);
                }
            }
            // Its lease runs out, and another process, or this one, goes on with it.
            Err(unrecorded) => {
                tell::tell_leave(&error, &failure);
                let error = unrecorded;
                tracing::warn!(run_id = self.run.run_id, error = %error, "how the run ended could not be recorded");
            }
        }
        Err(Error::RunFailed(failure))
    }

    /// A run that this process has ended, from its record, which knows of a chunk whose COMMIT was
    /// done and not answered.
    async fn ended(&self, tracker: &Tracker, state: RunState, refused_rollups: Option<i64>) -> Report {
        if let Ok(Some(record)) = self.rater.db.find_run(&self.run.run_id).await {
            return Report::of(&record);
        }
        let mut report = self.report(tracker.done().counts.clone(), state);
        report.add(refused_rollups.map(decrease_refused));
        report
    }

    /// The lease is another's, or nobody's. What becomes of the run is decided elsewhere; if it has
    /// ended there, its caller gets that.
    async fn taken_over(&self, error: &Error, failure: RunFailure, took: Duration) -> Result<Report, Error> {
        match self.rater.db.find_run(&self.run.run_id).await {
            // Nobody took it over: it was our last COMMIT, whose answer was lost, that ended it.
            Ok(Some(record))
                if record.state == RunState::Succeeded && record.resumed_at == self.resumed_at =>
            {
                let report = Report::of(&record);
                self.tell_end(&report, took);
                tell::tell_success(&report, took);
                Ok(report)
            }
            Ok(Some(record)) if record.state.is_finished() => {
                tell::tell_taken_over(error, &failure);
                super::rate_window::recorded(&record)
            }
            _ => {
                tell::tell_taken_over(error, &failure);
                Err(Error::RunFailed(RunFailure { reason: FailureReason::LeaseLost, ..failure }))
            }
        }
    }

    fn failure(&self, error: &Error, tracker: &Tracker) -> RunFailure {
        let run_id = &self.run.run_id;
        let text = error.to_string();
        let left = tracker.left();
        RunFailure {
            run_id: run_id.clone(),
            reason: FailureReason::from(error),
            message: stored_text::stored(&text, MESSAGE_LIMIT, "error_message", run_id).to_owned(),
            hours_committed: tracker.hours_done(),
            left,
        }
    }
}

/// How a recorded run ended without its result, if it did.
pub(super) fn recorded_failure(record: &RunRecord) -> Option<RunFailure> {
    let (reason, message) = match record.state {
        RunState::Failed => (
            FailureReason::parse(record.error_reason.as_deref().unwrap_or_default()),
            record.error_message.clone().unwrap_or_default(),
        ),
        RunState::Cancelled => (FailureReason::RunCancelled, store::Error::CancelAsked.to_string()),
        RunState::Pending | RunState::Running | RunState::Cancelling | RunState::Succeeded => return None,
    };
    let left = |end: DateTime<Utc>| Window { start: record.window.start, end };
    Some(RunFailure {
        run_id: record.run_id.clone(),
        reason,
        message,
        hours_committed: record.progress.hours_done,
        left: record.remaining_end.filter(|end| *end > record.window.start).map(left),
    })
}

/// Renews the lease every third of its life, on a connection that work can't starve. A lease
/// that is lost shows in the next chunk's first step; nothing is decided here.
async fn beat(db: Db, lease: Lease) {
    loop {
        tokio::time::sleep(lease.ttl / 3).await;
        match db.renew(&lease).await {
            Ok(()) => {}
            Err(store::Error::LeaseLost) => {
                tracing::warn!(run_id = lease.run_id, "the lease is lost");
                return;
            }
            Err(error) => tracing::warn!(run_id = lease.run_id, error = %error, "the lease was not renewed"),
        }
    }
}
