//! Retiring old change records, a batch of the job at a time. The mark moves before anything goes
//! (`change_feed.retired_through`): a reader that sees a record missing sees the mark, too. The
//! batch at the mark stays, as the place of readers that have all of it. A record that can't be
//! deleted stays behind the mark, where nobody reads it any more.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use uuid::Uuid;

use super::table_job::JobBatch;
use super::{Db, Error};

/// Batches of changes that a step can retire.
const BATCHES_A_STEP: i64 = 100;

/// What was retired, and whether there may be more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RetireStep {
    /// Records that were looked at.
    pub records: i64,
    /// Those of them that something of the database's kept from being deleted.
    pub kept: i64,
    /// How far the batch in hand is, if one is cut up.
    pub in_hand: Option<InHand>,
    /// Nothing is left to retire.
    pub done: bool,
}

/// A batch of changes of which only a part is retired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct InHand {
    batch_id: Uuid,
    /// Records up to this one are gone: the next step need not look for them.
    through: i64,
}

impl Db {
    /// How many records are older than `keep`.
    pub async fn changes_to_retire(&self, keep: Duration) -> Result<i64, Error> {
        Ok(sqlx::query_scalar!(
            r#"SELECT CASE
                   WHEN (SELECT changed_at FROM change_batch WHERE position > retired_through
                       ORDER BY position LIMIT 1) < before
                   THEN (SELECT sum(changes)::bigint FROM change_batch
                       WHERE position > retired_through AND changed_at < before)
                   ELSE 0 END AS "rows!"
               FROM change_feed, (SELECT clock_timestamp() - $1::bigint * interval '1 millisecond' AS before) t"#,
            millis(keep)
        )
        .fetch_one(&self.pool)
        .await?)
    }
}

impl JobBatch {
    /// Retires at most `most` records of batches older than `keep`, the oldest first. `in_hand` is
    /// what the last step said, if there was one.
    pub async fn retire(
        &mut self,
        keep: Duration,
        most: i64,
        in_hand: Option<InHand>,
    ) -> Result<RetireStep, Error> {
        let tx = &mut self.tx;
        let mark = lock_mark(tx).await?;
        match go_on(tx, mark, most, in_hand).await? {
            Some(step) => Ok(step),
            None => begin(tx, mark, keep, most).await,
        }
    }

    /// Passes over the next record, which can't be deleted.
    pub async fn pass_over_change(
        &mut self,
        keep: Duration,
        in_hand: Option<InHand>,
    ) -> Result<RetireStep, Error> {
        let tx = &mut self.tx;
        let mark = lock_mark(tx).await?;
        let next = sqlx::query!(
            r#"SELECT b.batch_id, (
                   SELECT min(ordinal) FROM rated_usage_change c
                   WHERE c.batch_id = b.batch_id AND ordinal > CASE WHEN b.batch_id = $2 THEN $3::bigint ELSE 0 END
               ) AS ordinal
               FROM change_batch b WHERE position = $1"#,
            mark,
            in_hand.map(|hand| hand.batch_id),
            in_hand.map_or(0, |hand| hand.through)
        );
        let next = next.fetch_optional(&mut **tx).await?;
        if let Some((batch_id, through)) = next.and_then(|next| Some((next.batch_id, next.ordinal?))) {
            let in_hand = Some(InHand { batch_id, through });
            return Ok(RetireStep { records: 1, kept: 1, in_hand, done: false });
        }
        // It is the first of the next batch: from now on that one is in hand.
        let next = sqlx::query!(
            "SELECT position, batch_id FROM change_batch
             WHERE position > $1 AND changed_at < clock_timestamp() - $2::bigint * interval '1 millisecond'
             ORDER BY position LIMIT 1",
            mark,
            millis(keep)
        );
        let Some(next) = next.fetch_optional(&mut **tx).await? else {
            return Ok(RetireStep { done: true, ..RetireStep::default() });
        };
        move_mark(tx, next.position).await?;
        let in_hand = Some(InHand { batch_id: next.batch_id, through: 0 });
        Ok(RetireStep { in_hand, ..RetireStep::default() })
    }
}

fn millis(keep: Duration) -> i64 {
    i64::try_from(keep.as_millis()).unwrap_or(i64::MAX)
}

/// Also held by services of before there were jobs, for a step of theirs.
async fn lock_mark(connection: &mut PgConnection) -> Result<i64, Error> {
    let mark = sqlx::query_scalar!("SELECT retired_through FROM change_feed FOR UPDATE");
    Ok(mark.fetch_one(connection).await?)
}

/// The batch at the mark, if anything of it is left.
async fn go_on(
    connection: &mut PgConnection,
    mark: i64,
    most: i64,
    in_hand: Option<InHand>,
) -> Result<Option<RetireStep>, Error> {
    let at_mark = sqlx::query_scalar!("SELECT batch_id FROM change_batch WHERE position = $1", mark);
    let Some(batch_id) = at_mark.fetch_optional(&mut *connection).await? else { return Ok(None) };
    let gone = in_hand.filter(|hand| hand.batch_id == batch_id).map_or(0, |hand| hand.through);
    let step = cut(connection, batch_id, gone, most).await?;
    Ok(Some(step).filter(|step| step.records > 0))
}

/// The next batches that are old enough: several small ones, or the beginning of a large one.
async fn begin(
    connection: &mut PgConnection,
    mark: i64,
    keep: Duration,
    most: i64,
) -> Result<RetireStep, Error> {
    let next = sqlx::query!(
        r#"SELECT position, batch_id, changes,
               changed_at < clock_timestamp() - $2::bigint * interval '1 millisecond' AS "old!"
           FROM change_batch WHERE position > $1 ORDER BY position LIMIT $3"#,
        mark,
        millis(keep),
        BATCHES_A_STEP
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut room = most;
    let fitting = next.iter().take_while(|batch| batch.old).take_while(|batch| {
        room -= batch.changes;
        room >= 0
    });
    let whole: Vec<Uuid> = fitting.map(|batch| batch.batch_id).collect();
    let Some(last) = next.get(whole.len().saturating_sub(1)).filter(|batch| batch.old) else {
        return Ok(RetireStep { done: true, ..RetireStep::default() });
    };
    move_mark(connection, last.position).await?;
    if whole.is_empty() {
        return cut(connection, last.batch_id, 0, most).await;
    }
    let gone = sqlx::query!("DELETE FROM rated_usage_change WHERE batch_id = ANY ($1)", &whole)
        .execute(&mut *connection)
        .await?;
    let records = next.iter().take(whole.len()).map(|batch| batch.changes).sum();
    let kept = records - i64::try_from(gone.rows_affected()).unwrap_or(i64::MAX);
    // The mark's batch has nothing left to look for.
    let in_hand = Some(InHand { batch_id: last.batch_id, through: i64::MAX });
    Ok(RetireStep { records, kept: kept.max(0), in_hand, done: false })
}

async fn move_mark(connection: &mut PgConnection, position: i64) -> Result<(), Error> {
    sqlx::query!("UPDATE change_feed SET retired_through = $1", position).execute(&mut *connection).await?;
    sqlx::query!("DELETE FROM change_batch WHERE position < $1", position).execute(connection).await?;
    Ok(())
}

/// The first records of a batch after those that are gone.
async fn cut(
    connection: &mut PgConnection,
    batch_id: Uuid,
    gone: i64,
    most: i64,
) -> Result<RetireStep, Error> {
    let cut = sqlx::query!(
        r#"WITH next AS MATERIALIZED (
               SELECT ordinal FROM rated_usage_change WHERE batch_id = $1 AND ordinal > $2
               ORDER BY ordinal LIMIT $3
           ), gone AS (
               DELETE FROM rated_usage_change WHERE batch_id = $1 AND ordinal IN (SELECT ordinal FROM next)
               RETURNING ordinal
           )
           SELECT (SELECT count(*) FROM next) AS "records!", (SELECT max(ordinal) FROM next) AS through,
               (SELECT count(*) FROM gone) AS "gone!""#,
        batch_id,
        gone,
        most
    )
    .fetch_one(connection)
    .await?;
    let in_hand = cut.through.map(|through| InHand { batch_id, through });
    Ok(RetireStep { records: cut.records, kept: cut.records - cut.gone, in_hand, done: false })
}
