//! Calls as their caller sees them: a span each, as the semantic conventions for RPC have it, whose
//! context goes with the call (W3C `traceparent`), and how long it took.

use std::sync::OnceLock;
use std::task::{Context, Poll};
use std::time::Instant;

use opentelemetry::metrics::Histogram;
use opentelemetry::{KeyValue, global};
use tonic::Code;
use tonic::body::Body;
use tonic::codegen::http::{HeaderName, HeaderValue, Request, Response, Uri};
use tonic::codegen::{BoxFuture, Service};
use tracing::{Instrument, Span};

use super::code;
use crate::grpc::answer::{Told, telling};
use crate::telemetry;

/// A connection whose calls are told. Cheap to clone where `S` is.
#[derive(Debug, Clone)]
pub struct Traced<S> {
    next: S,
    server: Uri,
}

impl<S> Traced<S> {
    /// Tells the calls of `next`, a connection to `server`.
    pub(super) fn new(next: S, server: Uri) -> Traced<S> {
        Traced { next, server }
    }
}

impl<S> Service<Request<Body>> for Traced<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Future: Send + 'static>,
    S::Error: 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<Response<Body>, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.next.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let method = request.uri().path().trim_start_matches('/').to_owned();
        let span = span(&method, &self.server);
        for (name, value) in telemetry::inject(&span) {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                request.headers_mut().insert(name, value);
            }
        }
        let mut call = Call { method, began: Instant::now(), span, ended: None };
        let answer = self.next.call(request).instrument(call.span.clone());
        Box::pin(async move {
            match answer.await {
                Ok(response) => Ok(telling(response, call)),
                Err(error) => {
                    // Nothing was answered: as the client will have it.
                    call.ended(Code::Unavailable);
                    Err(error)
                }
            }
        })
    }
}

fn span(method: &str, server: &Uri) -> Span {
    tracing::info_span!(
        "call",
        otel.name = method,
        otel.kind = "client",
        otel.status_code = tracing::field::Empty,
        rpc.system.name = "grpc",
        rpc.method = method,
        rpc.response.status_code = tracing::field::Empty,
        error.type = tracing::field::Empty,
        server.address = server.host(),
        server.port = server.port_u16(),
    )
}

/// A call that goes on.
struct Call {
    method: String,
    began: Instant,
    span: Span,
    /// None: nobody waited for its end.
    ended: Option<Code>,
}

impl Told for Call {
    fn ended(&mut self, code: Code) {
        self.ended = Some(code);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let ended = self.ended.unwrap_or(Code::Cancelled);
        let (code, failed) = (code(ended), ended != Code::Ok);
        self.span.in_scope(|| {
            self.span.record("rpc.response.status_code", code);
            if failed {
                self.span.record("error.type", code);
                self.span.record("otel.status_code", "ERROR");
            }
        });
        let attributes = [
            KeyValue::new("rpc.system.name", "grpc"),
            KeyValue::new("rpc.method", std::mem::take(&mut self.method)),
            KeyValue::new("rpc.response.status_code", code),
            KeyValue::new("error.type", code),
        ];
        let known = if failed { &attributes[..] } else { &attributes[..3] };
        duration().record(self.began.elapsed().as_secs_f64(), known);
    }
}

fn duration() -> &'static Histogram<f64> {
    static DURATION: OnceLock<Histogram<f64>> = OnceLock::new();
    DURATION.get_or_init(|| {
        let meter = global::meter("rater");
        let histogram = meter.f64_histogram("rpc.client.call.duration").with_unit("s");
        histogram.with_description("How long calls took, a stream to its end").build()
    })
}
