//! The change feed (R12): the order of its batches, which is that of their commits.

use uuid::Uuid;

use super::{Db, Error};

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
}
