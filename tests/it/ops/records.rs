//! Gauges from the records: what a process that was just started shows of those before it.

use std::time::Duration;

use rater::metrics::Metrics;
use rater::service::observe::look;
use rater::store::{Db, DbOptions};
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgPool;

use crate::harness::{TestDb, database, event};
use crate::rig::{BOOK, Rig, eventually, routine};

const OLDEST: &str = "rater_oldest_unrated_hour_age_seconds{}";

/// A database that is looked at, without a service beside it.
struct Looked {
    db: TestDb,
    metrics: Metrics,
}

impl Looked {
    async fn new() -> Looked {
        let looked = Looked { db: database().await, metrics: Metrics::new() };
        looked.sql("INSERT INTO pricebook (digest, pricebook_yaml) VALUES ('d', '')").await;
        looked
    }

    fn pool(&self) -> &PgPool {
        self.db.pool()
    }

    async fn sql(&self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(self.pool()).await.unwrap();
    }

    /// A run's record: from when, why, how it stands, when it ended (an interval ago, or NULL), and
    /// where its chunks are: `[hours ago its window began, hours, minutes ago it was committed]`.
    async fn run(&self, id: &str, ago: &str, trigger: &str, state: &str, ended: &str, chunks: &[[u32; 3]]) {
        self.sql(&format!(
            "INSERT INTO rating_run (run_id, window_start, window_end, trigger, rate_basis, state,
                pricebook_digest, currency_code, fence, requested_by, request_hash, created_at, started_at,
                finished_at)
             VALUES ('{id}', now(), now(), '{trigger}', 'frozen', '{state}', 'd', 'USD', 1, 'me', '',
                now() - interval '{ago}', now() - interval '{ago}', now() - CAST({ended} AS interval))"
        ))
        .await;
        for [began, hours, committed] in chunks {
            self.sql(&format!(
                "INSERT INTO rating_run_chunk SELECT '{id}', start, start + interval '{hours} hours', NULL,
                    9, 1, 2, 1, 1, 1, 3, 1, 1, 0, 0, 4, 2, 5, 6, 0, 0, now() - interval '{committed} minutes'
                 FROM (SELECT date_trunc('hour', now()) - interval '{began} hours' AS start) c"
            ))
            .await;
        }
    }

    async fn event(&self, id: &str, hours_ago: u32) {
        self.sql(&format!(
            "INSERT INTO billing_event (request_id, event_ts)
             VALUES ('{id}', date_trunc('hour', now()) - interval '{hours_ago} hours' + interval '7 minutes')"
        ))
        .await;
    }

    /// Says whether the runs were seen.
    async fn look_by(&self, url: &str, closing_delay: Duration) -> bool {
        let options =
            DbOptions { url: url.into(), max_connections: 1, acquire_timeout: Duration::from_secs(30) };
        look(&Db::new(&options).unwrap(), closing_delay, &self.metrics).await.unwrap().is_some()
    }

    async fn look(&self) {
        self.look_by(&self.db.url, Duration::ZERO).await;
    }

    /// The value of a series after another look; `None` where there is no such series.
    async fn shown(&self, series: &str) -> Option<i64> {
        self.look().await;
        value(&self.metrics, series)
    }

    /// For how many whole hours the oldest unrated one is closed; `None` where none is left.
    async fn unrated_for(&self) -> Option<i64> {
        let seconds = self.shown(OLDEST).await.unwrap();
        (seconds > 0).then_some(seconds / 3600)
    }
}

fn value(metrics: &Metrics, series: &str) -> Option<i64> {
    let text = metrics.encode().unwrap();
    let line = text.lines().find(|line| line.starts_with(&format!("{series} ")))?;
    Some(line[series.len() + 1..].parse().unwrap())
}

#[tokio::test]
async fn r09_what_an_earlier_process_found_is_in_the_metrics_of_the_next() {
    let first = Rig::with_events([event("e-1"), event("e-2").model("acme/unknown")]).await;
    first.rated(routine(10, 11)).await;
    first.sql("DELETE FROM billing_event WHERE request_id = 'e-1'").await;
    first.rated(routine(10, 11)).await;
    // A repeat finds nothing left to delete, and the record of the run before still tells.
    first.rated(routine(10, 11)).await;
    let Rig { service, db, .. } = first;
    drop(service);

    let next = Rig::on(db, BOOK, &[]).await;
    let found = |code: &str, severity: &str, trigger: &str| {
        format!(r#"rater_recent_findings{{code="{code}",severity="{severity}",trigger="{trigger}"}}"#)
    };
    let shows = async |series: String, wanted: Option<&str>| {
        eventually(&series, async || next.metric(&series).await.as_deref() == wanted).await;
    };
    shows(found("RECONCILED_DELETIONS", "error", "routine"), Some("1")).await;
    shows(found("RECONCILED_DELETIONS", "info", "backfill"), Some("0")).await;
    shows(found("UNPRICED_EVENTS", "error", "routine"), Some("3")).await;
    shows(r#"rater_recent_runs{trigger="routine",state="succeeded"}"#.into(), Some("3")).await;
    shows("rater_ready".into(), Some("1")).await;
    // Its own counters know nothing of it: they are no ground for an alert.
    assert_eq!(
        next.metric(r#"rater_runs_total{trigger="routine",state="succeeded"}"#).await.as_deref(),
        Some("0")
    );
}

#[tokio::test]
async fn what_ended_long_ago_is_told_no_more() {
    let looked = Looked::new().await;
    looked.run("a", "7 hours", "routine", "failed", "'6 hours 10 minutes'", &[[30, 1, 370]]).await;
    looked.run("b", "9 days", "backfill", "failed", "'10 minutes'", &[[30, 1, 20]]).await;
    assert_eq!(looked.shown(r#"rater_recent_runs{trigger="routine",state="failed"}"#).await, Some(0));
    assert_eq!(looked.shown(r#"rater_recent_runs{trigger="backfill",state="failed"}"#).await, Some(1));
    let unpriced = |trigger: &str| {
        format!(r#"rater_recent_findings{{code="UNPRICED_EVENTS",severity="error",trigger="{trigger}"}}"#)
    };
    assert_eq!(looked.shown(&unpriced("routine")).await, Some(0));
    assert_eq!(looked.shown(&unpriced("backfill")).await, Some(2));
    looked.sql("UPDATE rating_run SET refused_rollups = 7, finished_at = now() WHERE run_id = 'a'").await;
    let refused = r#"rater_recent_findings{code="DECREASE_REFUSED",severity="error",trigger="routine"}"#;
    assert_eq!(looked.shown(refused).await, Some(7));
}

#[tokio::test]
async fn r09_what_an_open_run_has_deleted_is_told_before_it_ends() {
    let looked = Looked::new().await;
    looked.run("waits", "3 hours", "routine", "pending", "NULL", &[[9, 1, 120]]).await;
    let unpriced = r#"rater_recent_findings{code="UNPRICED_EVENTS",severity="error",trigger="routine"}"#;
    assert_eq!(looked.shown(unpriced).await, Some(2));
    let deleted = r#"rater_recent_findings{code="RECONCILED_DELETIONS",severity="error",trigger="routine"}"#;
    looked.sql("UPDATE rating_run_chunk SET reconciled_deletions = 7").await;
    assert_eq!(looked.shown(deleted).await, Some(7));
    // And it is no run that ended.
    assert_eq!(looked.shown(r#"rater_recent_runs{trigger="routine",state="failed"}"#).await, Some(0));
    looked.sql("UPDATE rating_run SET finished_at = now() - interval '7 hours', state = 'failed'").await;
    assert_eq!(looked.shown(deleted).await, Some(0));
}

#[tokio::test]
async fn a_routine_run_that_fills_a_gap_is_no_sign_of_the_schedule() {
    let looked = Looked::new().await;
    let last = |trigger: &str| format!(r#"rater_run_last_success_timestamp_seconds{{trigger="{trigger}"}}"#);
    looked.run("gap", "10 minutes", "routine", "succeeded", "'9 minutes'", &[]).await;
    looked.run("old", "10 minutes", "backfill", "succeeded", "'9 minutes'", &[]).await;
    looked.sql("UPDATE rating_run SET window_end = now() - interval '5 hours'").await;
    assert_eq!(looked.shown(&last("routine")).await, None);
    assert!(looked.shown(&last("backfill")).await.is_some());
    // Such hours had just closed, where they close late.
    looked.look_by(&looked.db.url, Duration::from_secs(4 * 3600)).await;
    assert!(value(&looked.metrics, &last("routine")).is_some());

    let looked = Looked::new().await;
    looked.run("hourly", "70 minutes", "routine", "succeeded", "'65 minutes'", &[]).await;
    looked.sql("UPDATE rating_run SET window_end = date_trunc('hour', created_at)").await;
    let at: i64 = sqlx::query_scalar("SELECT floor(extract(epoch FROM finished_at))::bigint FROM rating_run")
        .fetch_one(looked.pool())
        .await
        .unwrap();
    assert_eq!(looked.shown(&last("routine")).await, Some(at));
}

#[tokio::test]
async fn a_run_that_commits_nothing_is_told_by_how_long() {
    let looked = Looked::new().await;
    let still = r#"rater_open_run_still_seconds{trigger="backfill"}"#;
    assert_eq!(looked.shown(still).await, Some(0));
    looked.run("quick", "3 hours", "backfill", "running", "NULL", &[[9, 1, 100], [8, 1, 2]]).await;
    let minutes = looked.shown(still).await.unwrap() / 60;
    assert!((2..5).contains(&minutes), "{minutes} minutes");
    // The one that stands still longest, whatever took it over since.
    looked.run("stuck", "3 hours", "backfill", "pending", "NULL", &[[9, 1, 90]]).await;
    looked.sql("UPDATE rating_run SET resumed_at = now() WHERE run_id = 'stuck'").await;
    let minutes = looked.shown(still).await.unwrap() / 60;
    assert!((90..93).contains(&minutes), "{minutes} minutes");
    assert_eq!(looked.shown(r#"rater_open_runs{trigger="backfill",state="pending"}"#).await, Some(1));
    assert_eq!(looked.shown(r#"rater_open_run_still_seconds{trigger="routine"}"#).await, Some(0));
    // One that never committed stands still since it was accepted.
    looked.run("new", "40 minutes", "routine", "running", "NULL", &[]).await;
    let minutes = looked.shown(r#"rater_open_run_still_seconds{trigger="routine"}"#).await.unwrap() / 60;
    assert!((40..43).contains(&minutes), "{minutes} minutes");
    looked.sql("UPDATE rating_run SET finished_at = now(), state = 'succeeded'").await;
    assert_eq!(looked.shown(still).await, Some(0));
    assert_eq!(looked.shown(r#"rater_open_runs{trigger="backfill",state="pending"}"#).await, Some(0));
}

#[tokio::test]
async fn the_oldest_hour_that_nobody_has_rated_is_told() {
    let looked = Looked::new().await;
    assert_eq!(looked.unrated_for().await, None);
    // The open hour is nobody's yet, and what is older than a month was told for a month.
    looked.event("open", 0).await;
    looked.event("ancient", 31 * 24 + 2).await;
    assert_eq!(looked.unrated_for().await, None);
    looked.event("young", 2).await;
    assert_eq!(looked.unrated_for().await, Some(1));
    looked.event("old", 50).await;
    assert_eq!(looked.unrated_for().await, Some(49));
    // A committed chunk covers it, also one that billed nothing; one beside it does not.
    looked.run("beside", "50 hours", "routine", "succeeded", "'1 hour'", &[[49, 24, 90]]).await;
    assert_eq!(looked.unrated_for().await, Some(49));
    looked.run("over", "40 hours", "backfill", "running", "NULL", &[[52, 4, 80]]).await;
    assert_eq!(looked.unrated_for().await, Some(1));
    // An adopted table's hour has rollups of another program's.
    looked
        .sql(
            "INSERT INTO rated_usage (id, auth_id, resource_id, model_id, window_start, prompt_tokens,
                cached_tokens, completion_tokens, billable_prompt_tokens, event_count, cost,
                applied_prompt_rate, applied_cached_rate, applied_completion_rate, currency_code)
             VALUES ('1', 'a', 'r', 'm', date_trunc('hour', now()) - interval '2 hours', 0, 0, 0, 0, 1, 0,
                0, 0, 0, 'USD')",
        )
        .await;
    assert_eq!(looked.unrated_for().await, None);
}

#[tokio::test]
async fn an_hour_is_not_late_before_it_is_closed() {
    let looked = Looked::new().await;
    looked.event("e", 1).await;
    looked.look_by(&looked.db.url, Duration::from_secs(3700)).await;
    assert_eq!(value(&looked.metrics, OLDEST), Some(0));
    assert!(looked.shown(OLDEST).await.is_some_and(|seconds| (1..3700).contains(&seconds)));
}

#[tokio::test]
async fn what_was_mended_is_unbilled_no_more() {
    let looked = Looked::new().await;
    looked
        .sql(
            "INSERT INTO rating_anomaly SELECT date_trunc('hour', now()) - interval '1 hour' * n, kind, 'a', 'r',
                'm' || n, '{}', 10, 0, 0, 0, NULL, 'run'
             FROM generate_series(1, 3) n, unnest('{unpriced,malformed}'::text[]) kind;
             INSERT INTO rating_anomaly SELECT date_trunc('hour', now()) - interval '32 days', 'unpriced', 'a',
                'r', 'm', '{}', 10, 0, 0, 0, NULL, 'run'",
        )
        .await;
    looked
        .sql(
            "INSERT INTO rating_anomaly SELECT date_trunc('hour', now()) - interval '80 hours', 'malformed', 'a',
                'r', 'm', '{}', 10, 0, 0, 0, NULL, 'run'",
        )
        .await;
    assert_eq!(looked.shown(r#"rater_unbilled_events{kind="unpriced"}"#).await, Some(30));
    assert_eq!(looked.shown(r#"rater_recent_unbilled_events{kind="unpriced"}"#).await, Some(30));
    assert_eq!(looked.shown(r#"rater_unbilled_events{kind="malformed"}"#).await, Some(40));
    assert_eq!(looked.shown(r#"rater_recent_unbilled_events{kind="malformed"}"#).await, Some(30));
    assert_eq!(looked.shown(r#"rater_unbilled_events{kind="ambiguous_base"}"#).await, Some(0));
    looked.sql("DELETE FROM rating_anomaly WHERE kind = 'unpriced'").await;
    assert_eq!(looked.shown(r#"rater_unbilled_events{kind="unpriced"}"#).await, Some(0));
    assert_eq!(looked.shown(r#"rater_unbilled_events{kind="malformed"}"#).await, Some(40));
}

#[tokio::test]
async fn leases_are_told_with_those_whose_holder_is_gone() {
    let looked = Looked::new().await;
    looked
        .sql(
            "INSERT INTO rating_lease (run_id, during, expires_at)
             SELECT 'run-' || n, tstzrange(hour, hour + interval '1 hour'), now() + interval '1 minute' * (n - 2)
             FROM (SELECT n, timestamptz '2026-06-01T00:00Z' + interval '1 hour' * n AS hour
                FROM generate_series(1, 4) n) h",
        )
        .await;
    assert_eq!(looked.shown(r#"rater_leases{state="live"}"#).await, Some(2));
    assert_eq!(looked.shown(r#"rater_leases{state="expired"}"#).await, Some(2));
}

#[tokio::test]
async fn a_role_shows_what_it_may_see_and_nothing_else() {
    let looked = Looked::new().await;
    let role = format!("blind_{}", std::process::id());
    looked.sql(&format!("CREATE ROLE {role}; GRANT SELECT ON rating_run, rating_run_chunk TO {role}")).await;
    let joint = if looked.db.url.contains('?') { '&' } else { '?' };
    let url = format!("{}{joint}options[role]={role}", looked.db.url);
    assert!(looked.look_by(&url, Duration::ZERO).await);
    assert_eq!(value(&looked.metrics, r#"rater_recent_runs{trigger="routine",state="failed"}"#), Some(0));
    assert_eq!(value(&looked.metrics, r#"rater_unbilled_events{kind="unpriced"}"#), None);
    assert_eq!(value(&looked.metrics, OLDEST), None);
    assert_eq!(value(&looked.metrics, r#"rater_leases{state="live"}"#), None);
    // Who may not see the runs has not looked at the records, whatever else it saw.
    let others = format!("REVOKE SELECT ON rating_run FROM {role}; GRANT SELECT ON rating_lease TO {role}");
    looked.sql(&others).await;
    assert!(!looked.look_by(&url, Duration::ZERO).await);
    assert_eq!(value(&looked.metrics, r#"rater_leases{state="live"}"#), Some(0));
    looked.sql(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}
