//! Executing a run: chunk by chunk under its lease, newest first, until it is done, fails, or
//! the service stops. Each chunk commits by itself; what is committed stays.

use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;

use super::error::{Error, FailureReason, RunFailure};
use super::rate_window::Rater;
use super::report::Report;
use super::stored_text;
use crate::domain::outcome::{Counts, Severity};
use crate::domain::pricebook::Pricebook;
use crate::domain::run_state::RunState;
use crate::domain::window::Window;
use crate::metrics::RunEvents;
use crate::store::{self, Db, Lease, NewRun, Rules, RunRecord, Wanted};

/// What is kept of an error's text, in bytes.
const MESSAGE_LIMIT: usize = 1_000;

/// A run in flight.
pub(super) struct Execution<'a> {
    pub rater: &'a Rater,
    pub run: &'a NewRun,
    pub lease: Lease,
    pub pricebook: &'a Pricebook,
}

impl Execution<'_> {
    /// Runs to the end, whatever it is, and tells it: to the log, the metrics and the caller.
    pub async fn finish(self) -> Result<Report, Error> {
        let run = self.run;
        let started = tokio::time::Instant::now();
        tracing::info!(
            run_id = run.run_id,
            since = %super::rfc3339(run.window.start),
            until = %super::rfc3339(run.window.end),
            trigger = run.trigger.as_str(),
            rate_basis = run.basis.as_str(),
            pricebook_digest = run.pricebook_digest,
            "run started"
        );
        let mut progress = Progress { counts: Counts::default(), end: run.window.end };
        let heartbeat = AbortOnDropHandle::new(tokio::spawn(beat(self.rater.db.clone(), self.lease.clone())));
        let result = self.rate_chunks(&mut progress).await;
        drop(heartbeat);
        self.rater.metrics.run_finished(
            run.trigger.as_str(),
            if result.is_ok() { "succeeded" } else { "failed" },
            started.elapsed(),
            chrono::Utc::now().timestamp(),
        );
        // What is committed stays, and a repeat does not find it again: it is told in either case.
        let ended = if result.is_ok() { RunState::Succeeded } else { RunState::Failed };
        let report = Report::new(run, progress.counts.clone(), ended);
        self.tell_findings(&report);
        match result {
            Ok(()) => {
                tell_success(&report, started.elapsed());
                Ok(report)
            }
            Err(error) => Err(Error::RunFailed(self.fail(error, progress).await)),
        }
    }

    async fn rate_chunks(&self, progress: &mut Progress) -> Result<(), Error> {
        let window = self.run.window;
        for chunk in window.chunks(self.rater.config.chunk_hours) {
            let left =
                (chunk.start > window.start).then_some(Window { start: window.start, end: chunk.start });
            let counts = self.rate_chunk(chunk, left).await?;
            progress.end = chunk.start;
            progress.counts =
                progress.counts.plus(&counts).map_err(|_| Error::Store(store::Error::CostOutOfRange))?;
        }
        Ok(())
    }

    async fn rate_chunk(&self, chunk: Window, left: Option<Window>) -> Result<Counts, Error> {
        // A stop first: what waits for its turn must not begin when the service ends.
        let _slot = tokio::select! {
            biased;
            () = self.rater.stop.cancelled() => return Err(Error::ShuttingDown),
            slot = self.rater.chunks.acquire() => slot.map_err(|_| Error::ShuttingDown)?,
        };
        let mut open = self.rater.db.begin_chunk(&self.lease, chunk, self.rater.config.chunk_timeout).await?;
        let rules = Rules { book: self.pricebook, trigger: self.run.trigger, basis: self.run.basis };
        let rated = open.rate(rules, Wanted::default()).await?;
        open.commit(&rated, left).await?;
        let counts = rated.counts;
        tracing::debug!(
            run_id = self.run.run_id,
            since = %super::rfc3339(chunk.start),
            until = %super::rfc3339(chunk.end),
            events = counts.events,
            rollups = counts.rollups(),
            "chunk committed"
        );
        Ok(counts)
    }

    /// R9: the log and the metrics follow the findings, and so do the response and the exit code.
    fn tell_findings(&self, report: &Report) {
        let (run_id, trigger, counts) = (&report.run_id, report.trigger.as_str(), &report.counts);
        let metrics = &self.rater.metrics;
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

    async fn fail(&self, error: Error, progress: Progress) -> RunFailure {
        let window = self.run.window;
        let run_id = &self.run.run_id;
        let reason = FailureReason::from(&error);
        let source = std::error::Error::source(&error).map(|s| format!("{s:?}")).unwrap_or_default();
        tracing::error!(run_id, reason = reason.as_str(), error = %error, source, "run failed");
        let text = error.to_string();
        let message = stored_text::stored(&text, MESSAGE_LIMIT, "error_message", run_id).to_owned();
        let recorded = self.rater.db.fail_run(&self.lease, reason.as_str(), &message, progress.end).await;
        if let Err(error) = recorded {
            // Its lease runs out, and the sweep then ends the record.
            tracing::warn!(run_id, error = %error, "the failure could not be recorded yet");
        }
        RunFailure {
            run_id: run_id.clone(),
            reason,
            message,
            hours_committed: (window.end - progress.end).num_hours(),
            left: left(window, Some(progress.end)),
        }
    }
}

fn tell_success(report: &Report, took: Duration) {
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

/// What is committed so far: everything from `end` on.
struct Progress {
    counts: Counts,
    end: chrono::DateTime<chrono::Utc>,
}

fn left(window: Window, end: Option<chrono::DateTime<chrono::Utc>>) -> Option<Window> {
    end.filter(|end| *end > window.start).map(|end| Window { start: window.start, end })
}

/// How a recorded run failed, if it did.
pub(super) fn recorded_failure(record: &RunRecord) -> Option<RunFailure> {
    Some(RunFailure {
        run_id: record.run_id.clone(),
        reason: FailureReason::parse(record.error_reason.as_deref()?),
        message: record.error_message.clone().unwrap_or_default(),
        hours_committed: record.progress.hours_done,
        left: left(record.window, record.remaining_end),
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
