//! A plan leaves no trace and stands in nobody's way; it ends with its caller.

use std::time::Duration;

use nix::sys::signal::Signal;
use rater::grpc::client::Failure;
use rater::proto::*;
use sqlx::{AssertSqlSafe, PgPool};

use super::{dry, planned};
use crate::harness::{event, own_server};
use crate::rig::{BOOK, Gate, Rig, backfill, eventually, hour, routine, timestamp};
use crate::stage::{self, Stage};

/// Every row version of every table with its contents, and where every sequence stands.
async fn everything(pool: &PgPool) -> Vec<String> {
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT c.relname::text FROM pg_class c
         WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') ORDER BY 1",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    assert!(tables.len() >= 12, "{tables:?}");
    let mut found: Vec<String> = sqlx::query_scalar(
        "SELECT sequencename || ' ' || coalesce(last_value, 0) FROM pg_sequences ORDER BY sequencename",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    for table in tables {
        let sql = format!(
            "SELECT concat_ws(' ', '{table}', t.ctid, t.xmin, t.xmax, t::text) FROM {table} t ORDER BY t.ctid"
        );
        let rows: Vec<String> = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(pool).await.unwrap();
        found.push(table);
        found.extend(rows);
    }
    found
}

/// The next transaction id, and the end of the write-ahead log: anything that is written moves
/// one of them.
async fn marks(pool: &PgPool) -> (String, String) {
    let sql = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text, pg_current_wal_insert_lsn()::text";
    sqlx::query_as(sql).fetch_one(pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_over_thirty_days_writes_nothing_and_uses_no_transaction_id() {
    // Nothing but the service writes there, and no process of the server's own.
    let settings = [("autovacuum", "off"), ("wal_level", "minimal"), ("max_wal_senders", "0")];
    let server = own_server(&settings).await;
    let stage = Stage::over(&server.postgres.url());
    let service = stage.service(&["--migrate"]).await;
    stage.fill("e", 0, 720, 3).await;
    stage::rate(&service, stage::window(0, 720)).await.unwrap();
    // Something to insert, to update and to delete in each of its days, and an anomaly.
    stage.fill("late", 1, 720, 1).await;
    stage
        .sql(
            "DELETE FROM billing_event WHERE request_id LIKE 'e-%-2';
             UPDATE billing_event SET model = 'acme/unknown' WHERE request_id LIKE 'e-1%-3'",
        )
        .await;
    // Readers set hint bits and prune pages; that is done now.
    stage.sql("VACUUM").await;
    stage.sql("CHECKPOINT").await;
    let (before, marks_before) = (everything(&stage.pool).await, marks(&stage.pool).await);
    let request = RateWindowRequest { dry_run: true, ..stage::window(0, 720) };
    let plan = stage::rate(&service, request).await.unwrap();
    assert!(plan.updated_rollups > 0 && plan.reconciled_deletions > 0 && plan.unpriced_events > 0);
    assert_eq!(marks(&stage.pool).await, marks_before);
    assert_eq!(everything(&stage.pool).await, before);
}

/// Holds plans alone, at the chunk that they are in: there a run has its lease's row locked.
async fn hold_plans(rig: &Rig) -> Gate {
    let no_lease = "NOT EXISTS (SELECT FROM pg_locks
        WHERE pid = pg_backend_pid() AND relation = 'rating_lease'::regclass)";
    rig.gate("BEFORE INSERT ON rated_usage FOR EACH STATEMENT", no_lease).await
}

#[tokio::test]
async fn runs_and_ingest_go_on_while_a_plan_of_their_hours_is_made() {
    let rig = Rig::start(BOOK, &["--chunk-hours", "1"]).await;
    rig.insert((8..12).map(|h| event(&h.to_string()).at(&format!("2026-06-01T{h:02}:15:00Z")))).await;
    let gate = hold_plans(&rig).await;
    let mut client = rig.client();
    let plan = tokio::spawn(async move { client.rate_window(dry(backfill(8, 12))).await });
    rig.until_blocked(1).await;
    assert_eq!((rig.count("rating_lease").await, rig.count("rating_run").await), (0, 0));

    let meanwhile = async {
        // The hour that it is in, the ones that it comes to, and all of them.
        assert_eq!(rig.rated(backfill(11, 12)).await.inserted_rollups, 1);
        assert_eq!(rig.rated(routine(8, 10)).await.inserted_rollups, 2);
        let late = stage::event("late", 11);
        assert_eq!(stage::record(&rig.service, &[late]).await.unwrap().stored, 1);
        assert_eq!(rig.rated(routine(8, 12)).await.inserted_rollups, 2);
    };
    tokio::time::timeout(Duration::from_secs(30), meanwhile).await.expect("nobody waits for it");
    // Nor does another plan wait for it, but at the gate.
    let mut client = rig.client();
    let other = tokio::spawn(async move { client.rate_window(dry(backfill(8, 12))).await });
    rig.until_blocked(2).await;
    gate.open().await;

    // Each chunk as it was when it was planned: the newest before the runs, the others after.
    let plan = plan.await.unwrap().unwrap().into_inner().result.unwrap();
    assert_eq!((plan.inserted_rollups, plan.unchanged_rollups), (1, 3));
    let other = other.await.unwrap().unwrap().into_inner().result.unwrap();
    assert_eq!((other.inserted_rollups, other.updated_rollups, other.rollups), (0, 0, 5));
    assert_eq!((rig.count("rating_run").await, rig.count("rating_lease").await), (3, 0));
    rig.assert_explained().await;
}

#[tokio::test]
async fn a_plan_is_made_while_a_run_holds_the_lease_of_its_hours() {
    let rig = Rig::with_events([event("a")]).await;
    rig.sql(
        "INSERT INTO rating_lease (run_id, during, expires_at)
         VALUES ('other', '[2026-06-01T10:00Z,2026-06-01T11:00Z)', now() + interval '1 hour')",
    )
    .await;
    let lease = rig.versions("rating_lease").await;
    assert_eq!(planned(&rig, backfill(9, 12)).await.inserted_rollups, 1);
    assert_eq!(rig.versions("rating_lease").await, lease);
    assert_eq!(rig.refused(backfill(9, 12)).await.reason, "WINDOW_BUSY");
}

/// Three hundred thousand hours.
fn endless() -> RateWindowRequest {
    RateWindowRequest {
        since: Some(timestamp("2016-01-01T00:00:00Z")),
        until: Some(timestamp(&hour(12))),
        dry_run: true,
        ..RateWindowRequest::default()
    }
}

/// Whoever still plans is soon found waiting for this lock.
async fn until_nobody_plans(rig: &Rig) {
    eventually("nobody plans", async || {
        let hold = rig.hold_writes().await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        let waiting: i64 = rig
            .one("SELECT count(*) FROM pg_locks WHERE relation = 'rated_usage'::regclass AND NOT granted")
            .await;
        hold.rollback().await.unwrap();
        waiting == 0
    })
    .await;
}

#[tokio::test]
async fn a_plan_whose_caller_is_gone_ends_after_the_chunk_in_hand() {
    let rig = Rig::start(BOOK, &["--chunk-hours", "1"]).await;
    let hold = rig.hold_writes().await;
    let mut client = rig.client();
    let call = tokio::spawn(async move { client.rate_window(endless()).await });
    rig.until_blocked(1).await;
    call.abort();
    drop(call.await);
    hold.rollback().await.unwrap();
    until_nobody_plans(&rig).await;
}

#[tokio::test]
async fn a_plans_deadline_is_answered_and_leaves_nothing() {
    let rig = Rig::start(BOOK, &["--chunk-hours", "1"]).await;
    let before = everything(rig.pool()).await;
    let mut request = tonic::Request::new(endless());
    request.set_timeout(Duration::from_secs(1));
    let failure = Failure::from(rig.client().rate_window(request).await.expect_err("too slow"));
    assert_eq!(
        (failure.code, failure.reason.as_str()),
        ("DEADLINE_EXCEEDED", "DEADLINE_PASSED"),
        "{failure:?}"
    );
    until_nobody_plans(&rig).await;
    assert_eq!(everything(rig.pool()).await, before);
}

#[tokio::test]
async fn a_service_that_is_stopped_ends_a_plan_after_the_chunk_in_hand() {
    let mut rig = Rig::start(BOOK, &["--chunk-hours", "1"]).await;
    let hold = rig.hold_writes().await;
    let mut client = rig.client();
    let call = tokio::spawn(async move { client.rate_window(endless()).await });
    rig.until_blocked(1).await;
    rig.service.signal(Signal::SIGTERM);
    rig.service.wait_for_log("stopping: no new calls, what is in flight ends", Duration::from_secs(10)).await;
    hold.rollback().await.unwrap();
    let failure = Failure::from(call.await.unwrap().expect_err("stopped"));
    assert_eq!((failure.code, failure.reason.as_str()), ("UNAVAILABLE", "SHUTTING_DOWN"), "{failure:?}");
    assert_eq!(rig.service.wait(Duration::from_secs(20)).await.code(), Some(0));
    assert_eq!((rig.count("rating_run").await, rig.count("rating_lease").await), (0, 0));
}
