//! What goes wrong, by what is to be done about it.

use rater::grpc::client::{ConnectError, Failure};

use crate::line::Inexact;

/// Why a step did not come to its end. None has left a trace in the ledger, but for a COMMIT whose
/// answer was lost: so whoever goes on reads first where the ledger stands.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// Rater, or the ledger's database, is away: try again later.
    #[error("{0}")]
    Away(String),
    /// Another process works on this ledger, and was faster: look where it stands now.
    #[error("another process works on this ledger")]
    Moved,
    /// The feed no longer has what comes after the cursor: a new first copy is needed.
    #[error("{0}")]
    Expired(String),
    /// Rater does not know the cursor: this is not the database that the ledger was made from, or
    /// it was restored.
    #[error("{0}")]
    Unknown(String),
    /// Nothing that passes by itself.
    #[error("{0}")]
    Stop(String),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Trouble {
        let text = format!("rater: {failure}");
        let token = failure.violations.iter().any(|(field, _)| field == "page_token");
        match failure.reason.as_str() {
            "CURSOR_EXPIRED" => Trouble::Expired(text),
            "CURSOR_UNKNOWN" => Trouble::Unknown(text),
            // A page token lives less long than a cursor: a newer version may not know it.
            _ if token => Trouble::Expired(text),
            _ if failure.may_pass => Trouble::Away(text),
            _ => Trouble::Stop(text),
        }
    }
}

impl From<ConnectError> for Trouble {
    fn from(error: ConnectError) -> Trouble {
        match error {
            ConnectError::Misconfigured(what) => Trouble::Stop(format!("--server: {what}")),
            ConnectError::Unreachable(what) => Trouble::Away(format!("can't reach rater: {what}")),
        }
    }
}

impl From<sqlx::Error> for Trouble {
    fn from(error: sqlx::Error) -> Trouble {
        if matches!(error, sqlx::Error::RowNotFound) {
            return Trouble::Stop("this ledger was not begun; run `invoice_ledger follow`".into());
        }
        let text = format!("the ledger's database: {error}");
        let passes = match &error {
            // Connections (08), transactions that met another (40), room (53), an operator (57).
            sqlx::Error::Database(said) => said
                .code()
                .is_some_and(|code| ["08", "40", "53", "57"].iter().any(|class| code.starts_with(class))),
            sqlx::Error::Io(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => true,
            // What a connection that breaks in the middle of an answer looks like.
            sqlx::Error::Protocol(_) => true,
            _ => false,
        };
        if passes { Trouble::Away(text) } else { Trouble::Stop(text) }
    }
}

impl From<Inexact> for Trouble {
    fn from(error: Inexact) -> Trouble {
        Trouble::Stop(format!("{error}; nothing of it is billed"))
    }
}
