//! Retiring old change records, a short transaction a step. The mark moves before anything goes
//! (`change_feed.retired_through`): a reader that sees a record missing sees the mark, too. The
//! batch at the mark stays, as the place of readers that have all of it. A step that is cut short
//! is no step; the next one, of any process, goes on.

use std::time::Duration;

use sqlx::PgConnection;
use uuid::Uuid;

use super::{Db, Error};

/// Batches that a step can retire.
const BATCHES_A_STEP: i64 = 100;
/// A step takes milliseconds; whatever holds it up must not make it hold up others.
const STEP_LIMIT: &str = "10s";

/// What was retired, and whether there may be more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RetireStep {
    /// Records.
    pub changes: u64,
    /// Batches whose last records they were.
    pub batches: u64,
    /// How far the batch in hand is, if one is cut up.
    pub in_hand: Option<InHand>,
    /// Nothing is left to retire, or another process is at it.
    pub done: bool,
}

/// A batch of which only a part is retired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InHand {
    batch_id: Uuid,
    /// Records up to this one are gone: the next step need not look for them.
    through: i64,
}

impl Db {
    /// Retires at most `most` records of batches older than `keep`, the oldest first. `in_hand` is
    /// what the last step said, if there was one.
    pub async fn retire_step(
        &self,
        keep: Duration,
        most: i64,
        in_hand: Option<InHand>,
    ) -> Result<RetireStep, Error> {
        let mut tx = self.pool.begin().await?;
        sqlx::query!("SELECT set_config('statement_timeout', $1, true)", STEP_LIMIT)
            .fetch_one(&mut *tx)
            .await?;
        let mark = sqlx::query_scalar!("SELECT retired_through FROM change_feed FOR UPDATE SKIP LOCKED");
        let Some(mark) = mark.fetch_optional(&mut *tx).await? else {
            return Ok(RetireStep { done: true, ..RetireStep::default() });
        };
        let step = match go_on(&mut tx, mark, most, in_hand).await? {
            Some(step) => step,
            None => begin(&mut tx, mark, keep, most).await?,
        };
        tx.commit().await?;
        Ok(step)
    }
}

/// The batch at the mark, if anything of it is left.
async fn go_on(
    connection: &mut PgConnection,
    mark: i64,
    most: i64,
    in_hand: Option<InHand>,
) -> Result<Option<RetireStep>, Error> {
    let at_mark = sqlx::query!("SELECT batch_id, changes FROM change_batch WHERE position = $1", mark);
    let Some(batch) = at_mark.fetch_optional(&mut *connection).await? else { return Ok(None) };
    let gone = in_hand.filter(|hand| hand.batch_id == batch.batch_id).map_or(0, |hand| hand.through);
    let step = cut(connection, (batch.batch_id, batch.changes), gone, most).await?;
    Ok(Some(step).filter(|step| step.changes > 0))
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
        i64::try_from(keep.as_millis()).unwrap_or(i64::MAX),
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
        return cut(connection, (last.batch_id, last.changes), 0, most).await;
    }
    let gone = sqlx::query!("DELETE FROM rated_usage_change WHERE batch_id = ANY ($1)", &whole)
        .execute(&mut *connection)
        .await?;
    let batches = whole.len() as u64;
    Ok(RetireStep { changes: gone.rows_affected(), batches, ..RetireStep::default() })
}

async fn move_mark(connection: &mut PgConnection, position: i64) -> Result<(), Error> {
    sqlx::query!("UPDATE change_feed SET retired_through = $1", position).execute(&mut *connection).await?;
    sqlx::query!("DELETE FROM change_batch WHERE position < $1", position).execute(connection).await?;
    Ok(())
}

/// The first records of a batch of that size after those that are gone.
async fn cut(
    connection: &mut PgConnection,
    (batch_id, size): (Uuid, i64),
    gone: i64,
    most: i64,
) -> Result<RetireStep, Error> {
    let cut = sqlx::query!(
        r#"WITH gone AS (
               DELETE FROM rated_usage_change WHERE batch_id = $1 AND ordinal IN (
                   SELECT ordinal FROM rated_usage_change WHERE batch_id = $1 AND ordinal > $2
                   ORDER BY ordinal LIMIT $3)
               RETURNING ordinal
           )
           SELECT count(*) AS "changes!", max(ordinal) AS through FROM gone"#,
        batch_id,
        gone,
        most
    )
    .fetch_one(connection)
    .await?;
    let in_hand = cut.through.map(|through| InHand { batch_id, through });
    let batches = u64::from(cut.through == Some(size));
    Ok(RetireStep { changes: cut.changes.unsigned_abs(), batches, in_hand, done: false })
}
