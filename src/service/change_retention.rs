//! Retention of change records: what is older goes, as a job in small batches with pauses, in
//! whichever process comes first. A consumer that has not read it is told so (`CURSOR_EXPIRED`).

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::table_jobs::{self, Claimed, Ended, JobBatch, JobStart, JobStep, TableJob};
use crate::store::{Db, Error, InHand, RetireStep};

/// The job's name.
pub const JOB: &str = "change_retention";

/// From one look for old records to the next, and to one where another process is at it.
const LOOK_EVERY: Duration = Duration::from_secs(60);
const LOOK_AFTER_OTHERS: Duration = Duration::from_secs(2);

/// How long records are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Retention {
    keep: Duration,
}

/// Where the next batch begins.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Cursor {
    in_hand: Option<InHand>,
}

/// What a look for old records led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retired {
    /// All that was old is gone.
    Done,
    /// Nothing was old.
    Nothing,
    /// Another process is at it.
    Busy,
    /// It was told to stop half-way.
    Stopped,
}

impl TableJob for Retention {
    /// A transaction deletes so many at most, and everybody else then has the database.
    const MOST: i64 = 1_000;
    const TIMEOUT: Duration = Duration::from_secs(10);

    async fn batch(&self, batch: &mut JobBatch, most: i64) -> Result<JobStep, Error> {
        let in_hand = in_hand(batch);
        Ok(step(batch.retire(self.keep, most, in_hand).await?))
    }

    async fn pass_over(&self, batch: &mut JobBatch, _: &Error) -> Result<JobStep, Error> {
        let in_hand = in_hand(batch);
        Ok(step(batch.pass_over_change(self.keep, in_hand).await?))
    }
}

/// A place that nobody understands is as good as none: the mark knows how far it is.
fn in_hand(batch: &JobBatch) -> Option<InHand> {
    serde_json::from_value::<Cursor>(batch.cursor.clone()).unwrap_or_default().in_hand
}

fn step(retired: RetireStep) -> JobStep {
    let RetireStep { records, kept, in_hand, done } = retired;
    JobStep { rows: records, passed_over: kept, cursor: json!(Cursor { in_hand }), done, why: None }
}

/// Keeps no change record longer than `keep`, until `stop`.
pub async fn retire_changes(db: Db, keep: Duration, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let pause = match retire(&db, keep, &stop).await {
            Ok(Retired::Busy) => LOOK_AFTER_OTHERS,
            Ok(Retired::Done) => {
                tracing::info!("change records past their retention are retired");
                LOOK_EVERY
            }
            Ok(_) => LOOK_EVERY,
            Err(error) => {
                tracing::warn!(error = %error, "could not retire change records; trying again");
                LOOK_EVERY
            }
        };
        stop.run_until_cancelled(tokio::time::sleep(pause)).await;
    }
}

/// Retires everything that is older than `keep` now, and what another process left half-way.
pub async fn retire(db: &Db, keep: Duration, stop: &CancellationToken) -> Result<Retired, Error> {
    let rows = db.changes_to_retire(keep).await?;
    let open =
        db.jobs().await?.iter().any(|job| job.job == JOB && ["running", "failed"].contains(&&*job.state));
    if rows == 0 && !open {
        return Ok(Retired::Nothing);
    }
    let parameters = json!({ "keep_seconds": keep.as_secs() });
    let start = JobStart {
        job: JOB,
        parameters: &parameters,
        adapts: true,
        rows_all: rows,
        anew: false,
        audits: false,
    };
    let claim = match db.claim_job(&start).await? {
        Claimed::Begun(claim) | Claimed::Resumed(claim) => claim,
        Claimed::Busy | Claimed::Other => return Ok(Retired::Busy),
    };
    match table_jobs::work(db, claim, &Retention { keep }, stop).await {
        Ok(Ended::Done) => Ok(Retired::Done),
        Ok(Ended::Stopped) => Ok(Retired::Stopped),
        // It goes on in the process that took it over.
        Err(Error::LeaseLost) => Ok(Retired::Busy),
        Err(error) => Err(error),
    }
}
