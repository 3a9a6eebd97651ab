//! What can go wrong between us and the database, told apart by SQLSTATE and constraint,
//! never by message. [`Display`](std::fmt::Display) is safe for a client; the source is for
//! the log.

use sqlx::error::DatabaseError;
use sqlx::postgres::{PgDatabaseError, PgSeverity};

/// A failure of the store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection, a server that is starting, stopping, full or in recovery: the step in
    /// hand was certainly not committed.
    #[error("the database is not available; nothing of this step was committed")]
    Unavailable(#[source] sqlx::Error),
    /// The connection broke at COMMIT: whether it happened is unknown. Every write of ours
    /// is safe to repeat.
    #[error("the connection broke while committing; it is safe to repeat the call")]
    OutcomeUnknown(#[source] sqlx::Error),
    /// A statement took longer than it may, or an operator cancelled it.
    #[error(
        "a statement was cancelled: it took too long, or someone stopped it; nothing of it was committed"
    )]
    Cancelled(#[source] sqlx::Error),
    /// The role may not do this: it is another instance's duty, or a grant is missing.
    #[error(
        "this service's database role may not do this; ask a service whose role may, or have it granted \
         (README, Least privilege)"
    )]
    Denied(#[source] sqlx::Error),
    /// Another run took over: the step in hand was not committed (R8).
    #[error("another process or run took over; the hours in hand were not committed")]
    LeaseLost,
    /// The window holds rows of a higher fence: a newer run wrote them (R8).
    #[error("a newer run wrote rated usage in these hours; they were not committed")]
    HigherFence,
    /// Someone asked the run to stop.
    #[error("someone asked the run to stop")]
    CancelAsked,
    /// The window holds rows in another currency than the pricebook's (R13).
    #[error("the window holds rated usage in {0}, another currency than the pricebook's")]
    ForeignCurrency(String),
    /// A rollup's cost, or a total, is past what a row can hold.
    #[error("a cost in this window is too large to be kept exactly; look at its token counts and rates")]
    CostOutOfRange,
    /// So many events of a batch break a rule of the database's that it took too long to tell which.
    #[error(
        "the database refuses so many events of this batch that it takes too long to tell which; send fewer at once"
    )]
    SearchTooLong,
    /// The database refuses every event of a batch that it does not have, by a rule that may be no
    /// event's fault: which one is for the log.
    #[error(
        "the database takes none of these events; look at its rules and sequences: the log has the details"
    )]
    TakesNone(String),
    /// What was about to be committed did not add up; it was rolled back.
    #[error("a check before commit failed and nothing of this step was written; the log has the details")]
    Inconsistent(&'static str),
    /// Everything else is a defect of ours.
    #[error("internal error; the log has the details")]
    Internal(#[source] sqlx::Error),
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Error {
        match &error {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => Error::Unavailable(error),
            sqlx::Error::Database(db) => match db.code() {
                Some(code) if code == "57014" => Error::Cancelled(error),
                Some(code) if code == "42501" => Error::Denied(error),
                Some(code) if is_unavailable(&code) => Error::Unavailable(error),
                // numeric_value_out_of_range: a sum of tokens past bigint.
                Some(code) if code == "22003" => Error::CostOutOfRange,
                _ if db.constraint() == Some("rated_usage_money_fits") => Error::CostOutOfRange,
                _ => Error::Internal(error),
            },
            _ => Error::Internal(error),
        }
    }
}

impl Error {
    /// What the log has beside the error's own words: the database's, as long as they can't hold a row.
    pub fn detail(&self) -> String {
        match std::error::Error::source(self) {
            Some(source) => match source.downcast_ref::<sqlx::Error>() {
                Some(sqlx::Error::Database(database)) => said(&**database),
                _ => format!("{source:?}"),
            },
            None => String::new(),
        }
    }

    /// Whether it is about the rows in hand, so that fewer or others of them may do better: what
    /// they hold, what forbids to change them, or how long they take.
    pub fn is_about_rows(&self) -> bool {
        match self {
            Error::Cancelled(_) | Error::CostOutOfRange | Error::Inconsistent(_) => true,
            // Data, a constraint, a trigger's refusal, a page that is damaged.
            Error::Internal(sqlx::Error::Database(db)) => db.code().is_some_and(|code| {
                matches!(code.get(..2), Some("22" | "23" | "27" | "44" | "P0"))
                    || matches!(&*code, "XX001" | "XX002")
            }),
            _ => false,
        }
    }

    /// For those who work on the database itself: with what the database said where only it knows.
    pub fn explained(&self) -> String {
        match self {
            Error::Internal(sqlx::Error::Database(db)) => {
                format!("{} (SQLSTATE {})", db.message(), db.code().unwrap_or_default())
            }
            other => other.to_string(),
        }
    }

    /// Whether it passes by itself, and the same is to be tried again.
    pub fn passes(&self) -> bool {
        matches!(self, Error::Unavailable(_) | Error::OutcomeUnknown(_))
    }

    /// A connection that says nothing any more, and was not asked to commit.
    pub fn gone() -> Error {
        Error::Unavailable(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()))
    }

    /// A connection that says nothing any more.
    pub fn no_answer() -> Error {
        Error::OutcomeUnknown(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()))
    }
}

/// A database's error for the log: code, table and constraint, and its message. What a trigger raises
/// may quote a row, as may what is said of a value (22, 44): of these the place, and no more. Its
/// `DETAIL`, which has the failing row, is never told.
pub(crate) fn said(error: &(dyn DatabaseError + 'static)) -> String {
    let code = error.code().unwrap_or_default();
    let mut words = vec![code.to_string()];
    words.extend(error.table().map(|table| format!("table {table}")));
    words.extend(error.constraint().map(|constraint| format!("constraint {constraint}")));
    let place = error.try_downcast_ref::<PgDatabaseError>().and_then(PgDatabaseError::r#where);
    // The first line names the function and its line; those below it may be statements.
    let function = place.and_then(|place| place.lines().next()).filter(|line| line.starts_with("PL/"));
    match function {
        Some(function) => words.push(function.to_owned()),
        None if matches!(code.get(..2), Some("22" | "44" | "P0")) => {}
        None => words.push(error.message().to_owned()),
    }
    words.join(", ")
}

/// SQLSTATEs that say: not now. 08 connection, 40 rolled back, 53 resources (a full disk),
/// 57 an operator or a timeout, 58 the system, 25006 a standby, 25P03 idle too long, 55P03 a
/// lock not granted.
fn is_unavailable(code: &str) -> bool {
    matches!(code.get(..2), Some("08" | "40" | "53" | "57" | "58"))
        || matches!(code, "25006" | "25P03" | "55P03")
}

/// A commit that fails on the way is neither done nor undone for sure, unless the server
/// itself answered with an error and lived on: one that ends the session (an operator, a full
/// disk under the log) may come after the commit was written. An idle session had not begun it.
pub(crate) fn at_commit(error: sqlx::Error) -> Error {
    match &error {
        sqlx::Error::Database(db)
            if !ends_session(&**db) || db.code().is_some_and(|code| code == "25P03") =>
        {
            error.into()
        }
        _ => Error::OutcomeUnknown(error),
    }
}

pub(crate) fn ends_session(error: &(dyn DatabaseError + 'static)) -> bool {
    let error = error.try_downcast_ref::<PgDatabaseError>();
    error.is_none_or(|error| matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic))
}
