//! One chunk of a run: one transaction, READ COMMITTED, of three steps.
//!
//! - S1 locks the lease row and proves that it is still ours ([`Db::begin_chunk`]).
//! - S2 is the rating statement, `sql/rate_chunk.sql` ([`Chunk::rate`]). It is a statement of
//!   its own so that its snapshot is taken after S1's lock is held.
//! - S3 writes the chunk's result, cuts the lease down, and last of all takes the place in the
//!   change feed (R12), which is ordered by commit because its lock is held until then, and
//!   notifies those who follow it ([`Chunk::commit`]).
//!
//! Dropping a [`Chunk`] rolls it back.

use std::time::Duration;

use sqlx::{PgConnection, Postgres, Transaction};
use uuid::Uuid;

use super::lease::{self, Lease};
use super::observed::Server;
use super::rating_statement::{self, Rated, Rules, Wanted, Writer};
use super::{Db, Error, error};
use crate::domain::window::Window;

/// Serialises the feed's last step before COMMIT.
const FEED: i64 = 0x7261_7465_725f_6664; // "rater_fd"

/// A chunk whose lease is locked.
pub struct Chunk {
    tx: Transaction<'static, Postgres>,
    lease: Lease,
    window: Window,
    batch_id: Uuid,
    server: Server,
}

impl Db {
    /// S1. [`Error::LeaseLost`] when another run took over.
    pub async fn begin_chunk(
        &self,
        lease: &Lease,
        window: Window,
        statement_timeout: Duration,
    ) -> Result<Chunk, Error> {
        let lock = async {
            let mut tx = self.pool.begin().await?;
            prepare(&mut tx, lease.ttl, statement_timeout).await?;
            lease::lock(&mut tx, lease, window).await?;
            Ok::<_, Error>(tx)
        };
        let tx = self.server.step("S1", "SELECT rating_lease", lock).await?;
        let (lease, server) = (lease.clone(), self.server.clone());
        Ok(Chunk { tx, lease, window, batch_id: Uuid::now_v7(), server })
    }
}

/// Settings of this transaction alone, so that a pooler changes nothing. A holder that is stuck
/// must not block a takeover for ever: its session ends before its lease does. The planner is
/// kept from compiling (JIT costs more than it gives here), and from sorting or looping where it
/// can hash: sizes of CTEs are guesses, and a loop over a guess that is far too small never ends. The
/// commit is on disk before anybody is told, or a crash would take back changes that were read.
pub(super) async fn prepare(
    connection: &mut PgConnection,
    lease_ttl: Duration,
    statement_timeout: Duration,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"SELECT set_config('idle_in_transaction_session_timeout', $1, true) AS a,
            set_config('statement_timeout', $2, true) AS b,
            set_config('client_connection_check_interval',
                CASE WHEN version() LIKE '%linux%' THEN '5s' ELSE '0' END, true) AS c,
            set_config('jit', 'off', true) AS d,
            set_config('work_mem', '64MB', true) AS e,
            set_config('plan_cache_mode', 'force_custom_plan', true) AS f,
            set_config('enable_sort', 'off', true) AS g,
            set_config('enable_mergejoin', 'off', true) AS h,
            set_config('enable_nestloop', 'off', true) AS i,
            set_config('synchronous_commit',
                CASE WHEN current_setting('synchronous_commit') IN ('off', 'local') THEN 'on'
                    ELSE current_setting('synchronous_commit') END, true) AS j"#,
        format!("{}ms", (lease_ttl.as_millis() * 4 / 5).max(1)),
        format!("{}ms", statement_timeout.as_millis().max(1))
    )
    .fetch_one(connection)
    .await?;
    Ok(())
}

impl Chunk {
    /// S2: the rating statement, which checks what it returns.
    pub async fn rate(&mut self, rules: Rules<'_>, wanted: Wanted) -> Result<Rated, Error> {
        let writer =
            Writer { run_id: self.lease.run_id.clone(), batch_id: self.batch_id, fence: self.lease.fence };
        let rate = rating_statement::execute(&mut self.tx, self.window, rules, Some(&writer), wanted);
        self.server.step("S2", "INSERT rated_usage", rate).await
    }

    /// S3 and COMMIT. `left` is what the run has still to do; with nothing left it succeeds.
    pub async fn commit(mut self, rated: &Rated, left: Option<Window>) -> Result<(), Error> {
        let server = self.server.clone();
        server.step("S3", "INSERT rating_run_chunk", self.write(rated, left)).await?;
        let commit = async { self.tx.commit().await.map_err(error::at_commit) };
        server.step("commit", "COMMIT", commit).await
    }

    async fn write(&mut self, rated: &Rated, left: Option<Window>) -> Result<(), Error> {
        let counts = &rated.counts;
        let changes = counts.inserted_rollups + counts.updated_rollups + counts.reconciled_deletions;
        record(&mut self.tx, &self.lease, self.window, (changes > 0).then_some(self.batch_id), rated).await?;
        lease::shrink(&mut self.tx, &self.lease, left).await?;
        if left.is_none() {
            sqlx::query!(
                "UPDATE rating_run SET state = 'succeeded', finished_at = clock_timestamp() WHERE run_id = $1",
                self.lease.run_id
            )
            .execute(&mut *self.tx)
            .await?;
        }
        if changes > 0 {
            sqlx::query!("SELECT pg_advisory_xact_lock($1)", FEED).execute(&mut *self.tx).await?;
            sqlx::query!(
                "INSERT INTO change_batch (batch_id, run_id, trigger, changes)
                 SELECT $1, run_id, trigger, $3 FROM rating_run WHERE run_id = $2
                 RETURNING pg_notify('rater_changes', '')",
                self.batch_id,
                self.lease.run_id,
                changes
            )
            .execute(&mut *self.tx)
            .await?;
        }
        Ok(())
    }
}

async fn record(
    connection: &mut PgConnection,
    lease: &Lease,
    window: Window,
    batch_id: Option<Uuid>,
    Rated { counts, lost_cost, .. }: &Rated,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO rating_run_chunk (run_id, chunk_start, chunk_end, batch_id, events, rated_events,
             unpriced_events, unattributable_events, ambiguous_base_events, malformed_events,
             clamped_events, rollups, inserted_rollups, updated_rollups, unchanged_rollups,
             reconciled_deletions, shrunk_rollups, rate_drift_rollups, unexplained_rollups,
             previous_cost, total_cost, lost_cost)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19,
             $20::text::numeric, $21::text::numeric, $22::text::numeric)",
        lease.run_id,
        window.start,
        window.end,
        batch_id,
        counts.events,
        counts.rated_events,
        counts.unpriced_events,
        counts.unattributable_events,
        counts.ambiguous_base_events,
        counts.malformed_events,
        counts.clamped_events,
        counts.rollups(),
        counts.inserted_rollups,
        counts.updated_rollups,
        counts.unchanged_rollups,
        counts.reconciled_deletions,
        counts.shrunk_rollups,
        counts.rate_drift_rollups,
        counts.unexplained_rollups,
        counts.previous_cost.to_string(),
        counts.total_cost.to_string(),
        lost_cost.to_string()
    )
    .execute(connection)
    .await?;
    Ok(())
}

impl Db {
    /// A currency other than `currency` that rows of the window are in (R13).
    pub async fn foreign_currency(&self, window: Window, currency: &str) -> Result<Option<String>, Error> {
        let look = sqlx::query_scalar!(
            r#"SELECT currency_code AS "currency!" FROM rated_usage
               WHERE window_start >= $1 AND window_start < $2 AND currency_code <> $3::text LIMIT 1"#,
            window.start,
            window.end,
            currency
        )
        .fetch_optional(&self.pool);
        self.observed("SELECT rated_usage", look).await
    }
}
