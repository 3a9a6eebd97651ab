//! The schema: `migrations/`, one step a file, each with its way down.
//!
//! One migrator works at a time, by a try-lock that polls: waiting on a usual lock would
//! deadlock with CREATE INDEX CONCURRENTLY, which waits for every open transaction. Steps
//! keep `lock_timeout` short, so that they never queue in front of readers for long; a step
//! that could not get its lock is tried again.

use std::time::Duration;

use sqlx::{
    AssertSqlSafe, Connection, PgConnection,
    migrate::{MigrateError, Migrator},
};

use super::{Db, Error};

/// The schema this build needs, and writes.
pub const VERSION: i32 = 1;

/// Ours alone: another program that uses sqlx may keep its migrations in the same database.
const TABLE: &str = "rater_migration";
const LOCK: i64 = 0x7261_7465_725f_6d67; // "rater_mg"
const LOCK_NOT_AVAILABLE: &str = "55P03";
/// Raised by a step that meets a table which can't be adopted; its text is for people.
const NOT_ADOPTABLE: &str = "RT001";
const TRIES: u32 = 60;

/// A schema that could not be brought where it was asked to be.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// Another migrator holds the lock, or a table stayed locked, past the time limit.
    #[error("{0}; try again")]
    Busy(&'static str),
    /// A table that is there cannot be adopted; says why.
    #[error("{0}")]
    NotAdoptable(String),
    /// The database was migrated by a newer build, which alone knows the way down.
    #[error("the schema was made by a newer rater; migrate it down with that one")]
    Newer,
    /// A step failed.
    #[error("migration step {step} failed: {source}")]
    Step {
        /// The step's number.
        step: i64,
        /// What the database said.
        source: sqlx::Error,
    },
    /// The database could not be reached or did not answer as it must.
    #[error(transparent)]
    Store(#[from] Error),
}

/// One step and whether it has been applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Its number.
    pub version: i64,
    /// Its name.
    pub name: String,
    /// Whether this database has it.
    pub applied: bool,
}

/// Where a database stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchemaVersion {
    /// The schema's version.
    pub version: i32,
    /// The oldest build that may still work with it.
    pub compatible_from: i32,
}

fn migrator() -> Migrator {
    let mut migrator = sqlx::migrate!();
    migrator.set_locking(false);
    migrator.dangerous_set_table_name(TABLE);
    migrator
}

/// Brings the schema up, adopting tables that are there. Does nothing to one that is up, or
/// that a newer build made.
pub async fn up(db: &Db) -> Result<(), MigrationError> {
    let mut connection = lock(db).await?;
    let mut migrator = migrator();
    migrator.set_ignore_missing(true);
    for _ in 0..TRIES {
        drop_broken_indexes(&mut connection).await?;
        match migrator.run_direct(None, &mut connection, false).await {
            Err(MigrateError::ExecuteMigration(error, _)) if has_code(&error, LOCK_NOT_AVAILABLE) => {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            result => return result.map_err(explain),
        }
    }
    Err(MigrationError::Busy("a table stayed locked by others"))
}

/// Takes the schema down: everything of ours beside `billing_event` and `rated_usage`, which
/// keep every row and column.
pub async fn down(db: &Db) -> Result<(), MigrationError> {
    let mut connection = lock(db).await?;
    for _ in 0..TRIES {
        match migrator().undo(&mut connection, 0).await {
            Err(MigrateError::ExecuteMigration(error, _)) if has_code(&error, LOCK_NOT_AVAILABLE) => {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            Err(error) => return Err(explain(error)),
            Ok(()) => {
                let drop = AssertSqlSafe(format!("DROP TABLE IF EXISTS {TABLE}"));
                sqlx::raw_sql(drop).execute(&mut connection).await.map_err(Error::from)?;
                return Ok(());
            }
        }
    }
    Err(MigrationError::Busy("a table stayed locked by others"))
}

/// Every step, and whether this database has it.
pub async fn status(db: &Db) -> Result<Vec<Step>, MigrationError> {
    let exists: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
        .bind(TABLE)
        .fetch_one(&db.pool)
        .await
        .map_err(Error::from)?;
    let applied: Vec<i64> = match exists {
        false => Vec::new(),
        true => sqlx::query_scalar(AssertSqlSafe(format!("SELECT version FROM {TABLE} WHERE success")))
            .fetch_all(&db.pool)
            .await
            .map_err(Error::from)?,
    };
    let steps = migrator();
    Ok(steps
        .iter()
        .filter(|m| m.migration_type.is_up_migration())
        .map(|m| Step {
            version: m.version,
            name: m.description.to_string(),
            applied: applied.contains(&m.version),
        })
        .collect())
}

/// The version of the schema, or none where there is no schema of ours.
pub async fn version(db: &Db) -> Result<Option<SchemaVersion>, Error> {
    let exists: bool =
        sqlx::query_scalar("SELECT to_regclass('rater_schema') IS NOT NULL").fetch_one(&db.pool).await?;
    if !exists {
        return Ok(None);
    }
    let row =
        sqlx::query!("SELECT version, compatible_from FROM rater_schema").fetch_optional(&db.pool).await?;
    Ok(row.map(|r| SchemaVersion { version: r.version, compatible_from: r.compatible_from }))
}

/// A connection of its own that holds the migrators' lock until it is closed.
async fn lock(db: &Db) -> Result<PgConnection, MigrationError> {
    let mut connection = PgConnection::connect_with(&db.pool.connect_options()).await.map_err(Error::from)?;
    for _ in 0..TRIES * 5 {
        let locked: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)")
            .bind(LOCK)
            .fetch_one(&mut connection)
            .await
            .map_err(Error::from)?;
        if locked {
            return Ok(connection);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Err(MigrationError::Busy("another migrator is at work"))
}

/// CREATE INDEX CONCURRENTLY that broke leaves an INVALID index behind, which IF NOT EXISTS
/// would take for a good one.
async fn drop_broken_indexes(connection: &mut PgConnection) -> Result<(), MigrationError> {
    let broken: Vec<String> = sqlx::query_scalar(
        "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_index i
         JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE NOT i.indisvalid
           AND i.indrelid IN (to_regclass('billing_event'), to_regclass('rated_usage'))
           AND c.relname IN ('billing_event_rating_instant_ix', 'rated_usage_natural_key',
                             'rated_usage_window_start_ix', 'rated_usage_auth_id_window_start_ix')",
    )
    .fetch_all(&mut *connection)
    .await
    .map_err(Error::from)?;
    for index in broken {
        tracing::warn!(index, "dropping an index that an interrupted migration left invalid");
        let drop = AssertSqlSafe(format!("DROP INDEX CONCURRENTLY IF EXISTS {index}"));
        sqlx::raw_sql(drop).execute(&mut *connection).await.map_err(Error::from)?;
    }
    Ok(())
}

fn has_code(error: &sqlx::Error, code: &str) -> bool {
    error.as_database_error().and_then(|e| e.code()).is_some_and(|c| c == code)
}

fn explain(error: MigrateError) -> MigrationError {
    match error {
        MigrateError::ExecuteMigration(error, _) if has_code(&error, NOT_ADOPTABLE) => {
            let text = error.as_database_error().map(|e| e.message().to_owned());
            MigrationError::NotAdoptable(text.unwrap_or_default())
        }
        MigrateError::ExecuteMigration(source, step) => MigrationError::Step { step, source },
        MigrateError::VersionMissing(_) => MigrationError::Newer,
        MigrateError::Execute(error) => MigrationError::Store(error.into()),
        other => MigrationError::Step { step: 0, source: sqlx::Error::Configuration(Box::new(other)) },
    }
}
