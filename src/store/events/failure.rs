//! How storing a batch fails: whether it was an event that broke a rule of the database's own, or
//! something that no event is to blame for.

use sqlx::error::DatabaseError;
use sqlx::postgres::PgDatabaseError;

use crate::store::Error;
use crate::store::error::{at_commit, ends_session, said};

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

    /// The schema and the name of the index that it would be twice in, where it is one. Whether
    /// that is the event's fault is for what the index is over to say.
    pub(super) fn index(&self) -> Option<(&str, &str)> {
        let error = self.database()?;
        matches!(&*error.code()?, "23505" | "23P01").then_some(())?;
        let postgres = error.try_downcast_ref::<PgDatabaseError>()?;
        Some((postgres.schema()?, postgres.constraint()?))
    }

    /// It says nothing of the event: the database takes no other one either.
    pub(super) fn takes_none(&self) -> Error {
        Error::TakesNone(self.database().map(said).unwrap_or_default())
    }

    fn database(&self) -> Option<&(dyn DatabaseError + 'static)> {
        self.error.as_database_error()
    }

    /// For the log: what was broken, and nothing of the event.
    pub(super) fn tell(&self, events: usize) {
        let Some(error) = self.database() else { return };
        tracing::warn!(
            events,
            code = error.code().as_deref(),
            constraint = error.constraint(),
            rule = said(error),
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
        match error.as_database_error().map_or(Blame::Nobody, blame) {
            Blame::Event(field) => Failure::Row(Broken { error, field }),
            Blame::Table => Failure::Store(Broken { error, field: "" }.takes_none()),
            Blame::Nobody => Failure::Store(error.into()),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        match failure {
            Failure::Row(broken) => broken.takes_none(),
            Failure::Store(error) => error,
        }
    }
}

/// Whose a rule is.
enum Blame {
    /// The event's, as far as one failure tells: the field that it names, or nothing.
    Event(&'static str),
    /// The table's: whatever the event holds.
    Table,
    /// It is no rule.
    Nobody,
}

/// 21, 22 and 23 are what values can do wrong, 27, 44 and P0 what a trigger or a view says of them,
/// and 54000 an index entry past what an index holds. A sequence at its end, a partition that is not
/// there, and a column that we do not write are the table's.
fn blame(error: &(dyn DatabaseError + 'static)) -> Blame {
    let code = error.code().unwrap_or_default();
    let class = matches!(code.get(..2), Some("21" | "22" | "23" | "27" | "44" | "P0"));
    if !class && code != "54000" {
        return Blame::Nobody;
    }
    let Some(postgres) = error.try_downcast_ref::<PgDatabaseError>() else { return Blame::Nobody };
    // A check has a name, and what a trigger raises has no table.
    let partition = code == "23514" && postgres.constraint().is_none() && postgres.table().is_some();
    if code == "2200H" || partition {
        return Blame::Table;
    }
    match postgres.column() {
        None => Blame::Event(""),
        Some(column) => {
            let ours = FIELDS.iter().find(|(ours, _)| *ours == column);
            ours.map_or(Blame::Table, |(_, field)| Blame::Event(field))
        }
    }
}

/// Columns, and what the contract calls them.
pub(super) const FIELDS: [(&str, &str); 16] = [
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
