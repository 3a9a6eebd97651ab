//! StreamRatedUsageChanges: every change after a cursor, once, in the order of commits (R12). A
//! stream keeps nothing but its place: what a consumer is slow to take stays in the database, and
//! one that retention overtakes is refused, like a cursor that this database never issued.

mod commits;
mod place;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::error::Error;
use super::page;
use super::page_token::Cursors;
use super::read_usage::{UsageFilter, arguments, check, weight};
use crate::store::{Db, FeedPlace};
use commits::Commits;
use place::{after_change, next_parts, stands};

pub use crate::store::UsageChange;

/// A follower hears at least this often, if only how far the feed is; and looks by itself.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// Changes read at a time, and batches that they may be of: what a stream holds is a few times that.
const CHANGES_A_LOOK: u16 = 500;
const BATCHES_A_LOOK: i64 = 200;

/// The feed, for so many readers at a time and no more.
#[derive(Debug, Clone)]
pub struct ChangeFeed {
    db: Db,
    stop: CancellationToken,
    admission: Arc<Semaphore>,
    /// Looks at a time: pages must find connections, however many follow.
    looks: Arc<Semaphore>,
    commits: Commits,
}

/// What a consumer asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Empty: from the first change.
    pub cursor: String,
    /// Whether to wait at the end.
    pub follow: bool,
    /// Of which rollups.
    pub filter: UsageFilter,
}

/// A message: changes, or none, and where the consumer stands with them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// In the feed's order.
    pub changes: Vec<UsageChange>,
    /// What goes on after them.
    pub cursor: String,
}

/// The changes that one consumer is told.
#[derive(Debug)]
pub struct ChangeStream {
    feed: ChangeFeed,
    cursors: Cursors,
    filter: UsageFilter,
    follow: bool,
    commits: watch::Receiver<()>,
    /// `None`: before the first change, and not looked yet.
    place: Option<FeedPlace>,
    /// By the first look, and not told yet.
    found: Option<Look>,
    /// The place that was told last, and when.
    told: (Option<FeedPlace>, Instant),
    ended: bool,
    _admitted: OwnedSemaphorePermit,
}

/// What one look found.
#[derive(Debug)]
struct Look {
    changes: Vec<UsageChange>,
    place: FeedPlace,
    /// There is nothing after the place.
    at_end: bool,
}

impl ChangeFeed {
    /// At most `limit` streams at a time, until `stop`.
    pub fn new(db: Db, stop: CancellationToken, limit: usize) -> ChangeFeed {
        let looks = Arc::new(Semaphore::new((db.read_connections() / 2).max(1)));
        ChangeFeed { db, stop, admission: Arc::new(Semaphore::new(limit)), looks, commits: Commits::new() }
    }

    /// Begins a stream. A cursor that does not hold is refused here.
    pub async fn stream(&self, wanted: Wanted) -> Result<ChangeStream, Error> {
        let Wanted { cursor, follow, filter } = wanted;
        let mut wrong = Vec::new();
        check(&filter, &mut wrong);
        if !wrong.is_empty() {
            return Err(Error::Invalid(wrong));
        }
        let cursors = Cursors::of(&arguments(&filter));
        let place = cursors.parse(&cursor)?;
        let admitted = self.admission.clone().try_acquire_owned().map_err(|_| Error::Overloaded)?;
        let commits = match follow {
            true => self.commits.subscribe(&self.db, &self.stop),
            false => watch::channel(()).1,
        };
        let mut stream = ChangeStream {
            feed: self.clone(),
            cursors,
            filter,
            follow,
            commits,
            place,
            found: None,
            told: (None, Instant::now()),
            ended: false,
            _admitted: admitted,
        };
        stream.found = Some(stream.look().await?);
        Ok(stream)
    }

    async fn look(&self, place: Option<FeedPlace>, filter: &UsageFilter) -> Result<Look, Error> {
        let _turn = self.looks.acquire().await.map_err(|_| Error::Internal)?;
        let mut snapshot = self.db.feed_snapshot().await?;
        let feed = snapshot.feed(place.map_or(0, |place| place.position), BATCHES_A_LOOK).await?;
        let place = stands(place, &feed)?;
        let (parts, mut reached) = next_parts(place, &feed.batches, i64::from(CHANGES_A_LOOK));
        let mut changes = match parts.is_empty() {
            true => Vec::new(),
            false => snapshot.changes(&parts, filter).await?,
        };
        snapshot.end().await?;
        if page::cut(&mut changes, CHANGES_A_LOOK, change_weight)
            && let Some(last) = changes.last()
        {
            reached = after_change(place, &last.batch, last.ordinal);
        }
        let last = feed.batches.last().map_or((0, 0), |batch| (batch.position, batch.changes));
        let all = (feed.batches.len() as i64) < BATCHES_A_LOOK;
        let at_end = all && (reached.position, reached.ordinal) == last;
        Ok(Look { changes, place: reached, at_end })
    }
}

impl ChangeStream {
    /// The next changes, or only the place, where there is nothing to tell for a while; `None`
    /// after the end, which a stream that follows does not have. An error is the end, too.
    pub async fn next(&mut self) -> Result<Option<Told>, Error> {
        while !self.ended {
            let Look { changes, place, at_end } = match self.found.take() {
                Some(found) => found,
                None => self.look().await?,
            };
            self.place = Some(place);
            self.ended = at_end && !self.follow;
            let silent = self.told.1.elapsed() >= TELL_EVERY;
            let last_word = self.ended && self.told.0 != Some(place);
            if !changes.is_empty() || silent || last_word {
                self.told = (Some(place), Instant::now());
                return Ok(Some(Told { changes, cursor: self.cursors.issue(place) }));
            }
            if at_end && self.follow {
                self.wait().await?;
            }
        }
        Ok(None)
    }

    async fn look(&mut self) -> Result<Look, Error> {
        // Before the look: what is committed after it wakes.
        self.commits.mark_unchanged();
        tokio::select! {
            biased;
            () = self.feed.stop.cancelled() => Err(Error::ShuttingDown),
            look = self.feed.look(self.place, &self.filter) => look,
        }
    }

    /// Until there may be more, or it is time to say something.
    async fn wait(&mut self) -> Result<(), Error> {
        tokio::select! {
            biased;
            () = self.feed.stop.cancelled() => Err(Error::ShuttingDown),
            // The feed holds the other end.
            _ = self.commits.changed() => Ok(()),
            () = tokio::time::sleep_until(self.told.1 + TELL_EVERY) => Ok(()),
        }
    }
}

fn change_weight(change: &UsageChange) -> usize {
    const OVERHEAD: usize = 128;
    let rows = [&change.before, &change.after].into_iter().flatten();
    OVERHEAD + change.run_id.len() + rows.map(weight).sum::<usize>()
}

impl UsageChange {
    /// Unique, for ever.
    pub fn change_id(&self) -> String {
        format!("{}-{}", self.batch.batch_id, self.ordinal)
    }
}
