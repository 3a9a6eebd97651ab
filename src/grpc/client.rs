//! The client's side of the wire: connecting, and a call's error without tonic's types, which
//! stay in this folder.

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::status::DOMAIN;

mod absence;
mod alert;
mod channel;
mod connection;
pub mod events;
pub mod health;
pub mod rating;
mod renewal;
pub mod runs;
#[cfg(test)]
pub(crate) mod scripted;
mod traced;
pub mod usage;

pub use connection::{ConnectError, Server, connect, connect_lazy};

/// A connection to a service, which reconnects by itself. Cheap to clone.
pub type Channel = traced::Traced<channel::Channel>;

/// The innermost error, which says what happened; the outer ones say "transport error".
fn root_cause<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause
}

/// The error that a call ended with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// As the protocol writes it: `UNAVAILABLE`.
    pub code: &'static str,
    /// For a person.
    pub message: String,
    /// The reason in the service's own ErrorInfo, `WINDOW_BUSY`; empty where there is none, such as
    /// from a proxy.
    pub reason: String,
    /// ErrorInfo's metadata.
    pub metadata: HashMap<String, String>,
    /// BadRequest's fields and what is wrong with each.
    pub violations: Vec<(String, String)>,
    /// How long the service asks to wait before another try.
    pub retry_after: Option<Duration>,
    /// Whether the same call may be answered otherwise when it is tried again.
    pub may_pass: bool,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.message.as_str() {
            "" => f.write_str(self.code),
            message => write!(f, "{}: {message}", self.code),
        }
    }
}

impl Error for Failure {}

impl Failure {
    /// A call that was given up here after `waited`.
    fn no_answer(waited: Duration) -> Failure {
        Failure::made_here(Code::DeadlineExceeded, format!("no answer within {}s", waited.as_secs()))
    }

    /// A stream that the service ended before what it tells of did.
    fn ended() -> Failure {
        Failure::made_here(Code::Unavailable, "the service ended the stream".into())
    }

    /// A stream that has gone on for as long as the service lets one, or as what was shown was good:
    /// whoever follows asks again, and shows what is in the files by then.
    fn is_a_streams_deadline(&self) -> bool {
        ["DEADLINE_PASSED", "UNAUTHENTICATED"].contains(&self.reason.as_str())
    }

    fn made_here(broken: Code, message: String) -> Failure {
        Failure {
            code: code(broken),
            message,
            reason: String::new(),
            metadata: HashMap::new(),
            violations: Vec::new(),
            retry_after: None,
            may_pass: true,
        }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Failure {
        let info = status.get_details_error_info().filter(|info| info.domain == DOMAIN);
        let (reason, metadata) = info.map(|info| (info.reason, info.metadata)).unwrap_or_default();
        let fields = status.get_details_bad_request().map(|details| details.field_violations);
        let violations = fields.unwrap_or_default().into_iter().map(|v| (v.field, v.description)).collect();
        Failure {
            code: code(status.code()),
            message: status.message().into(),
            reason,
            metadata,
            violations,
            retry_after: status.get_details_retry_info().and_then(|info| info.retry_delay),
            may_pass: may_pass(&status),
        }
    }
}

/// A status with a source was made up here: the connection broke, and the client has no better
/// code for it than UNKNOWN. CANCELLED is how a deadline that passed on the way comes back.
fn may_pass(status: &Status) -> bool {
    status.source().is_some()
        || matches!(
            status.code(),
            Code::Unavailable
                | Code::ResourceExhausted
                | Code::DeadlineExceeded
                | Code::Aborted
                | Code::Cancelled
        )
}

/// A code as the protocol writes it.
pub(super) fn code(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
