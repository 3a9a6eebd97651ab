//! A service over a database of its own, asked through gRPC and looked at through SQL.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use rater::grpc::client::Failure;
use rater::proto::rating_service_client::RatingServiceClient;
use rater::proto::*;
use serde_json::Value;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgPool, PgRow};
use sqlx::{AssertSqlSafe, FromRow, Postgres, Transaction};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::transport::Channel;

use crate::harness::{self, Event, Service, TestDb};

/// The usual event, [`harness::event`], costs 0.00045 by it.
pub const BOOK: &str = r#"version: 1
base_models:
  "acme/large": {prompt: "0.000003", cached: "0.0000003", completion: "0.000015"}
  "acme/small": {prompt: "0.0000002", cached: "0.00000005", completion: "0.0000006"}
fine_tune_premium: {policy: multiplier, factor: "1.5"}
fine_tunes:
  "ft:named": {derived_from: "acme/large"}
"#;

/// [`BOOK`] with a dearer `acme/large`: the usual event costs 0.0009.
pub fn dearer() -> String {
    BOOK.replace(
        r#"prompt: "0.000003", cached: "0.0000003", completion: "0.000015""#,
        r#"prompt: "0.000006", cached: "0.0000006", completion: "0.00003""#,
    )
}

pub struct Rig {
    // Before the database: fields drop in order.
    pub service: Service,
    pub db: TestDb,
    rating: RatingServiceClient<Channel>,
    dir: TempDir,
}

impl Rig {
    /// With [`BOOK`], and these events stored.
    pub async fn with_events(events: impl IntoIterator<Item = Event>) -> Rig {
        let rig = Rig::start(BOOK, &[]).await;
        rig.insert(events).await;
        rig
    }

    pub async fn start(book: &str, arguments: &[&str]) -> Rig {
        Rig::on(harness::database().await, book, arguments).await
    }

    pub async fn on(db: TestDb, book: &str, arguments: &[&str]) -> Rig {
        let dir = harness::temp_dir();
        let path = dir.path().join("book.yaml");
        fs::write(&path, book).unwrap();
        let mut all = vec!["--pricebook", path.to_str().unwrap()];
        all.extend(arguments);
        let service = Service::start(&db.url, &all).await;
        let rating = service.client_rating().await;
        Rig { service, db, rating, dir }
    }

    pub fn pool(&self) -> &PgPool {
        self.db.pool()
    }

    pub fn book_path(&self) -> PathBuf {
        self.dir.path().join("book.yaml")
    }

    pub fn client(&self) -> RatingServiceClient<Channel> {
        self.rating.clone()
    }

    pub async fn insert(&self, events: impl IntoIterator<Item = Event>) {
        harness::insert(self.pool(), events).await;
    }

    pub async fn sql(&self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql.to_string())).execute(self.pool()).await.unwrap();
    }

    /// One value.
    pub async fn one<T>(&self, sql: &str) -> T
    where
        T: Send + Unpin + for<'r> sqlx::Decode<'r, Postgres> + sqlx::Type<Postgres>,
    {
        sqlx::query_scalar(AssertSqlSafe(sql.to_string())).fetch_one(self.pool()).await.unwrap()
    }

    pub async fn count(&self, table: &str) -> i64 {
        self.one(&format!("SELECT count(*) FROM {table}")).await
    }

    /// Every row version of a table: it differs after any write.
    pub async fn versions(&self, table: &str) -> Vec<String> {
        let sql = format!("SELECT ctid::text || ' ' || xmin::text FROM {table} ORDER BY ctid");
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(self.pool()).await.unwrap()
    }

    pub async fn rows(&self) -> Vec<harness::Rated> {
        harness::rated_usage(self.pool()).await
    }

    /// Hour and cost of each rollup.
    pub async fn costs(&self) -> Vec<(String, String)> {
        let rows = self.rows().await.into_iter();
        rows.map(|row| (row.window_start.format("%H").to_string(), row.cost)).collect()
    }

    pub async fn rate(&self, request: RateWindowRequest) -> Result<RateWindowResponse, Failure> {
        Ok(self.client().rate_window(request).await?.into_inner())
    }

    /// Rates, and holds what must hold after any run that succeeded.
    pub async fn rated(&self, request: RateWindowRequest) -> RatingResult {
        let response = self.rate(request).await.unwrap();
        assert_eq!(response.state(), RunState::Succeeded);
        let result = response.result.unwrap();
        assert_eq!(
            result.events,
            result.rated_events
                + result.unpriced_events
                + result.unattributable_events
                + result.ambiguous_base_events
                + result.malformed_events,
            "{result:?}"
        );
        assert_eq!(
            result.rollups,
            result.inserted_rollups + result.updated_rollups + result.unchanged_rollups,
            "{result:?}"
        );
        self.assert_explained().await;
        result
    }

    pub async fn refused(&self, request: RateWindowRequest) -> Failure {
        self.rate(request).await.expect_err("refused")
    }

    /// The change records, followed in the feed's order, lead to the rows that are there.
    pub async fn assert_explained(&self) {
        let differ: Vec<String> = sqlx::query_scalar(FOLLOWED).fetch_all(self.pool()).await.unwrap();
        assert_eq!(differ, Vec::<String>::new());
    }

    pub async fn changes(&self) -> Vec<Change> {
        sqlx::query_as(
            "SELECT operation, model_id, coalesce(before_event_count, 0) AS before,
                coalesce(after_event_count, 0) AS after, coalesce(trim_scale(before_cost)::text, '') AS before_cost,
                coalesce(trim_scale(after_cost)::text, '') AS after_cost, c.run_id, b.position, b.changes
             FROM rated_usage_change c JOIN change_batch b USING (batch_id) ORDER BY b.position, c.ordinal",
        )
        .fetch_all(self.pool())
        .await
        .unwrap()
    }

    /// Kind, identity, model and events of each anomaly.
    pub async fn anomalies(&self) -> Vec<String> {
        let sql = "SELECT concat_ws(' ', kind, auth_id, resource_id, model_id, events) FROM rating_anomaly
            ORDER BY 1";
        sqlx::query_scalar(sql).fetch_all(self.pool()).await.unwrap()
    }

    /// State, reason and remaining end of a run.
    pub async fn run(&self, run_id: &str) -> (String, Option<String>, Option<DateTime<Utc>>) {
        sqlx::query_as("SELECT state, error_reason, remaining_end FROM rating_run WHERE run_id = $1")
            .bind(run_id)
            .fetch_one(self.pool())
            .await
            .unwrap()
    }

    /// Puts another pricebook into force.
    pub async fn reload(&self, book: &str) {
        let new = self.dir.path().join("new.yaml");
        fs::write(&new, book).unwrap();
        fs::rename(new, self.book_path()).unwrap();
        eventually("the pricebook is in force", async || {
            let request = GetPricebookRequest::default();
            self.client().get_pricebook(request).await.unwrap().into_inner().pricebook_yaml == book
        })
        .await;
    }

    /// Lets nobody write rated usage until it is dropped or rolled back; readers go on.
    pub async fn hold_writes(&self) -> Transaction<'static, Postgres> {
        let mut hold = self.pool().begin().await.unwrap();
        sqlx::query("LOCK TABLE rated_usage IN SHARE MODE").execute(&mut *hold).await.unwrap();
        hold
    }

    /// Holds who comes to this trigger and fulfils the condition (of PL/pgSQL), until it is opened.
    pub async fn gate(&self, trigger: &str, condition: &str) -> Gate {
        self.sql(&format!(
            "CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF {condition} THEN PERFORM pg_advisory_xact_lock_shared(7); END IF; RETURN NEW; END $$;
             CREATE TRIGGER gate {trigger} EXECUTE FUNCTION gate()"
        ))
        .await;
        let mut connection = self.pool().acquire().await.unwrap();
        sqlx::query("SELECT pg_advisory_lock(7)").execute(&mut *connection).await.unwrap();
        Gate(connection)
    }

    /// Waits until this many sessions wait for a lock.
    pub async fn until_blocked(&self, sessions: i64) {
        eventually("somebody waits for a lock", async || self.blocked().await == sessions).await;
    }

    /// So many rollups of one hour, of an identity each, that cost nothing.
    pub async fn free_rollups(&self, rollups: u32) {
        self.sql(&format!(
            "INSERT INTO rated_usage (id, auth_id, resource_id, model_id, window_start, prompt_tokens,
                cached_tokens, completion_tokens, billable_prompt_tokens, event_count, cost,
                applied_prompt_rate, applied_cached_rate, applied_completion_rate, currency_code)
             SELECT n::text, n::text, 'r', 'm', '2026-06-01T10:00Z', 0, 0, 0, 0, 1, 0, 0, 0, 0, 'USD'
             FROM generate_series(1, {rollups}) n"
        ))
        .await;
    }

    /// How many sessions wait for a lock, but for the service's own look at the records, which comes
    /// when it comes.
    pub async fn blocked(&self) -> i64 {
        let sql = "SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event_type = 'Lock'
                AND query NOT LIKE '-- How many seconds ago the oldest hour closed%'";
        self.one(sql).await
    }

    /// The first line of the log that is asked for.
    pub async fn logged(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut found = None;
        eventually("the line is logged", async || {
            found = self.service.logs().into_iter().find(|line| wanted(line));
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    /// The value of a series as it is written: `rater_runs_total{state="failed",…}`.
    pub async fn metric(&self, series: &str) -> Option<String> {
        let text = http_get(self.service.admin_address(), "/metrics").await;
        let line = text.lines().find(|line| line.starts_with(&format!("{series} ")));
        line.map(|line| line[series.len() + 1..].to_string())
    }
}

pub struct Gate(PoolConnection<Postgres>);

impl Gate {
    /// Where a chunk's result is written, when its rows are.
    pub const AT_RESULTS: &str = "BEFORE INSERT ON rating_run_chunk FOR EACH STATEMENT";
    /// Where a rollup is new.
    pub const AT_ROLLUPS: &str = "BEFORE INSERT ON rated_usage FOR EACH ROW";

    pub async fn open(mut self) {
        sqlx::query("SELECT pg_advisory_unlock(7)").execute(&mut *self.0).await.unwrap();
    }
}

/// A change record and its batch's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub operation: String,
    pub model_id: String,
    pub before: i64,
    pub after: i64,
    pub before_cost: String,
    pub after_cost: String,
    pub run_id: String,
    pub position: i64,
    pub batch: i64,
}

impl FromRow<'_, PgRow> for Change {
    fn from_row(row: &PgRow) -> sqlx::Result<Change> {
        use sqlx::Row;
        Ok(Change {
            operation: row.try_get("operation")?,
            model_id: row.try_get("model_id")?,
            before: row.try_get("before")?,
            after: row.try_get("after")?,
            before_cost: row.try_get("before_cost")?,
            after_cost: row.try_get("after_cost")?,
            run_id: row.try_get("run_id")?,
            position: row.try_get("position")?,
            batch: row.try_get("changes")?,
        })
    }
}

/// Keys where the last change record is not what the table says; rows that nobody of ours wrote
/// (without a fence) aside.
const FOLLOWED: &str = "
    WITH last AS (
        SELECT DISTINCT ON (auth_id, resource_id, model_id, window_start, price_class) c.*
        FROM rated_usage_change c JOIN change_batch b USING (batch_id)
        ORDER BY auth_id, resource_id, model_id, window_start, price_class, b.position DESC, c.ordinal DESC
    )
    SELECT concat_ws(' ', auth_id, resource_id, model_id, window_start)
    FROM (SELECT * FROM last WHERE operation <> 'delete') l
    FULL JOIN (SELECT * FROM rated_usage WHERE fence IS NOT NULL) u
        USING (auth_id, resource_id, model_id, window_start, price_class)
    WHERE (l.id, l.after_prompt_tokens, l.after_cached_tokens, l.after_completion_tokens,
            l.after_billable_prompt_tokens, l.after_event_count, l.after_cost, l.after_applied_prompt_rate,
            l.after_applied_cached_rate, l.after_applied_completion_rate, l.after_currency_code,
            l.after_pricebook_digest, l.run_id, l.after_rated_at)
        IS DISTINCT FROM
        (u.id, u.prompt_tokens, u.cached_tokens, u.completion_tokens,
            u.billable_prompt_tokens, u.event_count, u.cost, u.applied_prompt_rate,
            u.applied_cached_rate, u.applied_completion_rate, u.currency_code,
            u.pricebook_digest, u.run_id, u.rated_at)
    UNION ALL
    SELECT 'batch ' || b.batch_id FROM change_batch b
    WHERE b.changes <> (SELECT count(*) FROM rated_usage_change c WHERE c.batch_id = b.batch_id)
    UNION ALL
    SELECT 'no batch ' || batch_id FROM rated_usage_change WHERE batch_id NOT IN (SELECT batch_id FROM change_batch)";

/// A time of the usual day, 2026-06-01: `hour(10)` is where the usual event's hour begins.
pub fn hour(hour: u32) -> String {
    format!("2026-06-01T{hour:02}:00:00Z")
}

pub fn timestamp(text: &str) -> prost_types::Timestamp {
    let time: DateTime<Utc> = text.parse().unwrap();
    prost_types::Timestamp { seconds: time.timestamp(), nanos: time.timestamp_subsec_nanos() as i32 }
}

/// A backfill of these hours of the usual day.
pub fn backfill(since: u32, until: u32) -> RateWindowRequest {
    RateWindowRequest {
        since: Some(timestamp(&hour(since))),
        until: Some(timestamp(&hour(until))),
        ..RateWindowRequest::default()
    }
}

/// The same as a routine run.
pub fn routine(since: u32, until: u32) -> RateWindowRequest {
    RateWindowRequest { trigger: Trigger::Routine.into(), ..backfill(since, until) }
}

/// Code, severity and count of each finding.
pub fn findings(result: &RatingResult) -> Vec<(FindingCode, Severity, i64)> {
    result.findings.iter().map(|f| (f.code(), f.severity(), f.count)).collect()
}

pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds().await {
        assert!(Instant::now() < deadline, "not within 30 s: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub async fn http_get(address: &str, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}
