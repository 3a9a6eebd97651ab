//! Work that goes row by row over a whole table: batch by batch, each committed together with how
//! far the job is, with a pause in between for everybody else. Whatever the rows hold it ends: a batch
//! that fails over its rows is cut down to the row at fault, which is counted, told and passed over.
//! A process that is killed leaves a job that the next one goes on with; what fails is stored as
//! failed.

mod watch;

use std::future::Future;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio_util::sync::CancellationToken;

pub use self::watch::{JobReport, watch};
pub use crate::store::{Claimed, JobBatch, JobClaim, JobRecord, JobStart, JobStep};
use crate::store::{Db, Error};

/// Others get a fifth of the time at least, and a moment after the shortest batch.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long trouble that passes is waited out, and how often is looked whether it has.
const PATIENCE: Duration = Duration::from_secs(300);
const TRY_EVERY: Duration = Duration::from_millis(500);

/// A job's own part.
pub trait TableJob: Sync {
    /// The most rows in a batch.
    const MOST: i64;
    /// The longest that a statement of a batch may take.
    const TIMEOUT: Duration;
    /// So many rows in a row that can't be worked off are not a few bad ones any more, and it fails.
    const MOST_PASSED_OVER: Option<u32> = Some(1_000);

    /// Works off the next rows, at most so many.
    fn batch(&self, batch: &mut JobBatch, most: i64) -> impl Future<Output = Result<JobStep, Error>> + Send;

    /// Passes over what the next batch of one row would work off, and says why.
    fn pass_over(
        &self,
        batch: &mut JobBatch,
        why: &Error,
    ) -> impl Future<Output = Result<JobStep, Error>> + Send;

    /// Whether the batch that begins there can be smaller.
    fn divides(&self, _cursor: &Value) -> bool {
        true
    }
}

/// How the work on a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All of it is done.
    Done,
    /// It was told to stop; the next one goes on.
    Stopped,
}

/// Works at a job until it is done, it fails, or `stop` says so; a failure is stored.
pub async fn work<J: TableJob>(
    db: &Db,
    claim: JobClaim,
    job: &J,
    stop: &CancellationToken,
) -> Result<Ended, Error> {
    let mut ended = Work { db, claim, job, most: J::MOST, passed_over: 0 }.all(stop).await;
    // A job that has ended is nobody's, and the commit that ended it may have been ours.
    if !matches!(ended, Ok(Ended::Done)) && matches!(db.has_done_job(claim).await, Ok(true)) {
        ended = Ok(Ended::Done);
    }
    let stored = match &ended {
        Ok(Ended::Done) | Err(Error::LeaseLost) => Ok(()),
        Ok(Ended::Stopped) => db.leave_job(claim).await,
        Err(error) => db.fail_job(claim, &error.explained()).await,
    };
    if let Err(error) = stored {
        // The claim ends by itself, and the job is then seen to stand still.
        tracing::warn!(job = claim.job, error = %error, "could not write down how the work on a job ended");
    }
    ended
}

struct Work<'w, J> {
    db: &'w Db,
    claim: JobClaim,
    job: &'w J,
    most: i64,
    /// In a row.
    passed_over: u32,
}

impl<J: TableJob> Work<'_, J> {
    async fn all(&mut self, stop: &CancellationToken) -> Result<Ended, Error> {
        let mut well = Instant::now();
        // A batch is never left half-way: it would leave its connection inside a transaction.
        while !stop.is_cancelled() {
            let begun = Instant::now();
            match self.step().await {
                Ok(true) => return Ok(Ended::Done),
                Ok(false) => {
                    // What was only a try, or one bad row, is over soon.
                    let shortest = if self.most == J::MOST { SHORTEST_PAUSE } else { Duration::ZERO };
                    let pause = (begun.elapsed() / 4).clamp(shortest, LONGEST_PAUSE);
                    stop.run_until_cancelled(tokio::time::sleep(pause)).await;
                    well = Instant::now();
                }
                Err(error) if error.passes() && well.elapsed() < PATIENCE => {
                    tracing::info!(job = self.claim.job, error = %error, "a job waits for the database");
                    stop.run_until_cancelled(tokio::time::sleep(TRY_EVERY)).await;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Ended::Stopped)
    }

    /// One batch, or a try of one. Whether all is done.
    async fn step(&mut self) -> Result<bool, Error> {
        let mut batch = self.db.begin_batch(self.claim, J::TIMEOUT).await?;
        let cursor = batch.cursor.clone();
        let done = match self.job.batch(&mut batch, self.most).await {
            // Constraints that were put off speak here.
            Ok(step) => batch.commit(&step).await.map(|()| step.done),
            Err(error) => {
                drop(batch);
                Err(error)
            }
        };
        match done {
            Ok(done) => {
                (self.most, self.passed_over) = ((self.most * 2).min(J::MOST), 0);
                Ok(done)
            }
            Err(error) if error.is_about_rows() => {
                if self.most > 1 && self.job.divides(&cursor) {
                    self.most /= 2;
                    return Ok(false);
                }
                self.pass_over(error).await
            }
            Err(error) => Err(error),
        }
    }

    async fn pass_over(&mut self, why: Error) -> Result<bool, Error> {
        self.passed_over = self.passed_over.saturating_add(1);
        if J::MOST_PASSED_OVER.is_some_and(|most| self.passed_over > most) {
            return Err(why);
        }
        let detail = std::error::Error::source(&why).map(ToString::to_string).unwrap_or_default();
        tracing::warn!(job = self.claim.job, error = %why, detail, "a row can't be worked off and is passed over");
        let mut batch = self.db.begin_batch(self.claim, J::TIMEOUT).await?;
        let mut step = self.job.pass_over(&mut batch, &why).await?;
        step.why = Some(format!("a row was passed over: {}", why.explained()));
        batch.commit(&step).await?;
        Ok(step.done)
    }
}
