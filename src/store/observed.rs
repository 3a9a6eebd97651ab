//! The database as it is seen from outside: a span an operation, as the semantic conventions for
//! databases have it, and how long it took. A statement's text, its parameters and the password
//! stay inside.
//!
//! An operation is what a caller of this folder waits for, which may be several statements of one
//! transaction. One outside of any trace (a sweep, a heartbeat, a look of a stream that waits) makes
//! no span: it would be a trace of its own, every few seconds.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use opentelemetry::metrics::Histogram;
use opentelemetry::trace::TraceContextExt;
use opentelemetry::{Context, KeyValue, global};
use sqlx::postgres::PgConnectOptions;
use tracing::{Instrument, Span};

use super::{Db, Error};

/// Seconds, as the conventions have them, and longer: S2 is one statement.
const BUCKETS: [f64; 12] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 300.0, 900.0];

/// Which database it is.
#[derive(Debug, Clone)]
pub(super) struct Server {
    address: Arc<str>,
    port: u16,
    database: Arc<str>,
}

impl Server {
    /// The one that these connect to.
    pub fn of(options: &PgConnectOptions) -> Server {
        let socket = options.get_socket().map(|path| path.to_string_lossy().into_owned());
        Server {
            address: socket.unwrap_or_else(|| options.get_host().to_owned()).into(),
            port: options.get_port(),
            database: options.get_database().unwrap_or_default().into(),
        }
    }

    /// Does `work` and tells it. `summary` is an operation and what it is about, `SELECT rated_usage`.
    pub async fn observed<T, E: Into<Error>>(
        &self,
        summary: &'static str,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Error> {
        self.step("", summary, work).await
    }

    /// The same for a step of a chunk: `S1`.
    pub async fn step<T, E: Into<Error>>(
        &self,
        step: &'static str,
        summary: &'static str,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Error> {
        let began = Instant::now();
        let span = match Context::map_current(|context| context.has_active_span()) {
            true => self.span(step, summary),
            false => Span::none(),
        };
        let result = work.instrument(span.clone()).await.map_err(Into::into);
        let failed = result.as_ref().err().and_then(failure);
        if let Some(failure) = &failed {
            span.record("otel.status_code", "ERROR");
            span.record("error.type", failure.kind);
            span.record("db.response.status_code", failure.sqlstate.as_deref());
        }
        self.count(summary, began.elapsed(), failed);
        result
    }

    fn span(&self, step: &'static str, summary: &'static str) -> Span {
        let (operation, collection) = parts(summary);
        tracing::info_span!(
            "operation",
            otel.name = summary,
            otel.kind = "client",
            otel.status_code = tracing::field::Empty,
            db.system.name = "postgresql",
            db.namespace = &*self.database,
            db.operation.name = operation,
            db.collection.name = collection,
            db.query.summary = summary,
            db.response.status_code = tracing::field::Empty,
            error.type = tracing::field::Empty,
            server.address = &*self.address,
            server.port = self.port,
            rater.step = (!step.is_empty()).then_some(step),
        )
    }

    fn count(&self, summary: &'static str, took: Duration, failed: Option<Failed>) {
        let (operation, collection) = parts(summary);
        let mut attributes = vec![
            KeyValue::new("db.system.name", "postgresql"),
            KeyValue::new("db.namespace", self.database.clone()),
            KeyValue::new("db.operation.name", operation),
            KeyValue::new("db.query.summary", summary),
            KeyValue::new("server.address", self.address.clone()),
            KeyValue::new("server.port", i64::from(self.port)),
        ];
        attributes.extend(collection.map(|name| KeyValue::new("db.collection.name", name)));
        if let Some(Failed { kind, sqlstate }) = failed {
            attributes.push(KeyValue::new("error.type", kind));
            attributes.extend(sqlstate.map(|code| KeyValue::new("db.response.status_code", code)));
        }
        duration().record(took.as_secs_f64(), &attributes);
    }
}

impl Db {
    /// As [`Server::observed`].
    pub(super) async fn observed<T, E: Into<Error>>(
        &self,
        summary: &'static str,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Error> {
        self.server.observed(summary, work).await
    }
}

/// `SELECT` and `rated_usage`.
fn parts(summary: &'static str) -> (&'static str, Option<&'static str>) {
    summary.split_once(' ').map_or((summary, None), |(operation, collection)| (operation, Some(collection)))
}

/// How the database failed.
struct Failed {
    kind: &'static str,
    sqlstate: Option<String>,
}

/// What is the database's failure, and not our own decision.
fn failure(error: &Error) -> Option<Failed> {
    let (kind, source) = match error {
        Error::Unavailable(source) => ("unavailable", source),
        Error::OutcomeUnknown(source) => ("outcome_unknown", source),
        Error::Cancelled(source) => ("cancelled", source),
        Error::Denied(source) => ("denied", source),
        Error::Internal(source) => ("internal", source),
        Error::LeaseLost
        | Error::HigherFence
        | Error::CancelAsked
        | Error::ForeignCurrency(_)
        | Error::CostOutOfRange
        | Error::SearchTooLong
        | Error::TakesNone(_)
        | Error::Inconsistent(_) => return None,
    };
    let sqlstate = source.as_database_error().and_then(|error| error.code());
    Some(Failed { kind, sqlstate: sqlstate.map(|code| code.into_owned()) })
}

fn duration() -> &'static Histogram<f64> {
    static DURATION: OnceLock<Histogram<f64>> = OnceLock::new();
    DURATION.get_or_init(|| {
        let meter = global::meter("rater");
        let histogram = meter.f64_histogram("db.client.operation.duration").with_unit("s");
        let histogram = histogram.with_description("How long the database's operations took");
        histogram.with_boundaries(BUCKETS.to_vec()).build()
    })
}
