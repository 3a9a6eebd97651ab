//! The plans of the real statements, as the server logs them while the real service runs them on
//! a filled table at the planner's default costs.

mod audit;
mod changes;
mod pages;
mod records;

use std::fs;
use std::time::Duration;

use rater::embedded_postgres::EmbeddedPostgres;
use rater::proto::{ListAnomaliesRequest, UsageFilter};

use crate::harness::{OwnServer, Service, own_server, psql, soak};
use crate::stage::{Refusal, Stage, hour, rate, window};

const DAYS: i64 = 60;
/// Firsts of the statements' texts, which the log quotes.
const RATING: &str = "-- The rating statement (S2)";
const ANOMALIES: &str = "-- A page of anomalies";

/// Rows that satisfy every constraint, `rows` in each table, over all the days.
pub(crate) fn fill(postgres: &EmbeddedPostgres, rows: u32) {
    let sql = format!(
        "INSERT INTO rated_usage (id, auth_id, resource_id, model_id, window_start, window_end,
            prompt_tokens, cached_tokens, completion_tokens, billable_prompt_tokens, event_count, cost,
            applied_prompt_rate, applied_cached_rate, applied_completion_rate, currency_code,
            pricebook_digest, run_id, fence, rated_at)
        SELECT md5(n::text), 'auth-' || n % 500, 'res-' || n, 'acme/large', w, w + interval '1 hour',
            100, 40, 10, 60, 1, 60 * 0.000003 + 40 * 0.0000003 + 10 * 0.000015,
            0.000003, 0.0000003, 0.000015, 'USD', repeat('0', 64), 'run', 1, now()
        FROM generate_series(1, {rows}) n,
            LATERAL (SELECT timestamptz '2026-06-01 00:00Z' + make_interval(hours => n % ({DAYS} * 24)) AS w) t;
        INSERT INTO billing_event (request_id, auth_id, resource_id, model, prompt_tokens, cached_tokens,
            completion_tokens, event_ts)
        SELECT 'e-' || n, 'auth-' || n % 500, 'res-' || n, 'acme/large', 100, 40, 10,
            timestamptz '2026-06-01 00:00Z' + make_interval(hours => n % ({DAYS} * 24), secs => n % 3600)
        FROM generate_series(1, {rows}) n;
        INSERT INTO rating_anomaly (window_start, kind, auth_id, resource_id, model_id, base_models, events,
            prompt_tokens, cached_tokens, completion_tokens, sample_request_id, run_id)
        SELECT timestamptz '2026-06-01 00:00Z' + make_interval(hours => n % ({DAYS} * 24)), 'unpriced',
            'auth-' || n % 500, 'res-' || n, 'acme/new', '{{}}', 1, 100, 40, 10, 'e-' || n, 'run'
        FROM generate_series(1, {rows}) n;
        ANALYZE rating_anomaly;
        ANALYZE rated_usage;
        ANALYZE billing_event"
    );
    psql(postgres, &sql).unwrap();
}

/// The plans that the log has for a statement since it was that long.
pub(crate) fn plans(postgres: &EmbeddedPostgres, statement: &str, since: usize) -> Vec<String> {
    let log = String::from_utf8_lossy(&fs::read(postgres.log()).unwrap()).into_owned();
    let mut plans = Vec::new();
    let mut rest = &log[since..];
    while let Some(at) = rest.find(statement) {
        rest = &rest[at..];
        // What belongs to an entry is indented.
        let end = rest.match_indices('\n').find(|(at, _)| !rest[at + 1..].starts_with('\t'));
        let entry = &rest[..end.map_or(rest.len(), |(at, _)| at)];
        plans.push(entry.to_owned());
        rest = &rest[entry.len()..];
    }
    plans
}

pub(crate) fn length(postgres: &EmbeddedPostgres) -> usize {
    fs::metadata(postgres.log()).unwrap().len() as usize
}

/// Whether a plan finds the rows of a table by an index, and nowhere by reading it whole.
fn by_index(plan: &str, index: &str, table: &str) -> bool {
    let used = [format!("Index Scan using {index} "), format!("Bitmap Index Scan on {index} ")];
    used.iter().any(|scan| plan.contains(scan)) && !whole(plan, table)
}

pub(crate) fn whole(plan: &str, table: &str) -> bool {
    plan.contains(&format!("Seq Scan on {table} "))
}

async fn rating_plan(postgres: &EmbeddedPostgres, service: &Service, day: i64) -> String {
    let since = length(postgres);
    rate(service, window(day * 24, day * 24 + 24)).await.unwrap();
    let plans = plans(postgres, RATING, since);
    assert_eq!(plans.len(), 1, "one chunk");
    plans.into_iter().next().unwrap()
}

/// A server that logs the plan of each statement.
pub(crate) async fn explaining_server() -> OwnServer {
    let settings = [
        ("session_preload_libraries", "auto_explain"),
        ("auto_explain.log_min_duration", "0"),
        ("autovacuum", "off"),
    ];
    own_server(&settings).await
}

#[tokio::test]
async fn rating_and_anomalies_read_what_they_need_by_index() {
    let server = explaining_server().await;
    let postgres = &server.postgres;
    let stage = Stage::over(&postgres.url());
    let service = stage.service(&["--migrate"]).await;
    fill(postgres, if soak() { 300_000 } else { 120_000 });

    // More often than a prepared statement needs to be given a plan for all values.
    for day in 30..37 {
        let plan = rating_plan(postgres, &service, day).await;
        assert!(by_index(&plan, "rated_usage_window_start_ix", "rated_usage"), "{plan}");
        assert!(by_index(&plan, "billing_event_rating_instant_ix", "billing_event"), "{plan}");
    }

    // And the check can fail: what is left reads a whole table, or the whole of another index.
    psql(postgres, "DROP INDEX rated_usage_window_start_ix, rated_usage_page_ix").unwrap();
    let plan = rating_plan(postgres, &service, 40).await;
    assert!(!by_index(&plan, "rated_usage_window_start_ix", "rated_usage"), "{plan}");
    assert!(whole(&plan, "rated_usage") || plan.contains("Bitmap Index Scan on rated_usage_"), "{plan}");
    psql(postgres, "DROP INDEX billing_event_rating_instant_ix").unwrap();
    let plan = rating_plan(postgres, &service, 41).await;
    assert!(whole(&plan, "billing_event"), "{plan}");
    drop(service);
    anomalies(postgres, &stage).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
}

/// Anomalies of a few hours, in a plan for all values, too, as it is made once all of them were
/// asked for often.
async fn anomalies(postgres: &EmbeddedPostgres, stage: &Stage) {
    let (since, until) = (Some(hour(20 * 24)), Some(hour(20 * 24 + 6)));
    let filter = Some(UsageFilter { since, until, ..Default::default() });
    for mode in ["force_custom_plan", "force_generic_plan"] {
        psql(postgres, &format!("ALTER ROLE CURRENT_USER SET plan_cache_mode = {mode}")).unwrap();
        let service = stage.service(&[]).await;
        let plan = anomaly_plan(postgres, &service, filter.clone()).await;
        assert!(by_index(&plan, "rating_anomaly_pkey", "rating_anomaly"), "{mode}: {plan}");
    }
    psql(postgres, "ALTER TABLE rating_anomaly DROP CONSTRAINT rating_anomaly_pkey").unwrap();
    let plan = anomaly_plan(postgres, &stage.service(&[]).await, filter).await;
    assert!(whole(&plan, "rating_anomaly"), "the check can fail: {plan}");
}

async fn anomaly_plan(postgres: &EmbeddedPostgres, service: &Service, filter: Option<UsageFilter>) -> String {
    let since = length(postgres);
    let mut client = service.client_rating().await;
    let request = ListAnomaliesRequest { filter, ..Default::default() };
    let told = client.list_anomalies(request).await.map_err(Refusal::from).unwrap().into_inner();
    assert_eq!(told.anomalies.len(), 1);
    let plans = plans(postgres, ANOMALIES, since);
    assert_eq!(plans.len(), 1);
    plans.into_iter().next().unwrap()
}
