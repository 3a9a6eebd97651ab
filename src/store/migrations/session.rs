//! A migrator's connection. It holds the migrators' lock until it is closed, by a try-lock
//! that polls: waiting on a usual lock would deadlock with CREATE INDEX CONCURRENTLY, which
//! waits for every transaction that could see the table.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::MigrationError;
use crate::store::Db;

const LOCK: i64 = 0x7261_7465_725f_6d67; // "rater_mg"
/// A minute.
const TRIES: u32 = 300;
const PAUSE: Duration = Duration::from_millis(200);

/// A connection beside the pools: what it sets and locks is gone with it.
pub(super) async fn connect(db: &Db) -> Result<PgConnection, MigrationError> {
    let options = db.pool.connect_options();
    let within = db.pool.options().get_acquire_timeout();
    match tokio::time::timeout(within, PgConnection::connect_with(&options)).await {
        Ok(connected) => connected.map_err(MigrationError::Database),
        Err(_) => Err(MigrationError::Database(sqlx::Error::PoolTimedOut)),
    }
}

/// A connection that holds the migrators' lock.
pub(super) async fn open(db: &Db) -> Result<PgConnection, MigrationError> {
    let mut connection = connect(db).await?;
    for _ in 0..TRIES {
        let locked: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)")
            .bind(LOCK)
            .fetch_one(&mut connection)
            .await
            .map_err(MigrationError::Database)?;
        if locked {
            prepare(&mut connection).await.map_err(MigrationError::Database)?;
            return Ok(connection);
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(MigrationError::Busy("another migrator is at work"))
}

/// An index on millions of rows takes longer than a role's or a database's time limits allow a
/// query (the last one is of PostgreSQL 17). "Already exists" is no news.
async fn prepare(connection: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::raw_sql(
        "SET client_min_messages = warning;
         SELECT set_config(name, '0', false) FROM pg_settings
         WHERE name IN ('statement_timeout', 'lock_timeout', 'transaction_timeout')",
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// CREATE INDEX CONCURRENTLY that broke leaves an INVALID index behind, which IF NOT EXISTS
/// would take for a good one, and which, being unique, refuses rows that others write.
pub(super) async fn drop_broken_indexes(connection: &mut PgConnection) -> sqlx::Result<()> {
    let broken: Vec<String> = sqlx::query_scalar(
        "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_index i
         JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE NOT i.indisvalid
           AND i.indrelid IN (to_regclass('billing_event'), to_regclass('rated_usage'))
           AND c.relname IN ('billing_event_rating_instant_ix', 'rated_usage_natural_key',
                             'rated_usage_window_start_ix', 'rated_usage_auth_id_window_start_ix',
                             'rated_usage_page_ix')",
    )
    .fetch_all(&mut *connection)
    .await?;
    for index in broken {
        tracing::warn!(index, "dropping an index that a broken migration left invalid");
        let drop = AssertSqlSafe(format!("DROP INDEX CONCURRENTLY IF EXISTS {index}"));
        sqlx::raw_sql(drop).execute(&mut *connection).await?;
    }
    Ok(())
}
