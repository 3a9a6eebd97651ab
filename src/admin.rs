//! The admin address: `/metrics`, `/healthz` and `/readyz` over plain HTTP, for machines in
//! the same network. It has no secrets to keep and keeps none: no addresses, statements, paths
//! or prices; those are in the log. Few are let in at once, and not for long ([`door`]).

mod door;

use std::fmt::Write;
use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::header::{CONNECTION, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::door::{Door, Inside};
use crate::metrics::{self, Metrics};
use crate::service::pricebooks::Pricebooks;
use crate::service::readiness::Readiness;
use crate::service::rfc3339;
use crate::service::table_jobs::JobReport;

/// How long a stop waits for answers under way. A client that never finishes its request
/// would hold it for ever.
const GRACE: Duration = Duration::from_secs(2);

/// What is shown.
#[derive(Debug, Clone)]
pub struct AdminState {
    /// For `/metrics`.
    pub metrics: Arc<Metrics>,
    /// What [`crate::service::readiness::watch`] publishes.
    pub readiness: watch::Receiver<Readiness>,
    /// The pricebook in force.
    pub pricebooks: Arc<Pricebooks>,
    /// Work over whole tables, as [`crate::service::table_jobs::watch`] publishes it.
    pub jobs: watch::Receiver<Vec<JobReport>>,
}

/// Serves until it is told to stop.
pub async fn serve(listener: TcpListener, state: AdminState, stop: CancellationToken) {
    let pages = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .with_state(state);
    serve_pages(listener, pages, stop).await;
}

/// Serves `/metrics` and `/healthz` of a process that is no service until it is told to stop.
pub async fn serve_metrics(
    listener: TcpListener,
    encode: impl Fn() -> Result<String, std::fmt::Error> + Clone + Send + Sync + 'static,
    stop: CancellationToken,
) {
    let pages = Router::new()
        .route("/metrics", get(async move || encoded(encode())))
        .route("/healthz", get(async || "ok\n"));
    serve_pages(listener, pages, stop).await;
}

async fn serve_pages(listener: TcpListener, pages: Router, stop: CancellationToken) {
    // Whoever comes again knocks again.
    let pages = pages.layer(map_response(async |mut answer: Response| {
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        answer
    }));
    let door = Door { listener, inside: Inside::default() };
    let server = axum::serve(door, pages).with_graceful_shutdown(stop.clone().cancelled_owned());
    let too_long = async {
        stop.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        // It meets errors of single connections by going on.
        _ = server.into_future() => {}
        () = too_long => {}
    }
}

async fn metrics(State(state): State<AdminState>) -> Response {
    encoded(state.metrics.encode())
}

fn encoded(text: Result<String, std::fmt::Error>) -> Response {
    match text {
        Ok(text) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn readyz(State(state): State<AdminState>) -> (StatusCode, String) {
    let readiness = state.readiness.borrow().clone();
    let code = if readiness.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, report(&readiness, &state.pricebooks, &state.jobs.borrow()))
}

/// A line a check. A refused pricebook is told, and no reason to be unready: the one in force
/// prices on.
fn report(readiness: &Readiness, pricebooks: &Pricebooks, jobs: &[JobReport]) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let mut line = |name: &str, said: &str| _ = writeln!(text, "{name}: {said}");
    let said = |check: &Result<(), String>| check.clone().err().unwrap_or_else(|| "ok".into());
    line("database", &said(&readiness.database));
    line("schema", &said(&readiness.schema));
    let pricebook = match pricebooks.refused() {
        None => "ok".into(),
        Some(refused) => format!(
            "ok, but the file was changed and is refused since {}; the log says why",
            rfc3339(refused.at)
        ),
    };
    line("pricebook", &format!("{pricebook} (digest {})", pricebooks.current().book.digest()));
    // No reason to be unready either.
    for job in jobs.iter().filter(|job| job.is_open()) {
        line(&format!("job {}", job.job), &job.to_string());
    }
    if readiness.stopping {
        line("service", "stopping");
    }
    text
}
