//! Retention of change records: what is older goes, in small steps with pauses, in whichever
//! service comes first. A consumer that has not read it is told so (`CURSOR_EXPIRED`).

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::store::{Db, Error};

/// From one look for old records to the next.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Records that a transaction deletes, and how long everybody else then has the database.
const CHANGES_A_STEP: i64 = 1_000;
const PAUSE: Duration = Duration::from_millis(20);

/// What was retired.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retired {
    /// Records.
    pub changes: u64,
    /// Batches.
    pub batches: u64,
}

/// Keeps no change record longer than `keep`, until `stop`.
pub async fn retire_changes(db: Db, keep: Duration, stop: CancellationToken) {
    loop {
        let mut retired = Retired::default();
        let ended = retire(&db, keep, &stop, &mut retired).await;
        let Retired { changes, batches } = retired;
        if changes > 0 {
            tracing::info!(changes, batches, "change records past their retention are retired");
        }
        if let Err(error) = ended {
            tracing::warn!(error = %error, "could not retire change records; trying again");
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Retires everything that is older than `keep` now, and counts it in `retired`.
pub async fn retire(
    db: &Db,
    keep: Duration,
    stop: &CancellationToken,
    retired: &mut Retired,
) -> Result<(), Error> {
    let mut in_hand = None;
    // A step is never left half-way: it would leave its connection inside a transaction.
    while !stop.is_cancelled() {
        let step = db.retire_step(keep, CHANGES_A_STEP, in_hand).await?;
        if step.done {
            break;
        }
        retired.changes += step.changes;
        retired.batches += step.batches;
        in_hand = step.in_hand;
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}
