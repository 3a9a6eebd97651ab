//! Calls that look through whole windows, so many at a time: pages and followers always find a
//! connection beside them.

use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

use super::error::Error;
use crate::store::Db;

/// How long a call waits for its turn.
const PATIENCE: Duration = Duration::from_secs(10);

/// The turns of such calls.
#[derive(Debug)]
pub struct Scans(Semaphore);

impl Scans {
    /// For half of the connections that reads have.
    pub fn of(db: &Db) -> Scans {
        Scans(Semaphore::new((db.read_connections() / 2).max(1)))
    }

    /// Waits for a turn, in the order of asking. [`Error::Overloaded`]: it takes too long.
    pub(super) async fn turn(&self) -> Result<SemaphorePermit<'_>, Error> {
        let turn = tokio::time::timeout(PATIENCE, self.0.acquire()).await;
        turn.map_err(|_| Error::Overloaded)?.map_err(|_| Error::Internal)
    }
}
