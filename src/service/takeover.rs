//! Runs whose process is gone. Every service looks for them: one whose pricebook is still the
//! loaded one goes on where it stood, and one that nobody can go on with is ended, with its
//! reason and the hours that it leaves.

use std::sync::Arc;
use std::time::Duration;

use super::Error;
use super::rate_window::Rater;
use super::run::Execution;
use crate::domain::pricebook::Pricebook;
use crate::domain::run_state::RunState;
use crate::store::{self, Lease, Legacy, RunRecord, Taken};
use crate::telemetry;

/// The longest time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(10);

impl Rater {
    /// Looks for runs without a process, for as long as the service lives.
    pub async fn sweep(self: Arc<Self>) {
        loop {
            if let Err(error) = self.look().await {
                tracing::warn!(error = %error, "could not look for abandoned runs");
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY.min(self.config.lease_ttl / 3)) => {}
                () = self.stop.cancelled() => return,
            }
        }
    }

    async fn look(self: &Arc<Self>) -> Result<(), store::Error> {
        self.take_over().await?;
        for run_id in self.db.untold_runs().await? {
            self.tell_ended(&run_id).await;
        }
        Ok(())
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
                    self.runs.spawn(async move { rater.resume(lease, &book).await });
                }
            }
        }
        Ok(())
    }

    async fn resume(&self, lease: Lease, book: &Pricebook) {
        tracing::info!(run_id = lease.run_id, "a run's process is gone; going on with it");
        match self.inherit(&lease.run_id).await {
            // How it ends is in its record, and told there.
            Ok((record, legacy)) => {
                let run = Execution::resumed(self, &record, legacy, lease, book).finish();
                drop(telemetry::following(record.traceparent.as_deref(), run).await);
            }
            // Its lease runs out again.
            Err(error) => tracing::warn!(run_id = lease.run_id, error = %error, "the run could not be read"),
        }
    }

    async fn inherit(&self, run_id: &str) -> Result<(RunRecord, Legacy), Error> {
        let record = self.db.find_run(run_id).await?.ok_or(Error::Internal)?;
        Ok((record, self.db.legacy(run_id).await?))
    }

    /// Tells a run that was ended without a process, with what its committed chunks had found.
    pub(super) async fn tell_ended(&self, run_id: &str) {
        let Some(record) = self.tell_run(run_id).await else { return };
        let (reason, error) = (&record.error_reason, &record.error_message);
        match record.state {
            RunState::Failed => {
                tracing::error!(run_id, reason, error, "a run without a process has failed");
            }
            state => tracing::info!(run_id, state = state.as_str(), "a run without a process has ended"),
        }
    }
}
