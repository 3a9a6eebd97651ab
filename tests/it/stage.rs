//! A stage for what goes wrong: a database, a pricebook, services over it, what a refusal may
//! say, and an account of what must stand in the tables afterwards.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use prost_types::Timestamp;
use rater::proto::{
    BillingEvent, RateWindowRequest, RatingResult, RecordEventsRequest, RecordEventsResponse,
};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Executor};
use tempfile::TempDir;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::harness::{Service, TestDb, database, temp_dir};

/// Every model that these tests use, priced directly. [`MISMATCHES`] repeats it.
const PRICEBOOK: &str = r#"version: 1
base_models:
  "acme/large": {prompt: "0.000003", cached: "0.0000003", completion: "0.000015"}
  "acme/small": {prompt: "0.0000002", cached: "0.00000005", completion: "0.0000006"}
"#;

/// Rows of rated_usage that a plain sum over the events does not give, and the other way round.
const MISMATCHES: &str = r"
WITH price (model, prompt, cached, completion) AS (
    VALUES ('acme/large', 0.000003, 0.0000003, 0.000015), ('acme/small', 0.0000002, 0.00000005, 0.0000006)
),
expected AS (
    SELECT auth_id, resource_id, model,
        to_timestamp(floor(extract(epoch FROM coalesce(event_ts, created_at)) / 3600) * 3600) AS hour,
        count(*), sum(prompt_tokens)::bigint, sum(cached_tokens)::bigint, sum(completion_tokens)::bigint,
        sum(greatest(prompt_tokens::bigint - cached_tokens, 0))::bigint,
        sum(greatest(prompt_tokens::bigint - cached_tokens, 0) * prompt + cached_tokens * cached
            + completion_tokens * completion)
    FROM billing_event JOIN price USING (model)
    GROUP BY 1, 2, 3, 4
),
held AS (
    SELECT auth_id, resource_id, model_id, window_start, event_count, prompt_tokens, cached_tokens,
        completion_tokens, billable_prompt_tokens, cost
    FROM rated_usage
)
SELECT (SELECT count(*) FROM (TABLE expected EXCEPT TABLE held) missing)
    + (SELECT count(*) FROM (TABLE held EXCEPT TABLE expected) wrong)";

/// R12: each rollup's records, in the order of the feed, tell its whole story and end with how it
/// stands; no record is without a place, and each place has as many as it says.
const FEED_FAULTS: &str = r"
WITH story AS (
    SELECT c.*, lag(operation) OVER w AS last_operation, lag(after_cost) OVER w AS last_cost,
        lag(after_event_count) OVER w AS last_events, lead(1) OVER w IS NULL AS newest
    FROM rated_usage_change c JOIN change_batch b USING (batch_id)
    WINDOW w AS (PARTITION BY c.auth_id, c.resource_id, c.model_id, c.window_start
        ORDER BY b.position, c.ordinal)
)
SELECT
    (SELECT count(*) FROM story
        WHERE (operation = 'insert') <> (coalesce(last_operation, 'delete') = 'delete')
            OR operation <> 'insert'
                AND (before_cost, before_event_count) IS DISTINCT FROM (last_cost, last_events))
    + (SELECT count(*) FROM (SELECT * FROM story WHERE newest AND operation <> 'delete') s
        FULL JOIN rated_usage u USING (auth_id, resource_id, model_id, window_start)
        WHERE (s.after_cost, s.after_event_count) IS DISTINCT FROM (u.cost, u.event_count))
    + (SELECT count(*) FROM rated_usage_change LEFT JOIN change_batch b USING (batch_id)
        WHERE b.batch_id IS NULL)
    + (SELECT count(*) FROM change_batch b
        WHERE changes <> (SELECT count(*) FROM rated_usage_change c WHERE c.batch_id = b.batch_id))";

/// The narrow gate of acquisition and takeover, an advisory lock.
pub const GATE: i64 = 0x7261_7465_725f_6c73;

/// 2026-06-01T00:00:00Z.
const FIRST_HOUR: i64 = 1_780_272_000;

/// A database and a pricebook.
pub struct Stage {
    /// For `--database-url`.
    pub url: String,
    /// To look at the database with, and to be another writer.
    pub pool: PgPool,
    books: TempDir,
    _db: Option<TestDb>,
}

impl Stage {
    /// A database on the shared server.
    pub async fn new() -> Stage {
        let db = database().await;
        let stage = Stage::over(&db.url);
        Stage { _db: Some(db), ..stage }
    }

    /// A database that is there.
    pub fn over(url: &str) -> Stage {
        let books = temp_dir();
        std::fs::write(books.path().join("pricebook.yaml"), PRICEBOOK).unwrap();
        let options: PgConnectOptions = url.parse().unwrap();
        let pool = PgPoolOptions::new().max_connections(4).connect_lazy_with(options);
        Stage { url: url.into(), pool, books, _db: None }
    }

    pub fn pricebook(&self) -> String {
        self.books.path().join("pricebook.yaml").to_str().unwrap().into()
    }

    pub async fn service(&self, arguments: &[&str]) -> Service {
        self.service_over(&self.url, arguments).await
    }

    /// A service that reaches the database by another way.
    pub async fn service_over(&self, url: &str, arguments: &[&str]) -> Service {
        let pricebook = self.pricebook();
        Service::start(url, &[&["--pricebook", &pricebook], arguments].concat()).await
    }

    /// Runs statements as another session.
    pub async fn sql(&self, sql: &str) {
        self.pool.execute(AssertSqlSafe(sql.to_owned())).await.unwrap();
    }

    pub async fn number(&self, sql: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&self.pool).await.unwrap()
    }

    /// 0: rated_usage is what a plain sum over the events gives.
    pub async fn mismatches(&self) -> i64 {
        self.number(MISMATCHES).await
    }

    /// 0: the change feed tells how rated_usage came to stand as it does.
    pub async fn feed_faults(&self) -> i64 {
        self.number(FEED_FAULTS).await
    }

    /// The deadlocks that our connections ran into. A connection reports them at its end, if
    /// not before, so they are closed first.
    pub async fn deadlocks(&self) -> i64 {
        self.sql(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
             WHERE datname = current_database() AND application_name = 'rater'",
        )
        .await;
        self.number("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").await
    }

    /// Waits until that many sessions wait for an advisory lock.
    pub async fn waiting(&self, lock: i64, sessions: i64) {
        let sql = format!(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
                AND ((classid::bigint << 32) | objid::bigint) = {lock}
                AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        );
        let within = Duration::from_secs(30);
        until("sessions wait", within, async || self.number(&sql).await >= sessions).await;
    }

    /// `count` events in each hour of `[from, until)`, put there by another writer.
    pub async fn fill(&self, prefix: &str, from: i64, until: i64, count: i64) {
        let sql = "INSERT INTO billing_event (request_id, auth_id, resource_id, model, prompt_tokens,
                cached_tokens, completion_tokens, event_ts)
            SELECT format('%s-%s-%s', $1, h, n), 'auth-' || n % 7, 'res-' || n % 3,
                (ARRAY['acme/large', 'acme/small'])[1 + n % 2], 100 + n, n % 90, 5 + n % 11,
                to_timestamp($2) + make_interval(hours => h::int, secs => n % 3600)
            FROM generate_series($3::bigint, $4::bigint - 1) h, generate_series(1, $5::bigint) n";
        let query = sqlx::query(sql).bind(prefix).bind(FIRST_HOUR as f64);
        query.bind(from).bind(until).bind(count).execute(&self.pool).await.unwrap();
    }
}

/// The start of an hour, counted from 2026-06-01T00:00:00Z.
pub fn hour(n: i64) -> Timestamp {
    Timestamp { seconds: FIRST_HOUR + n * 3600, nanos: 0 }
}

/// A backfill of `[from, until)`.
pub fn window(from: i64, until: i64) -> RateWindowRequest {
    RateWindowRequest { since: Some(hour(from)), until: Some(hour(until)), ..Default::default() }
}

pub fn event(request_id: &str, at_hour: i64) -> BillingEvent {
    BillingEvent {
        request_id: request_id.into(),
        auth_id: "auth-1".into(),
        resource_id: "res-1".into(),
        model: "acme/large".into(),
        prompt_tokens: 100,
        cached_tokens: 40,
        completion_tokens: 10,
        event_time: Some(hour(at_hour)),
        ..Default::default()
    }
}

/// An error as a client sees it. Making one asserts that it shows nothing of the inside.
#[derive(Debug, Clone)]
#[allow(dead_code, reason = "the message is there to be printed")]
pub struct Refusal {
    pub code: Code,
    pub reason: String,
    pub metadata: HashMap<String, String>,
    pub retry: Option<Duration>,
    pub message: String,
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Refusal {
        let details = String::from_utf8_lossy(status.details()).into_owned();
        assert_clean(status.message());
        assert_clean(&details);
        let info = status.get_details_error_info();
        let (reason, metadata) = info.map(|info| (info.reason, info.metadata)).unwrap_or_default();
        Refusal {
            code: status.code(),
            reason,
            metadata,
            retry: status.get_details_retry_info().and_then(|info| info.retry_delay),
            message: status.message().into(),
        }
    }
}

/// No SQL, no paths, no addresses, nothing of the driver's.
pub fn assert_clean(text: &str) {
    const INSIDE: [&str; 20] = [
        "SELECT ",
        "INSERT ",
        "UPDATE ",
        "DELETE ",
        "rating_",
        "rated_usage ",
        "billing_event",
        "SQLSTATE",
        "sqlx",
        "postgres",
        "pool timed out",
        "os error",
        "127.0.0.1",
        "localhost",
        "/tmp",
        "/home",
        "/root",
        ".rs:",
        ".sql",
        "panicked",
    ];
    for inside in INSIDE {
        assert!(!text.contains(inside), "`{inside}` got out: {text}");
    }
}

pub async fn rate(service: &Service, request: RateWindowRequest) -> Result<RatingResult, Refusal> {
    let mut client = service.client_rating().await;
    let response = client.rate_window(request).await.map_err(Refusal::from)?;
    Ok(response.into_inner().result.unwrap())
}

/// The same until it is done: what may pass is tried again.
pub async fn rate_until_done(
    service: &Service,
    request: RateWindowRequest,
    within: Duration,
) -> (RatingResult, Vec<String>) {
    let deadline = Instant::now() + within;
    let mut refused = Vec::new();
    loop {
        match rate(service, request.clone()).await {
            Ok(result) => return (result, refused),
            Err(refusal) => {
                assert!(matches!(refusal.code, Code::Aborted | Code::Unavailable), "{refusal:?}");
                assert!(Instant::now() < deadline, "still not rated: {refusal:?}");
                refused.push(refusal.reason);
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub async fn record(service: &Service, events: &[BillingEvent]) -> Result<RecordEventsResponse, Refusal> {
    let mut client = service.client_events().await;
    let request = RecordEventsRequest { events: events.to_vec(), skip_invalid: false };
    client.record_events(request).await.map(tonic::Response::into_inner).map_err(Refusal::from)
}

/// Waits until it holds.
pub async fn until(what: &str, within: Duration, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + within;
    while !holds().await {
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// No line of the log tells of a panic.
pub fn assert_no_panic(service: &Service) {
    for line in service.logs() {
        assert!(!line.to_string().contains("panicked"), "{line}");
    }
}
