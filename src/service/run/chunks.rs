//! The work itself: chunks, newest first, some of them side by side. A chunk costs what its
//! events cost: which hours are next is known here, and nothing is read again to find out.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{Mutex, Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};

use super::survey::Limits;
use super::{Execution, span};
use crate::domain::money::Money;
use crate::domain::outcome::Counts;
use crate::domain::window::Window;
use crate::service::rate_window::Rater;
use crate::service::{Error, FailureReason};
use crate::store::{self, Chunk, Rated, Rules};

/// What is committed, by whichever process.
#[derive(Debug, Clone, Default)]
pub(super) struct Done {
    pub counts: Counts,
    /// What deleted and shrunk rollups lost.
    pub lost_cost: Money,
}

impl Done {
    /// With a chunk, or a survey, on top.
    pub fn with(&self, counts: &Counts, lost_cost: Money) -> Result<Done, Error> {
        let too_large = |_| Error::Store(store::Error::CostOutOfRange);
        Ok(Done {
            counts: self.counts.plus(counts).map_err(too_large)?,
            lost_cost: self.lost_cost.plus(lost_cost).map_err(too_large)?,
        })
    }

    /// Those that were deleted or have shrunk.
    pub fn losing_rollups(&self) -> i64 {
        self.counts.reconciled_deletions + self.counts.shrunk_rollups
    }
}

/// Which chunks are done, which are in flight, and which nobody has begun.
pub(super) struct Tracker {
    window: Window,
    /// Newest first.
    chunks: Vec<Window>,
    next: usize,
    in_flight: Vec<Window>,
    done: Done,
    halted: bool,
}

impl Tracker {
    pub fn new(window: Window, chunks: Vec<Window>, done: Done) -> Tracker {
        Tracker { window, chunks, next: 0, in_flight: Vec::new(), done, halted: false }
    }

    /// Those that nobody has begun.
    pub fn waiting(&self) -> &[Window] {
        &self.chunks[self.next..]
    }

    pub fn done(&self) -> &Done {
        &self.done
    }

    /// Hours committed; what is left may lie between them.
    pub fn hours_done(&self) -> i64 {
        let undone = self.waiting().iter().chain(&self.in_flight);
        self.window.hour_count() - undone.map(|chunk| chunk.hour_count()).sum::<i64>()
    }

    fn begin(&mut self) -> Option<Window> {
        let chunk = self.waiting().first().copied().filter(|_| !self.halted)?;
        self.next += 1;
        self.in_flight.push(chunk);
        Some(chunk)
    }

    /// From the window's start to the end of the newest hour that is not committed.
    pub fn left(&self) -> Option<Window> {
        self.left_without(None)
    }

    fn left_without(&self, chunk: Option<Window>) -> Option<Window> {
        let undone = self.in_flight.iter().chain(self.waiting().first());
        let end = undone.filter(|other| chunk != Some(**other)).map(|other| other.end).max()?;
        Some(Window { start: self.window.start, end })
    }

    fn commit(&mut self, chunk: Window, done: Done) {
        self.in_flight.retain(|other| *other != chunk);
        self.done = done;
    }
}

impl Execution<'_> {
    pub(super) async fn work(&self, tracker: &Mutex<Tracker>) -> Result<(), Error> {
        let limits = {
            let tracker = tracker.lock().await;
            self.survey(tracker.waiting(), tracker.done()).await?
        };
        if tracker.lock().await.waiting().is_empty() {
            return Ok(self.rater.db.complete_run(&self.lease).await?);
        }
        let workers = self.rater.config.parallel.get();
        let results = join_all((0..workers).map(|_| self.work_through(tracker, &limits))).await;
        results.into_iter().collect()
    }

    /// One after the other, until there is none left or one of them fails.
    async fn work_through(&self, tracker: &Mutex<Tracker>, limits: &Limits) -> Result<(), Error> {
        loop {
            let Some(chunk) = tracker.lock().await.begin() else { return Ok(()) };
            let span = span::chunk(chunk);
            let rated = self.rate_chunk(chunk, tracker, limits).instrument(span.clone()).await;
            if let Err(error) = rated {
                let reason = FailureReason::from(&error);
                let asked = matches!(reason, FailureReason::RunCancelled | FailureReason::ShuttingDown);
                span::fail(&span, reason.as_str(), !asked);
                // Those in flight still commit; no other begins.
                tracker.lock().await.halted = true;
                return Err(error);
            }
        }
    }

    async fn rate_chunk(
        &self,
        chunk: Window,
        tracker: &Mutex<Tracker>,
        limits: &Limits,
    ) -> Result<(), Error> {
        let _slot = self.rater.slot().await?;
        if tracker.lock().await.halted {
            return Ok(());
        }
        let (open, rated) = within(self.patience(), self.begin_and_rate(chunk, limits)).await?;
        limits.check_plan(chunk, &rated.hour_hashes)?;
        // One S3 at a time, so that each knows what the others have left.
        let mut tracker = tracker.lock().await;
        let done = tracker.done.with(&rated.counts, rated.lost_cost)?;
        limits.check_decrease(tracker.done(), &done)?;
        within(self.patience(), open.commit(&rated, tracker.left_without(Some(chunk)))).await?;
        tracker.commit(chunk, done);
        span::count(&Span::current(), &rated.counts, Some(rated.lost_cost));
        self.tell_chunk(chunk, &rated);
        Ok(())
    }

    /// S1 and S2.
    async fn begin_and_rate(&self, chunk: Window, limits: &Limits) -> Result<(Chunk, Rated), store::Error> {
        let timeout = self.rater.config.chunk_timeout;
        let mut open = self.rater.db.begin_chunk(&self.lease, chunk, timeout).await?;
        let rated = open.rate(self.rules(), limits.wanted()).await?;
        Ok((open, rated))
    }

    /// Longer than the server lets a statement take: past it the connection is lost, and nobody has
    /// told us.
    pub(super) fn patience(&self) -> Duration {
        self.rater.config.chunk_timeout + Duration::from_secs(60)
    }

    pub(super) fn rules(&self) -> Rules<'_> {
        Rules { book: self.book, trigger: self.run.trigger, basis: self.run.basis }
    }

    fn tell_chunk(&self, chunk: Window, rated: &Rated) {
        tracing::debug!(
            run_id = self.run.run_id,
            since = %crate::service::rfc3339(chunk.start),
            until = %crate::service::rfc3339(chunk.end),
            events = rated.counts.events,
            rollups = rated.counts.rollups(),
            "chunk committed"
        );
    }
}

impl Rater {
    /// A turn for one chunk, in the order of asking: between its chunks a run lets others go
    /// first.
    pub(in crate::service) async fn slot(&self) -> Result<SemaphorePermit<'_>, Error> {
        turn(&self.chunks, &self.stop).await
    }

    /// The same for a chunk that is only planned: these have turns of their own, and no run waits
    /// for one.
    pub(in crate::service) async fn plan_slot(
        &self,
        stop: &CancellationToken,
    ) -> Result<SemaphorePermit<'_>, Error> {
        turn(&self.plans, stop).await
    }
}

/// A step of a chunk, in bounded time: a heartbeat would keep the lease of one that hangs for ever.
pub(super) async fn within<T>(
    patience: Duration,
    step: impl Future<Output = Result<T, store::Error>>,
) -> Result<T, store::Error> {
    match tokio::time::timeout(patience, step).await {
        Ok(result) => result,
        // The step may have been done: nobody knows.
        Err(_) => Err(store::Error::no_answer()),
    }
}

/// A stop comes before: what waits must not begin when the service ends.
async fn turn<'a>(slots: &'a Semaphore, stop: &CancellationToken) -> Result<SemaphorePermit<'a>, Error> {
    tokio::select! {
        biased;
        () = stop.cancelled() => Err(Error::ShuttingDown),
        slot = slots.acquire() => slot.map_err(|_| Error::ShuttingDown),
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta, Utc};

    use super::*;

    fn hours(start: i64, end: i64) -> Window {
        let zero: DateTime<Utc> = "2026-06-01T00:00:00Z".parse().expect("a time");
        Window { start: zero + TimeDelta::hours(start), end: zero + TimeDelta::hours(end) }
    }

    #[test]
    fn what_is_left_reaches_to_the_newest_hour_that_is_not_committed() {
        let chunks = vec![hours(6, 8), hours(4, 6), hours(0, 2)];
        let mut tracker = Tracker::new(hours(0, 8), chunks, Done::default());
        assert_eq!((tracker.left(), tracker.hours_done()), (Some(hours(0, 8)), 2));
        let (first, second) = (tracker.begin().expect("one"), tracker.begin().expect("another"));
        tracker.commit(second, Done::default());
        assert_eq!((tracker.left(), tracker.hours_done()), (Some(hours(0, 8)), 4));
        assert_eq!(tracker.left_without(Some(first)), Some(hours(0, 2)));
        tracker.commit(first, Done::default());
        let last = tracker.begin().expect("the last");
        assert_eq!((tracker.left(), tracker.left_without(Some(last))), (Some(hours(0, 2)), None));
        tracker.halted = true;
        assert_eq!(tracker.begin(), None);
        assert_eq!((tracker.left(), tracker.hours_done()), (Some(hours(0, 2)), 6));
    }
}
