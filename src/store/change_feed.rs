//! The change feed (R12): the order of its batches, which is that of their commits, and what they
//! hold. A [`FeedSnapshot`] tells how the feed stands and what is in it at one moment, so that a
//! reader can tell what it reads from what was retired before.

use chrono::{DateTime, Utc};
use sqlx::{Postgres, Transaction};
use uuid::Uuid;

use super::observed::Server;
use super::usage_change::{Recorded, UsageChange};
use super::{Db, Error, UsageFilter};
use crate::domain::window::Trigger;

/// Where a reader of the feed stands: after a change of a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FeedPlace {
    /// Which feed.
    pub feed_id: Uuid,
    /// Of the batch; 0 before the first.
    pub position: i64,
    /// The batch, which alone proves that the place is of this database.
    pub batch_id: Uuid,
    /// Of the last change in it that the reader has; the batch's size once it has all.
    pub ordinal: i64,
}

/// How the feed stands, with its batches from a position on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feed {
    /// Which feed.
    pub feed_id: Uuid,
    /// Whether its first change ever was the first of the table.
    pub whole_story: bool,
    /// Changes up to this position are retired, or about to be.
    pub retired_through: i64,
    /// In their order.
    pub batches: Vec<FeedBatch>,
}

/// What one chunk of a run changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeedBatch {
    /// Its place.
    pub position: i64,
    /// Its id.
    pub batch_id: Uuid,
    /// How many.
    pub changes: i64,
    /// Why the run happened.
    pub trigger: Trigger,
    /// When, a moment before it was committed.
    pub changed_at: DateTime<Utc>,
}

/// A part of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchPart {
    /// Of which.
    pub batch: FeedBatch,
    /// It begins after this change.
    pub after: i64,
    /// It ends with this one.
    pub until: i64,
}

/// The feed at one moment.
pub struct FeedSnapshot {
    tx: Transaction<'static, Postgres>,
    server: Server,
}

impl Db {
    /// The end of the feed: whatever is read after this holds every change up to it.
    pub async fn feed_end(&self) -> Result<FeedPlace, Error> {
        let end = sqlx::query!(
            r#"SELECT feed_id, position AS "position?", batch_id AS "batch_id?", changes AS "changes?"
               FROM change_feed
               LEFT JOIN (SELECT position, batch_id, changes FROM change_batch ORDER BY position DESC LIMIT 1) b
                   ON true"#
        )
        .fetch_one(&self.reads)
        .await?;
        Ok(FeedPlace {
            feed_id: end.feed_id,
            position: end.position.unwrap_or(0),
            batch_id: end.batch_id.unwrap_or_default(),
            ordinal: end.changes.unwrap_or(0),
        })
    }

    /// The feed at the moment of the first question.
    pub async fn feed_snapshot(&self) -> Result<FeedSnapshot, Error> {
        let tx = self.reads.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        Ok(FeedSnapshot { tx, server: self.server.clone() })
    }
}

impl FeedSnapshot {
    /// How the feed stands, with at most `limit` batches from `position` on.
    pub async fn feed(&mut self, position: i64, limit: i64) -> Result<Feed, Error> {
        let read = sqlx::query_file!("src/store/sql/feed_batches.sql", position, limit);
        let rows = self.server.observed("SELECT change_batch", read.fetch_all(&mut *self.tx)).await?;
        let first = rows.first().ok_or(Error::Inconsistent("change_feed has no row"))?;
        let (feed_id, whole_story, retired_through) =
            (first.feed_id, first.whole_story, first.retired_through);
        let batches = rows.into_iter().filter_map(|row| {
            Some(FeedBatch {
                position: row.position?,
                batch_id: row.batch_id?,
                changes: row.changes?,
                trigger: Trigger::parse(&row.trigger?),
                changed_at: row.changed_at?,
            })
        });
        Ok(Feed { feed_id, whole_story, retired_through, batches: batches.collect() })
    }

    /// The changes of these parts that the filter lets through, in the feed's order.
    pub async fn changes(
        &mut self,
        parts: &[BatchPart],
        filter: &UsageFilter,
    ) -> Result<Vec<UsageChange>, Error> {
        let batch_ids: Vec<Uuid> = parts.iter().map(|part| part.batch.batch_id).collect();
        let (after, until): (Vec<i64>, Vec<i64>) = parts.iter().map(|part| (part.after, part.until)).unzip();
        let read = sqlx::query_file_as!(
            Recorded,
            "src/store/sql/usage_changes.sql",
            &batch_ids,
            &after,
            &until,
            filter.since,
            filter.until,
            &filter.auth_ids,
            &filter.resource_ids,
            &filter.model_ids
        )
        .fetch_all(&mut *self.tx);
        let rows = self.server.observed("SELECT rated_usage_change", read).await?;
        let batch = |part: i64| usize::try_from(part - 1).ok().and_then(|at| parts.get(at));
        let changes = rows.into_iter().filter_map(|row| batch(row.part).map(|part| row.of(part.batch)));
        Ok(changes.collect())
    }

    /// Lets go of the moment.
    pub async fn end(self) -> Result<(), Error> {
        Ok(self.tx.commit().await?)
    }
}
