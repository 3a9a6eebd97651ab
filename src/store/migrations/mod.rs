//! The schema: `migrations/`, one step a file, each with its way down.
//!
//! Up and down both go step by step and can be cut off anywhere: what is recorded as done is
//! done, and the rest is tried again by the next call. Steps keep `lock_timeout` short, so
//! that they never queue in front of readers for long; one that could not get its lock is
//! tried again here. `session` lets one migrator work at a time.

mod error;
mod session;

use std::time::Duration;

use sqlx::migrate::{Migrate, MigrateError, Migrator};
use sqlx::{AssertSqlSafe, PgConnection};

use super::{Db, Error};
pub use error::MigrationError;

/// The schema this build needs, and writes.
pub const VERSION: i32 = 5;

/// Ours alone: another program that uses sqlx may keep its migrations in the same database.
const TABLE: &str = "rater_migration";

/// How often, and how long after, a step is tried again whose table others have locked: for
/// two minutes, of which readers wait for a quarter.
const TRIES: u32 = 120;
const PAUSE: Duration = Duration::from_millis(750);

/// One step and whether it has been applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Its number.
    pub version: i64,
    /// Its name.
    pub name: String,
    /// Whether this database has it.
    pub applied: bool,
    /// Whether this build has it; a newer one does where this doesn't.
    pub known: bool,
}

/// Where a database stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchemaVersion {
    /// The schema's version.
    pub version: i32,
    /// The oldest build that may still work with it.
    pub compatible_from: i32,
}

/// A database's steps, in order, and its version: none where there is no schema of ours, or
/// an unfinished one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// This build's steps, and those of newer builds that the database has.
    pub steps: Vec<Step>,
    /// The schema's version.
    pub version: Option<SchemaVersion>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

/// Brings the schema up, adopting tables that are there, and gives the steps that it took:
/// none on one that is up, or that a newer build made.
pub async fn up(db: &Db) -> Result<Vec<Step>, MigrationError> {
    migrate(db, Way::Up).await
}

/// Takes the schema down, and gives the steps that it took back: everything of ours beside
/// `billing_event` and `rated_usage`, which keep every row and column.
pub async fn down(db: &Db) -> Result<Vec<Step>, MigrationError> {
    migrate(db, Way::Down).await
}

/// Every step, whether this database has it, and its version.
pub async fn status(db: &Db) -> Result<Status, MigrationError> {
    let mut connection = session::connect(db).await?;
    let steps = steps(&mut connection).await.map_err(MigrationError::Database)?;
    let version = version_on(&mut connection).await.map_err(MigrationError::Database)?;
    Ok(Status { steps, version })
}

/// The version of the schema, or none where there is no schema of ours.
pub async fn version(db: &Db) -> Result<Option<SchemaVersion>, Error> {
    Ok(version_on(&mut *db.pool.acquire().await?).await?)
}

async fn version_on(connection: &mut PgConnection) -> sqlx::Result<Option<SchemaVersion>> {
    if !exists(connection, "rater_schema").await? {
        return Ok(None);
    }
    let row =
        sqlx::query!("SELECT version, compatible_from FROM rater_schema").fetch_optional(connection).await?;
    Ok(row.map(|r| SchemaVersion { version: r.version, compatible_from: r.compatible_from }))
}

fn migrator() -> Migrator {
    let mut migrator = sqlx::migrate!();
    // Its lock waits in the server; see `session`.
    migrator.set_locking(false);
    // A newer build's steps; those who must not meet them ask.
    migrator.set_ignore_missing(true);
    migrator.dangerous_set_table_name(TABLE);
    migrator
}

async fn migrate(db: &Db, way: Way) -> Result<Vec<Step>, MigrationError> {
    let mut connection = session::open(db).await?;
    let before = steps(&mut connection).await.map_err(MigrationError::Database)?;
    if way == Way::Down {
        refuse_newer(&mut connection, &before).await?;
    }
    let result = attempt(&mut connection, way).await;
    if result.is_err() {
        // An index that could not be built would go on refusing what others write.
        drop(session::drop_broken_indexes(&mut connection).await);
    }
    result?;
    let changed = |step: &Step| step.known && step.applied == (way == Way::Down);
    let changed = before.into_iter().filter(changed).map(|step| Step { applied: way == Way::Up, ..step });
    Ok(match way {
        Way::Up => changed.collect(),
        Way::Down => changed.rev().collect(),
    })
}

/// Tries until no lock is in the way.
async fn attempt(connection: &mut PgConnection, way: Way) -> Result<(), MigrationError> {
    for _ in 0..TRIES {
        session::drop_broken_indexes(connection).await.map_err(MigrationError::Database)?;
        let result = match way {
            Way::Up => migrator().run_direct(None, connection, false).await,
            Way::Down => take_back(connection).await,
        };
        match result {
            Err(error) if error::passes(&error) => {
                tracing::info!(%error, "a table is locked by others; trying again");
                tokio::time::sleep(PAUSE).await;
            }
            result => return Ok(result?),
        }
    }
    Err(MigrationError::Busy("a table stayed locked by others"))
}

/// Takes back the steps that are there, the latest first, and then the record of them.
async fn take_back(connection: &mut PgConnection) -> Result<(), MigrateError> {
    let applied = steps(connection).await?;
    let applied = |version| applied.iter().any(|step| step.applied && step.version == version);
    let migrator = migrator();
    for step in migrator.iter().rev().filter(|step| step.migration_type.is_down_migration()) {
        if applied(step.version) {
            connection.revert(TABLE, step).await?;
        }
    }
    sqlx::raw_sql(AssertSqlSafe(format!("DROP TABLE IF EXISTS {TABLE}"))).execute(connection).await?;
    Ok(())
}

/// Only the build that made a schema knows all of the way down.
async fn refuse_newer(connection: &mut PgConnection, steps: &[Step]) -> Result<(), MigrationError> {
    let version = version_on(connection).await.map_err(MigrationError::Database)?;
    let newer = version.is_some_and(|schema| schema.version > VERSION);
    match newer || steps.iter().any(|step| !step.known) {
        true => Err(MigrationError::Newer),
        false => Ok(()),
    }
}

/// This build's steps, and those of newer builds that the database has.
async fn steps(connection: &mut PgConnection) -> sqlx::Result<Vec<Step>> {
    let mut applied: Vec<(i64, String)> = match exists(connection, TABLE).await? {
        false => Vec::new(),
        true => {
            let sql = AssertSqlSafe(format!("SELECT version, description FROM {TABLE} ORDER BY version"));
            sqlx::query_as(sql).fetch_all(connection).await?
        }
    };
    let mut steps = Vec::new();
    for known in migrator().iter().filter(|step| step.migration_type.is_up_migration()) {
        let was = applied.len();
        applied.retain(|(version, _)| *version != known.version);
        steps.push(Step {
            version: known.version,
            name: known.description.to_string(),
            applied: applied.len() < was,
            known: true,
        });
    }
    let unknown =
        applied.into_iter().map(|(version, name)| Step { version, name, applied: true, known: false });
    steps.extend(unknown);
    Ok(steps)
}

async fn exists(connection: &mut PgConnection, table: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL").bind(table).fetch_one(connection).await
}
