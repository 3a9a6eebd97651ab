//! Executing a run: chunk by chunk under its lease, newest first, until it is done, can't go on,
//! or is told to stop. Each chunk commits by itself; what is committed stays, and whoever goes
//! on with the run begins with the rest.
//!
//! The flow: `survey` looks at the whole of it first, where the run must keep to a plan or under
//! the brake; `chunks` does the work; [`Execution::finish`] says how it ended, and `tell` tells
//! it to the log and the metrics. Whoever ends a run tells its findings, all of them.

mod chunks;
pub(super) mod span;
mod survey;
mod tell;

use chrono::{DateTime, Utc};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument, Span};

use super::error::{Error, FailureReason, RunFailure};
use super::rate_window::Rater;
use super::report::Report;
use super::stored_text;
use crate::domain::pricebook::Pricebook;
use crate::domain::run_state::RunState;
use crate::domain::window::{RateBasis, Trigger, Window};
use crate::store::{self, Db, Failure, Lease, Leaves, Legacy, NewRun, RunRecord};
use crate::telemetry;
use chunks::{Done, Tracker};

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
}

impl<'a> Execution<'a> {
    /// Of a run that begins.
    pub fn new(rater: &'a Rater, run: &NewRun, lease: Lease, book: &'a Pricebook) -> Execution<'a> {
        let (legacy, before) = (Legacy::default(), Done::default());
        Execution { rater, run: run.into(), lease, book, legacy, before }
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
        Execution { rater, run: record.into(), lease, book, legacy, before }
    }

    /// Runs to the end, whatever it is, and tells it: to the log, the metrics, the trace and the
    /// caller.
    pub async fn finish(self) -> Result<Report, Error> {
        let span = span::run(&self.run, self.book);
        self.execute(&span).instrument(span.clone()).await
    }

    async fn execute(&self, span: &Span) -> Result<Report, Error> {
        let started = Instant::now();
        tell::tell_start(&self.run, self.book, self.legacy.committed.len());
        let left = self.run.window.without(&self.legacy.committed);
        let chunk_hours = self.rater.config.chunk_hours;
        let chunks: Vec<Window> = left.into_iter().flat_map(|gap| gap.chunks(chunk_hours)).collect();
        let heartbeat = AbortOnDropHandle::new(tokio::spawn(telemetry::carried(beat(
            self.rater.db.clone(),
            self.lease.clone(),
        ))));
        let tracker = Mutex::new(Tracker::new(self.run.window, chunks, self.before.clone()));
        let result = self.work(&tracker).await;
        drop(heartbeat);
        let tracker = tracker.into_inner();
        span::count(span, &tracker.done().counts, Some(tracker.done().lost_cost));
        span.record("rater.run.hours_committed", tracker.hours_done());
        match result {
            Ok(()) => {
                span.record("rater.run.state", RunState::Succeeded.as_str());
                self.rater.tell_run(&self.run.run_id).await;
                let (digest, currency) = (self.book.digest(), self.book.currency());
                let counts = tracker.done().counts.clone();
                let report = Report::new(&self.run, digest, currency, counts, RunState::Succeeded);
                tell::tell_success(&report, started.elapsed());
                Ok(report)
            }
            Err(error) => {
                let left = self.leave(error, &tracker).await;
                tell::trace_leave(span, &left);
                left
            }
        }
    }

    /// The run leaves this process before it is done: it has failed, was cancelled, or goes on
    /// elsewhere, or here, a little later.
    async fn leave(&self, error: Error, tracker: &Tracker) -> Result<Report, Error> {
        let mut failure = self.failure(&error, tracker);
        let leaves = match &error {
            Error::Store(store::Error::LeaseLost) => return self.taken_over(&error, failure).await,
            Error::Store(store::Error::CancelAsked) => Leaves::Cancelled,
            Error::ShuttingDown => Leaves::Waiting { fruitless: false },
            // The database's trouble is not the run's: it goes on when that has passed.
            Error::Store(store::Error::Unavailable(_) | store::Error::OutcomeUnknown(_)) => {
                Leaves::Waiting { fruitless: true }
            }
            _ => Leaves::Failed(Failure {
                reason: failure.reason.as_str(),
                message: &failure.message,
                refused_rollups: error.refused_rollups(),
            }),
        };
        let goes_on = matches!(leaves, Leaves::Waiting { .. });
        let left = self.rater.db.leave_run(&self.lease, &leaves).await;
        if let Ok(false) = left {
            // Between the error and here another process took it, or its last chunk is committed.
            return self.taken_over(&error, failure).await;
        }
        // Where it could not be recorded, its lease runs out, and another process goes on with it.
        failure.goes_on = goes_on || left.is_err();
        tell::tell_leave(&error, &failure);
        match left {
            Ok(_) if goes_on => {}
            Ok(_) => {
                self.rater.tell_run(&self.run.run_id).await;
            }
            Err(error) => {
                tracing::warn!(run_id = self.run.run_id, error = %error, "how the run ended could not be recorded");
            }
        }
        Err(Error::RunFailed(failure))
    }

    /// The lease is another's, or nobody's. What becomes of the run is decided elsewhere; if it has
    /// ended there, or by our last COMMIT, whose answer was lost, its caller gets that.
    async fn taken_over(&self, error: &Error, failure: RunFailure) -> Result<Report, Error> {
        match self.rater.db.find_run(&self.run.run_id).await {
            Ok(Some(record)) if record.state.is_finished() => {
                self.rater.tell_run(&self.run.run_id).await;
                recorded(&record)
            }
            _ => {
                tell::tell_taken_over(error, &failure);
                let (reason, goes_on) = (FailureReason::LeaseLost, true);
                Err(Error::RunFailed(RunFailure { reason, goes_on, ..failure }))
            }
        }
    }

    fn failure(&self, error: &Error, tracker: &Tracker) -> RunFailure {
        let run_id = &self.run.run_id;
        let text = error.to_string();
        RunFailure {
            run_id: run_id.clone(),
            reason: FailureReason::from(error),
            message: stored_text::stored(&text, MESSAGE_LIMIT, "error_message", run_id).to_owned(),
            hours_committed: tracker.hours_done(),
            left: tracker.left(),
            goes_on: false,
        }
    }
}

/// How a recorded run ended without its result, if it did.
fn recorded_failure(record: &RunRecord) -> Option<RunFailure> {
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
        goes_on: false,
    })
}

/// What a run has come to, or how it failed.
pub(super) fn recorded(record: &RunRecord) -> Result<Report, Error> {
    match recorded_failure(record) {
        Some(failure) => Err(Error::RunFailed(failure)),
        None => Ok(Report::of(record)),
    }
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
