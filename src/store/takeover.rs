//! Runs whose process is gone: another goes on with them, or writes down why nobody can.
//!
//! It all happens under the gate of acquisition, so that a run is taken over by one process
//! only, and not while a backfill ends it or someone cancels it. The new lease has a new fence:
//! whatever the old process still tries is refused in its S1.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::lease::{self, Lease};
use super::rating_statement::hour_hashes;
use super::run::GATE;
use super::{Db, Error, error};
use crate::domain::plan::HourHash;
use crate::domain::run_state::RunState;
use crate::domain::window::Window;

/// How often in a row a run may lose its process without a chunk in between: what kills every
/// process that tries must not go on for ever.
const MAX_FRUITLESS: i32 = 20;

/// A run without a process, and what became of it.
#[derive(Debug)]
pub enum Taken {
    /// It is ours now.
    Resumed(Lease),
    /// Nobody can go on with it; its record says why.
    Ended(String),
}

/// What a run has left behind for the process that goes on with it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Legacy {
    /// The hours that are committed.
    pub committed: Vec<Window>,
    /// The plan that it keeps to, oldest hour first, once there is one.
    pub plan: Option<Vec<HourHash>>,
}

struct Orphan {
    run_id: String,
    state: String,
    pricebook_digest: String,
    window_start: DateTime<Utc>,
    remaining_end: DateTime<Utc>,
    fruitless_takeovers: i32,
}

impl Db {
    /// Whether there is a run without a process. A glance, so that the gate is rarely taken.
    pub async fn has_orphans(&self) -> Result<bool, Error> {
        Ok(sqlx::query_scalar!(
            r#"SELECT EXISTS (
                SELECT FROM rating_run r LEFT JOIN rating_lease l USING (run_id)
                WHERE r.finished_at IS NULL AND (l.run_id IS NULL OR l.expires_at <= clock_timestamp())
            ) AS "orphans!""#
        )
        .fetch_one(&self.control)
        .await?)
    }

    /// Takes over every run whose lease has ended, if it began with the pricebook of this
    /// digest; ends those that nobody can go on with. One whose hours another run holds waits.
    pub async fn take_over(&self, loaded_digest: &str, ttl: Duration) -> Result<Vec<Taken>, Error> {
        let mut tx = self.begin_control().await?;
        sqlx::query!("SELECT pg_advisory_xact_lock($1)", GATE).execute(&mut *tx).await?;
        lease::reap(&mut tx, None).await?;
        let mut taken = Vec::new();
        for orphan in orphans(&mut tx).await? {
            taken.extend(settle(&mut tx, orphan, loaded_digest, ttl).await?);
        }
        tx.commit().await.map_err(error::at_commit)?;
        Ok(taken)
    }

    /// What a run has left behind.
    pub async fn legacy(&self, run_id: &str) -> Result<Legacy, Error> {
        self.observed("SELECT rating_run_chunk", self.left_behind(run_id)).await
    }

    async fn left_behind(&self, run_id: &str) -> Result<Legacy, Error> {
        let chunks = sqlx::query!(
            "SELECT chunk_start, chunk_end FROM rating_run_chunk WHERE run_id = $1 ORDER BY chunk_start",
            run_id
        )
        .fetch_all(&self.pool)
        .await?;
        let plan = sqlx::query_scalar!("SELECT hour_hashes FROM rating_run WHERE run_id = $1", run_id)
            .fetch_one(&self.pool)
            .await?;
        Ok(Legacy {
            committed: chunks.iter().map(|c| Window { start: c.chunk_start, end: c.chunk_end }).collect(),
            plan: plan.map(hour_hashes).transpose()?,
        })
    }
}

/// Oldest first: of two over the same hours the later one has the last word.
async fn orphans(connection: &mut PgConnection) -> Result<Vec<Orphan>, sqlx::Error> {
    sqlx::query_as!(
        Orphan,
        r#"SELECT run_id, state, pricebook_digest, window_start,
               coalesce(remaining_end, window_end) AS "remaining_end!", fruitless_takeovers
           FROM rating_run r
           WHERE finished_at IS NULL AND NOT EXISTS (SELECT FROM rating_lease l WHERE l.run_id = r.run_id)
           ORDER BY fence
           FOR UPDATE SKIP LOCKED"#
    )
    .fetch_all(connection)
    .await
}

async fn settle(
    connection: &mut PgConnection,
    orphan: Orphan,
    loaded_digest: &str,
    ttl: Duration,
) -> Result<Option<Taken>, sqlx::Error> {
    let ended = if orphan.state == RunState::Cancelling.as_str() {
        Some((RunState::Cancelled, None))
    } else if orphan.pricebook_digest != loaded_digest {
        let message = "its process is gone, and the pricebook that it began with is no longer the loaded one; \
            run the remaining hours again";
        Some((RunState::Failed, Some(("PRICEBOOK_MISMATCH", message))))
    } else if orphan.fruitless_takeovers >= MAX_FRUITLESS {
        let message = "process after process died on the same hours, or met the same obstacle; look at what they log, then run \
            these again";
        Some((RunState::Failed, Some(("LEASE_LOST", message))))
    } else {
        None
    };
    if let Some((state, failure)) = ended {
        end(connection, &orphan, state, failure).await?;
        return Ok(Some(Taken::Ended(orphan.run_id)));
    }
    let left = Window { start: orphan.window_start, end: orphan.remaining_end };
    let Some(fence) = lease::insert(connection, &orphan.run_id, left, ttl).await? else { return Ok(None) };
    sqlx::query!(
        "UPDATE rating_run SET state = 'running', remaining_end = $2, resumed_at = clock_timestamp()
         WHERE run_id = $1",
        orphan.run_id,
        orphan.remaining_end
    )
    .execute(connection)
    .await?;
    Ok(Some(Taken::Resumed(Lease { run_id: orphan.run_id, fence, ttl })))
}

async fn end(
    connection: &mut PgConnection,
    orphan: &Orphan,
    state: RunState,
    failure: Option<(&str, &str)>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE rating_run SET state = $2, error_reason = $3, error_message = $4, remaining_end = $5,
             finished_at = clock_timestamp()
         WHERE run_id = $1",
        orphan.run_id,
        state.as_str(),
        failure.map(|(reason, _)| reason),
        failure.map(|(_, message)| message),
        orphan.remaining_end
    )
    .execute(connection)
    .await?;
    Ok(())
}
