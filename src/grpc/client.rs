//! The client's side of the wire: connecting, and a call's error without tonic's types, which
//! stay in this folder.

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::status::DOMAIN;

mod absence;
pub mod events;
pub mod health;
pub mod rating;
pub mod runs;
#[cfg(test)]
pub(crate) mod scripted;
mod traced;
pub mod usage;

/// A connection to a service, which reconnects by itself. Cheap to clone.
pub type Channel = traced::Traced<tonic::transport::Channel>;

/// Where a service is.
#[derive(Debug, Clone)]
pub struct Server {
    /// `http://HOST:PORT` or `https://HOST:PORT`.
    pub url: String,
    /// The PEM file of the certificate authority of an https server.
    pub tls_ca: Option<PathBuf>,
}

/// Why there is no connection. Each names what is wrong; what to do is the caller's to add.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The URL, or what TLS needs, is wrong.
    #[error("{0}")]
    Misconfigured(String),
    /// Nothing answers there.
    #[error("{0}")]
    Unreachable(String),
}

/// Connects now, so that a server that isn't there is told before anything starts.
pub async fn connect(server: &Server) -> Result<Channel, ConnectError> {
    let endpoint = endpoint(server).map_err(ConnectError::Misconfigured)?;
    let channel = endpoint.connect().await;
    let channel = channel.map_err(|error| ConnectError::Unreachable(root_cause(&error).to_string()))?;
    Ok(traced::Traced::new(channel, endpoint.uri().clone()))
}

/// A connection that is made when it is needed: for whoever works on while the service is not
/// there yet. What is wrong with the URL, or with what TLS needs, is an error at once.
pub fn connect_lazy(server: &Server) -> Result<Channel, ConnectError> {
    let endpoint = endpoint(server).map_err(ConnectError::Misconfigured)?;
    Ok(traced::Traced::new(endpoint.connect_lazy(), endpoint.uri().clone()))
}

fn endpoint(server: &Server) -> Result<Endpoint, String> {
    let tls = server.url.starts_with("https://");
    if !tls && !server.url.starts_with("http://") {
        return Err("begins with neither http:// nor https://; write http://HOST:PORT".into());
    }
    let endpoint = Endpoint::from_shared(server.url.clone())
        .map_err(|error| format!("is no URL ({}); write http://HOST:PORT", root_cause(&error)))?
        .user_agent(concat!("rater/", env!("CARGO_PKG_VERSION")))
        .map_err(|error| error.to_string())?
        .connect_timeout(Duration::from_secs(5))
        // A call may take minutes; a connection that died silently must not.
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10));
    if !tls {
        return Ok(endpoint);
    }
    let config = tls_config(server.tls_ca.as_deref())?;
    endpoint.tls_config(config).map_err(|error| root_cause(&error).to_string())
}

fn tls_config(ca: Option<&Path>) -> Result<ClientTlsConfig, String> {
    let Some(path) = ca else {
        return Err("https needs --tls-ca or RATER_TLS_CA: the PEM file of the server's authority".into());
    };
    let pem = std::fs::read(path).map_err(|error| format!("--tls-ca {}: {error}", path.display()))?;
    Ok(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)))
}

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
