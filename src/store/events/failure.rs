//! How storing a batch fails: whether it was an event that broke a rule of the database's own, or
//! something that no event is to blame for.

use sqlx::error::DatabaseError;

use crate::store::Error;
use crate::store::error::{at_commit, ends_session};

/// A failure of an attempt.
#[derive(Debug)]
pub(super) enum Failure {
    /// A rule of the database's: a constraint, a trigger, a type or an encoding narrower than ours.
    Row(Broken),
    /// Everything else.
    Store(Error),
}

/// A rule that an event breaks.
#[derive(Debug)]
pub(super) struct Broken {
    error: sqlx::Error,
    /// In the contract, or nothing where the database names none.
    pub(super) field: &'static str,
}

impl Broken {
    /// Whether the database lacks a character of it, so that it can't even be asked for.
    pub(super) fn is_unspeakable(&self) -> bool {
        self.database().and_then(DatabaseError::code).is_some_and(|code| matches!(&*code, "22021" | "22P05"))
    }

    fn database(&self) -> Option<&dyn DatabaseError> {
        self.error.as_database_error()
    }

    /// For the log: what was broken, and nothing of the event.
    pub(super) fn tell(&self, events: usize) {
        let Some(error) = self.database() else { return };
        tracing::warn!(
            events,
            code = error.code().as_deref(),
            constraint = error.constraint(),
            rule = error.message(),
            "the database refuses events of a batch"
        );
    }
}

impl Failure {
    /// A commit fails for an event when a constraint or a trigger was put off until then.
    pub(super) fn at_commit(error: sqlx::Error) -> Failure {
        match error.as_database_error() {
            Some(database) if !ends_session(database) => error.into(),
            _ => Failure::Store(at_commit(error)),
        }
    }

    /// A deadlock or a failed serialization: the server has rolled back, and asks to be tried again.
    pub(super) fn was_rolled_back(&self) -> bool {
        let Failure::Store(Error::Unavailable(sqlx::Error::Database(db))) = self else { return false };
        db.code().is_some_and(|code| code.starts_with("40"))
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Failure {
        match error.as_database_error().and_then(broken_field) {
            Some(field) => Failure::Row(Broken { error, field }),
            None => Failure::Store(error.into()),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        match failure {
            Failure::Row(Broken { error, .. }) => Error::Internal(error),
            Failure::Store(error) => error,
        }
    }
}

/// The field of a row that the database refuses for its content, or nothing; None where it refuses
/// something else. 21, 22 and 23 are what values can do wrong, 27, 44 and P0 what a trigger or a
/// view says of them, and 54000 an index entry past what an index holds.
fn broken_field(error: &(dyn DatabaseError + 'static)) -> Option<&'static str> {
    let code = error.code()?;
    let class = matches!(code.get(..2)?, "21" | "22" | "23" | "27" | "44" | "P0");
    if !class && code != "54000" {
        return None;
    }
    let postgres = error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>();
    match postgres.and_then(sqlx::postgres::PgDatabaseError::column) {
        None => Some(""),
        // A column that we do not write is the table's fault, not an event's.
        Some(column) => FIELDS.iter().find(|(ours, _)| *ours == column).map(|(_, field)| *field),
    }
}

/// Columns, and what the contract calls them.
const FIELDS: [(&str, &str); 16] = [
    ("request_id", "request_id"),
    ("auth_id", "auth_id"),
    ("user_id", "user_id"),
    ("group_id", "group_id"),
    ("resource_id", "resource_id"),
    ("resource_type", "resource_type"),
    ("model", "model"),
    ("base_model", "base_model"),
    ("adapter", "adapter"),
    ("prompt_tokens", "prompt_tokens"),
    ("cached_tokens", "cached_tokens"),
    ("completion_tokens", "completion_tokens"),
    ("finish_reason", "finish_reason"),
    ("gpu_type", "gpu_type"),
    ("aborted", "aborted"),
    ("event_ts", "event_time"),
];
