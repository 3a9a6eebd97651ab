//! Chunks side by side are committed out of order.

use super::*;
use crate::stage::{rate, window};

/// The newest of eight hours does not get on.
const GATE: &str = "CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_advisory_xact_lock_shared(7); RETURN NEW; END $$;
    CREATE TRIGGER gate BEFORE INSERT ON rated_usage FOR EACH ROW
        WHEN (NEW.window_start >= '2026-06-01T07:00Z') EXECUTE FUNCTION gate()";
const FOUR: [&str; 6] = ["--parallel", "4", "--chunk-hours", "1", "--lease-ttl", "2s"];

/// Killed with its newest hour in flight and all others committed.
async fn with_its_newest_hour_left() -> Dead {
    let stage = Stage::new().await;
    stage.fill("e", 0, 8, 20).await;
    stage.sql(GATE).await;
    let mut gate = stage.pool.acquire().await.unwrap();
    sqlx::query("SELECT pg_advisory_lock(7)").execute(&mut *gate).await.unwrap();
    let mut service = stage.service(&FOUR).await;
    let run = ask(&service, window(0, 8)).await;
    until("all others are committed", SOON, async || stage.number(CHUNKS).await == 7).await;
    service.signal(Signal::SIGKILL);
    service.wait(SOON).await;
    run.await.unwrap().unwrap_err();
    // Its session is gone before the gate opens: what was in flight is not committed.
    let sessions = "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'rater'";
    stage.number(sessions).await;
    sqlx::query("SELECT pg_advisory_unlock(7)").execute(&mut *gate).await.unwrap();
    drop(gate);
    hold_leases(&stage).await;
    let run_id = sqlx::query_scalar("SELECT run_id FROM rating_run").fetch_one(&stage.pool).await.unwrap();
    Dead { stage, run_id }
}

#[tokio::test]
async fn what_was_committed_out_of_order_is_not_done_again() {
    let dead = with_its_newest_hour_left().await;
    let before = crate::harness::rated_usage(&dead.stage.pool).await;
    assert_eq!(before.len(), 140);
    let service = dead.stage.service(&FOUR).await;
    end_leases(&dead.stage).await;
    assert_eq!(dead.end().await, ended("succeeded", "", 0));
    let after = crate::harness::rated_usage(&dead.stage.pool).await;
    assert_eq!((&after[..140], after.len()), (&before[..], 160), "to the row version");
    assert_eq!(dead.stage.number(CHUNKS).await, 8);
    assert_billed_once(&dead.stage).await;
    stop(service).await;
}

/// The hours below the newest one that is left are no hours of it.
#[tokio::test]
async fn a_later_backfill_of_hours_that_were_committed_out_of_order_does_not_end_the_run() {
    let dead = with_its_newest_hour_left().await;
    let other = dead.waits().await;
    let service = dead.stage.service(&FOUR).await;
    rate(&service, window(2, 5)).await.unwrap();
    assert_eq!(dead.record().await, ended("pending", "", 8));
    dead.goes_on(other).await;
    assert_eq!(dead.end().await, ended("succeeded", "", 0));
    assert_billed_once(&dead.stage).await;
    stop(service).await;
}
