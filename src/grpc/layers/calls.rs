//! Each call as it is seen from outside: a span under its caller's (W3C `traceparent`), as the
//! semantic conventions for RPC have it, and a count by method and code. It ends with the last
//! byte of its answer, a stream with its trailers; one that its caller left is CANCELLED.
//!
//! Health checks and reflection are counted and make no span: a probe every few seconds tells
//! nobody anything.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::Code;
use tracing::{Instrument, Span};

use super::{Around, Next, Request, Response, pass};
use crate::grpc::answer::{Told, telling};
use crate::grpc::client::code;
use crate::grpc::listener::Peer;
use crate::metrics::{EndedCall, Metrics};
use crate::proto::DESCRIPTOR_SET;
use crate::telemetry;

/// What is called that is none of ours: its name is its caller's, and never a label.
const OTHER: &str = "_OTHER";
/// What any server has.
const COMMON: [&str; 4] = [
    "grpc.health.v1.Health/Check",
    "grpc.health.v1.Health/Watch",
    "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];
/// The longest name of something unknown that is told.
const NAME_LIMIT: usize = 128;

/// The layer.
#[derive(Debug, Clone)]
pub struct Calls {
    metrics: Arc<Metrics>,
}

impl Calls {
    /// Tells them to these.
    pub fn new(metrics: Arc<Metrics>) -> Calls {
        let codes: Vec<_> = (0..=16).map(|number| code(Code::from_i32(number))).collect();
        methods().ours.values().for_each(|method| metrics.call_expected(method, &codes));
        Calls { metrics }
    }
}

impl Around for Calls {
    async fn around<N: Next>(self, request: Request, next: N) -> Response {
        let method = methods().label(request.uri().path());
        let span = span(&request, method);
        self.metrics.call_began();
        let call = Call { metrics: self.metrics, method, began: Instant::now(), span, ended: None };
        let response = pass(next, request).instrument(call.span.clone()).await;
        telling(response, call)
    }
}

fn span(request: &Request, method: &'static str) -> Span {
    if COMMON.contains(&method) {
        return Span::none();
    }
    let span = tracing::info_span!(
        "call",
        otel.name = if method == OTHER { "grpc" } else { method },
        otel.kind = "server",
        otel.status_code = tracing::field::Empty,
        rpc.system.name = "grpc",
        rpc.method = method,
        rpc.method_original = tracing::field::Empty,
        rpc.response.status_code = tracing::field::Empty,
        error.type = tracing::field::Empty,
        client.address = tracing::field::Empty,
        client.port = tracing::field::Empty,
        enduser.id = tracing::field::Empty,
    );
    if span.is_disabled() {
        return span;
    }
    telemetry::from_caller(&span, |name| {
        request.headers().get(name).and_then(|value| value.to_str().ok()).map(ToOwned::to_owned)
    });
    if method == OTHER {
        let path: String = request.uri().path().trim_start_matches('/').chars().take(NAME_LIMIT).collect();
        span.record("rpc.method_original", path);
    }
    if let Some(address) = request.extensions().get::<Peer>().and_then(|peer| peer.address) {
        span.record("client.address", address.ip().to_string());
        span.record("client.port", address.port());
    }
    span
}

/// A call that goes on. It is told when this is dropped: there is no way around it.
struct Call {
    metrics: Arc<Metrics>,
    method: &'static str,
    began: Instant,
    span: Span,
    /// None: its caller is gone before its end.
    ended: Option<Code>,
}

impl Drop for Call {
    fn drop(&mut self) {
        let given_up = if std::thread::panicking() { Code::Internal } else { Code::Cancelled };
        let ended = self.ended.unwrap_or(given_up);
        let (code, failed) = (code(ended), is_failure(ended));
        // A span ends when it was last entered.
        self.span.in_scope(|| {
            self.span.record("rpc.response.status_code", code);
            if failed {
                self.span.record("error.type", code);
                self.span.record("otel.status_code", "ERROR");
            }
        });
        let took = self.began.elapsed();
        self.metrics.call_ended(EndedCall { method: self.method, code, failed, took });
    }
}

/// Whether the service failed, and not its caller.
fn is_failure(code: Code) -> bool {
    match code {
        Code::Unknown
        | Code::DeadlineExceeded
        | Code::Unimplemented
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => true,
        Code::Ok
        | Code::Cancelled
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unauthenticated => false,
    }
}

impl Told for Call {
    fn ended(&mut self, code: Code) {
        self.ended = Some(code);
    }
}

/// What can be called, by path.
struct Methods {
    ours: HashMap<String, &'static str>,
}

impl Methods {
    fn label(&self, path: &str) -> &'static str {
        let common = || COMMON.into_iter().find(|method| path.strip_prefix('/') == Some(method));
        self.ours.get(path).copied().or_else(common).unwrap_or(OTHER)
    }
}

/// As the contract says. Its names are made once and live as long as the process: labels.
fn methods() -> &'static Methods {
    static METHODS: OnceLock<Methods> = OnceLock::new();
    METHODS.get_or_init(|| {
        let files = FileDescriptorSet::decode(DESCRIPTOR_SET).unwrap_or_default().file;
        let named = files.iter().flat_map(|file| {
            file.service.iter().flat_map(move |service| {
                let named = move |method: &str| format!("{}.{}/{method}", file.package(), service.name());
                service.method.iter().map(move |method| named(method.name()))
            })
        });
        Methods { ours: named.map(|name| (format!("/{name}"), &*name.leak())).collect() }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_of_the_contract_is_known_and_nothing_else_becomes_a_label() {
        assert_eq!(methods().ours.len(), 12);
        assert_eq!(methods().label("/rating.v1.RatingService/GetRun"), "rating.v1.RatingService/GetRun");
        assert_eq!(methods().label("/grpc.health.v1.Health/Check"), "grpc.health.v1.Health/Check");
        for unknown in ["/rating.v1.RatingService/Drop", "/", "", "rating.v1.RatingService/GetRun"] {
            assert_eq!(methods().label(unknown), OTHER);
        }
    }
}
