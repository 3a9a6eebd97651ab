//! Runs whose process is gone. Every service looks for them: one whose pricebook is still the
//! loaded one goes on where it stood, and one that nobody can go on with is ended, with its
//! reason and the hours that it leaves.

use std::sync::Arc;
use std::time::Duration;

use super::Error;
use super::rate_window::Rater;
use super::report::Report;
use super::run::{Execution, tell_report};
use crate::domain::pricebook::Pricebook;
use crate::domain::run_state::RunState;
use crate::store::{self, Lease, Taken};

/// The longest time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(10);

impl Rater {
    /// Looks for runs without a process, for as long as the service lives.
    pub async fn sweep(self: Arc<Self>) {
        loop {
            if let Err(error) = self.take_over().await {
                tracing::warn!(error = %error, "could not look for abandoned runs");
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY.min(self.config.lease_ttl / 3)) => {}
                () = self.stop.cancelled() => return,
            }
        }
    }

    async fn take_over(self: &Arc<Self>) -> Result<(), store::Error> {
        if self.stop.is_cancelled() || !self.db.has_orphans().await? {
            return Ok(());
        }
        let book = self.pricebooks.current().book.clone();
        for taken in self.db.take_over(book.digest(), self.config.lease_ttl).await? {
            match taken {
                Taken::Ended(run_id) => self.tell_ended(&run_id).await,
                Taken::Resumed(lease) => {
                    let (rater, book) = (self.clone(), book.clone());
                    // How it ends is in its record, and told there.
                    self.runs.spawn(async move { drop(rater.resume(lease, &book).await) });
                }
            }
        }
        Ok(())
    }

    async fn resume(&self, lease: Lease, book: &Pricebook) -> Result<Report, Error> {
        tracing::info!(run_id = lease.run_id, "a run's process is gone; going on with it");
        let record = self.db.find_run(&lease.run_id).await?.ok_or(Error::Internal)?;
        let legacy = self.db.legacy(&lease.run_id).await?;
        Execution::resumed(self, &record, legacy, lease, book).finish().await
    }

    /// Tells a run that was ended without a process, with what its committed chunks had found.
    pub(super) async fn tell_ended(&self, run_id: &str) {
        match self.db.find_run(run_id).await {
            Ok(Some(record)) => {
                let (reason, message) = (&record.error_reason, &record.error_message);
                match record.state {
                    RunState::Cancelled => tracing::info!(run_id, "run cancelled; no process had it"),
                    _ => {
                        tracing::error!(run_id, reason, error = message, "a run without a process has failed")
                    }
                }
                let report = Report::of(&record);
                let took = record.finished_at.zip(record.started_at).map(|(end, start)| end - start);
                let took = took.and_then(|took| took.to_std().ok()).unwrap_or_default();
                super::run::count_end(&self.metrics, &report, took);
                tell_report(&self.metrics, &report);
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(run_id, error = %error, "the end of a run could not be read"),
        }
    }
}
