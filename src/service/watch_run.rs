//! WatchRun: a run as it goes, to its end. Each watch looks at the record itself, so that it
//! sees a run of any process, and a takeover; what a client is slow to take is left out, never
//! kept for it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::error::Error;
use super::runs::{self, Run};
use crate::store::{self, Db, RunRecord};

/// From one look to the next.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A client hears at least this often: that the run is alive, and how long it may take.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// How long looks may fail before the watch ends; the run itself may outlive an outage.
const OUTAGE_LIMIT: Duration = Duration::from_secs(30);

/// Watches runs, so many at a time and no more.
#[derive(Debug, Clone)]
pub struct Watchers {
    db: Db,
    stop: CancellationToken,
    admission: Arc<Semaphore>,
}

impl Watchers {
    /// At most `limit` at a time, until `stop`.
    pub fn new(db: Db, stop: CancellationToken, limit: usize) -> Watchers {
        Watchers { db, stop, admission: Arc::new(Semaphore::new(limit)) }
    }

    /// Begins to watch a run. [`Error::RunNotFound`]: there is none of this id.
    pub async fn watch(&self, run_id: &str) -> Result<Watch, Error> {
        let admitted = self.admission.clone().try_acquire_owned().map_err(|_| Error::Overloaded)?;
        let found = runs::find(&self.db, run_id).await?;
        Ok(Watch {
            db: self.db.clone(),
            stop: self.stop.clone(),
            run_id: run_id.to_owned(),
            found: Some(found),
            told: None,
            _admitted: admitted,
        })
    }
}

/// A run that is watched.
#[derive(Debug)]
pub struct Watch {
    db: Db,
    stop: CancellationToken,
    run_id: String,
    /// By the first look, and not told yet.
    found: Option<RunRecord>,
    /// What was told last, and when.
    told: Option<(RunRecord, Instant)>,
    _admitted: OwnedSemaphorePermit,
}

impl Watch {
    /// The run at once, then when it has changed or nothing was told for a while; `None` after
    /// its end was told. An error is the end, too. Dropping the future loses no change.
    pub async fn next(&mut self) -> Result<Option<Run>, Error> {
        if self.told.as_ref().is_some_and(|(run, _)| run.state.is_finished()) {
            return Ok(None);
        }
        loop {
            let record = match self.found.take() {
                Some(found) => found,
                None => tokio::select! {
                    biased;
                    () = self.stop.cancelled() => return Err(Error::ShuttingDown),
                    record = look(&self.db, &self.run_id) => record?,
                },
            };
            let silent = self.told.as_ref().filter(|(told, _)| *told == record).map(|(_, at)| at.elapsed());
            if silent.is_none_or(|silent| silent >= TELL_EVERY) {
                self.told = Some((record.clone(), Instant::now()));
                return Ok(Some(Run::of(record)));
            }
        }
    }
}

/// The record at the next look, or once the database is back.
async fn look(db: &Db, run_id: &str) -> Result<RunRecord, Error> {
    let mut failing_since = None;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        match db.find_run(run_id).await {
            Ok(record) => return record.ok_or(Error::RunNotFound),
            Err(error @ (store::Error::Unavailable(_) | store::Error::Cancelled(_))) => {
                let since = *failing_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= OUTAGE_LIMIT {
                    return Err(error.into());
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}
