//! What a run says, and where: the log and the metrics. R9: both follow the findings, and so do
//! the response and the exit code.

use std::error::Error as _;
use std::time::Duration;

use tracing::Span;

use super::{RunSpec, span};
use crate::domain::outcome::Severity;
use crate::domain::pricebook::Pricebook;
use crate::domain::run_state::RunState;
use crate::metrics::{Metrics, RunEvents};
use crate::service::error::{Error, FailureReason, RunFailure};
use crate::service::rate_window::Rater;
use crate::service::report::Report;
use crate::service::rfc3339;
use crate::store::{self, RunRecord};
use crate::telemetry;

pub(super) fn tell_start(run: &RunSpec, book: &Pricebook, chunks_before: usize) {
    tracing::info!(
        run_id = run.run_id,
        since = %rfc3339(run.window.start),
        until = %rfc3339(run.window.end),
        trigger = run.trigger.as_str(),
        rate_basis = run.basis.as_str(),
        pricebook_digest = book.digest(),
        plan_hash = run.plan_hash,
        chunks_before,
        "run started"
    );
}

impl Rater {
    /// Tells what a run that has ended found, all of it, once in all processes: whoever gets to it
    /// first takes it. What nobody gets to, the sweep does.
    pub(in crate::service) async fn tell_run(&self, run_id: &str) -> Option<RunRecord> {
        match self.claim(run_id).await {
            Ok(record) => record.inspect(|record| {
                telemetry::inside(record.traceparent.as_deref(), || tell_record(&self.metrics, record));
            }),
            Err(error) => {
                tracing::warn!(run_id, error = %error, "what the run found is not told yet");
                None
            }
        }
    }

    async fn claim(&self, run_id: &str) -> Result<Option<RunRecord>, store::Error> {
        match self.db.claim_telling(run_id).await? {
            true => self.db.find_run(run_id).await,
            false => Ok(None),
        }
    }
}

fn tell_record(metrics: &Metrics, record: &RunRecord) {
    let report = Report::of(record);
    let (run_id, trigger, counts) = (&report.run_id, report.trigger.as_str(), &report.counts);
    let ended = record.finished_at.unwrap_or(record.created_at);
    let took = (ended - record.started_at.unwrap_or(ended)).to_std().unwrap_or_default();
    metrics.run_finished(trigger, report.state.as_str(), took);
    let events = RunEvents {
        rated: counts.rated_events,
        unpriced: counts.unpriced_events,
        unattributable: counts.unattributable_events,
        ambiguous_base: counts.ambiguous_base_events,
        malformed: counts.malformed_events,
    };
    metrics.run_events(trigger, events);
    for finding in &report.findings {
        let (code, severity) = (finding.code.as_str(), finding.severity.as_str());
        metrics.finding(code, severity, trigger, finding.count);
        let (count, message) = (finding.count, &finding.message);
        match finding.severity {
            Severity::Error => tracing::error!(run_id, trigger, code, count, message),
            Severity::Warning => tracing::warn!(run_id, trigger, code, count, message),
            Severity::Info => tracing::info!(run_id, trigger, code, count, message),
        }
    }
}

pub(super) fn tell_success(report: &Report, took: Duration) {
    let (run_id, trigger, counts) = (&report.run_id, report.trigger.as_str(), &report.counts);
    tracing::info!(
        run_id,
        trigger,
        events = counts.events,
        rated_events = counts.rated_events,
        inserted = counts.inserted_rollups,
        updated = counts.updated_rollups,
        unchanged = counts.unchanged_rollups,
        deleted = counts.reconciled_deletions,
        previous_cost = %counts.previous_cost,
        total_cost = %counts.total_cost,
        currency = report.currency,
        milliseconds = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        "run succeeded"
    );
}

/// The run has left this process for another, or for nobody yet.
pub(super) fn tell_taken_over(error: &Error, failure: &RunFailure) {
    let source = source(error);
    let (run_id, hours) = (&failure.run_id, failure.hours_committed);
    tracing::warn!(run_id, error = %error, source, hours_committed = hours, "the run is in other hands");
}

/// The run leaves this process; the error's own text stays here.
pub(super) fn tell_leave(error: &Error, failure: &RunFailure) {
    let (run_id, reason, hours) = (&failure.run_id, failure.reason.as_str(), failure.hours_committed);
    match failure.reason {
        FailureReason::ShuttingDown => {
            tracing::info!(
                run_id,
                hours_committed = hours,
                "the service stops; another process goes on with the run"
            );
        }
        FailureReason::RunCancelled => tracing::info!(run_id, hours_committed = hours, "run cancelled"),
        _ if failure.goes_on => {
            let source = source(error);
            tracing::warn!(run_id, reason, error = %error, source, hours_committed = hours, "the run waits to go on");
        }
        _ => {
            let source = source(error);
            tracing::error!(run_id, reason, error = %error, source, hours_committed = hours, "run failed");
        }
    }
}

/// How the run left this process, short of its end, or what was found at its end.
pub(super) fn trace_leave(span: &Span, left: &Result<Report, Error>) {
    let state = match left {
        Ok(report) => report.state,
        Err(Error::RunFailed(failure)) => {
            let cancelled = failure.reason == FailureReason::RunCancelled;
            span::fail(span, failure.reason.as_str(), !cancelled && !failure.goes_on);
            match failure.goes_on {
                true => RunState::Pending,
                false if cancelled => RunState::Cancelled,
                false => RunState::Failed,
            }
        }
        Err(_) => RunState::Failed,
    };
    span.record("rater.run.state", state.as_str());
}

fn source(error: &Error) -> String {
    match error {
        Error::Store(error) => error.detail(),
        error => error.source().map(|source| format!("{source:?}")).unwrap_or_default(),
    }
}
