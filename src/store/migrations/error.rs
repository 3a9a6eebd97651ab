//! Why a schema could not be brought where it was asked to be: one line each, for the person
//! at the command line. It tells what the database said, unlike [`crate::store::Error`], whose
//! words may reach a client.

use sqlx::migrate::MigrateError;
use sqlx::postgres::PgDatabaseError;

/// Raised by a step that meets a table which can't be adopted; its text is for people.
const NOT_ADOPTABLE: &str = "RT001";
const UNIQUE_VIOLATION: &str = "23505";
const NATURAL_KEY: &str = "rated_usage_natural_key";
/// A lock was not to be had in time, or only by a deadlock.
const LOCK_NOT_AVAILABLE: &str = "55P03";
const DEADLOCK_DETECTED: &str = "40P01";

/// A schema that could not be brought where it was asked to be. What was done until then
/// stays, and the next call goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// Another migrator holds the lock, or a table stayed locked, past the time limit.
    #[error("{0}; try again")]
    Busy(&'static str),
    /// A table that is there cannot be adopted; says why, and what to do.
    #[error("{0}")]
    NotAdoptable(String),
    /// The database was migrated by a newer build, which alone knows the way down.
    #[error("the schema was made by a newer rater; migrate it down with that one")]
    Newer,
    /// The database has a step in another form than this build.
    #[error(
        "the schema was made by another build of rater, whose step {0} is not this one's; use that build"
    )]
    Foreign(i64),
    /// A step failed.
    #[error("migration step {step} failed: {}", words(.source))]
    Step {
        /// The step's number.
        step: i64,
        /// What the database said.
        source: sqlx::Error,
    },
    /// The database could not be reached, or refused what every migration begins with.
    #[error("the database can't be migrated: {}", words(.0))]
    Database(#[source] sqlx::Error),
}

impl From<MigrateError> for MigrationError {
    fn from(error: MigrateError) -> MigrationError {
        match error {
            MigrateError::ExecuteMigration(source, step) => {
                adoption(&source).unwrap_or(MigrationError::Step { step, source })
            }
            MigrateError::VersionMismatch(step) => MigrationError::Foreign(step),
            MigrateError::Execute(source) => MigrationError::Database(source),
            other => MigrationError::Database(sqlx::Error::Configuration(Box::new(other))),
        }
    }
}

/// What is wrong with a table that is there, where that is what is wrong.
fn adoption(error: &sqlx::Error) -> Option<MigrationError> {
    let said = error.as_database_error()?;
    if has_code(error, NOT_ADOPTABLE) {
        return Some(MigrationError::NotAdoptable(said.message().to_owned()));
    }
    // A unique index over rows that are there.
    let twice = has_code(error, UNIQUE_VIOLATION) && said.constraint() == Some(NATURAL_KEY);
    twice.then(|| {
        let which = said.try_downcast_ref::<PgDatabaseError>().and_then(PgDatabaseError::detail);
        MigrationError::NotAdoptable(format!(
            "rated_usage can't be adopted: it has rows with the same key, which would be billed twice ({}); \
             delete all but the right one and run it again",
            which.unwrap_or("the database does not say which").trim_end_matches('.')
        ))
    })
}

/// Whether a later try may find what this one did not get.
pub(super) fn passes(error: &MigrateError) -> bool {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
            has_code(error, LOCK_NOT_AVAILABLE) || has_code(error, DEADLOCK_DETECTED)
        }
        _ => false,
    }
}

fn has_code(error: &sqlx::Error, code: &str) -> bool {
    error.as_database_error().and_then(|e| e.code()).is_some_and(|c| c == code)
}

/// What the database said, on one line.
fn words(error: &sqlx::Error) -> String {
    let text = match error {
        sqlx::Error::Database(said) => {
            let detail = said.try_downcast_ref::<PgDatabaseError>().and_then(PgDatabaseError::detail);
            match detail {
                Some(detail) => format!("{}: {detail}", said.message()),
                None => said.message().to_owned(),
            }
        }
        other => other.to_string(),
    };
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
