//! A run that someone asks to stop: the chunk in flight commits, and what is committed stays.

use rater::proto::{CancelRunRequest, RunState};
use sqlx::Postgres;
use sqlx::pool::PoolConnection;
use tonic::Code;

use super::*;
use crate::stage::{rate, window};

const ARGUMENTS: [&str; 4] = ["--chunk-hours", "1", "--lease-ttl", "2s"];
const GATE: &str = "CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_advisory_xact_lock_shared(7); RETURN NEW; END $$;
    CREATE TRIGGER gate BEFORE INSERT ON rated_usage FOR EACH ROW
        WHEN (NEW.window_start = '2026-06-01T03:00Z') EXECUTE FUNCTION gate()";

/// Five hours; a run of them would not get on with the fourth.
async fn gated() -> (Stage, PoolConnection<Postgres>) {
    let stage = Stage::new().await;
    stage.fill("e", 0, 5, 10).await;
    stage.sql("UPDATE billing_event SET model = 'nobody/knows' WHERE request_id = 'e-4-1'").await;
    stage.sql(GATE).await;
    let mut gate = stage.pool.acquire().await.unwrap();
    sqlx::query("SELECT pg_advisory_lock(7)").execute(&mut *gate).await.unwrap();
    (stage, gate)
}

async fn open(mut gate: PoolConnection<Postgres>) {
    sqlx::query("SELECT pg_advisory_unlock(7)").execute(&mut *gate).await.unwrap();
}

async fn cancel(service: &Service, run_id: &str) -> RunState {
    let mut client = service.client_rating().await;
    let answer = client.cancel_run(CancelRunRequest { run_id: run_id.into() }).await.unwrap();
    answer.into_inner().run.unwrap().state()
}

fn cancelled(refused: &Refusal, hours_committed: &str, left_end: &str) {
    assert_eq!((refused.code, refused.reason.as_str()), (Code::Aborted, "RUN_CANCELLED"), "{refused:?}");
    let said = |name: &str| refused.metadata[name].as_str();
    assert_eq!((said("hours_committed"), said("left_end")), (hours_committed, left_end));
}

async fn told(services: &[&Service]) -> usize {
    logged(services, "code", "UNPRICED_EVENTS").await.len()
}

#[tokio::test]
async fn a_cancelled_run_stops_after_the_chunk_in_flight() {
    let (stage, gate) = gated().await;
    let (service, other) = (stage.service(&ARGUMENTS).await, stage.service(&ARGUMENTS).await);
    let request = RateWindowRequest { request_id: "stop me".into(), ..window(0, 5) };
    let run = ask(&service, request.clone()).await;
    until("the second chunk is in flight", SOON, async || stage.number(CHUNKS).await == 1).await;
    let run_id: String =
        sqlx::query_scalar("SELECT run_id FROM rating_run").fetch_one(&stage.pool).await.unwrap();
    // Through whichever process, and twice.
    assert_eq!(cancel(&other, &run_id).await, RunState::Cancelling);
    assert_eq!(cancel(&service, &run_id).await, RunState::Cancelling);
    open(gate).await;
    cancelled(&run.await.unwrap().unwrap_err(), "2", "2026-06-01T03:00:00Z");
    assert_eq!(record(&stage, &run_id).await, ended("cancelled", "", 3));
    assert_eq!((stage.number(CHUNKS).await, stage.number(CHANGES).await), (2, 19));
    assert_eq!((stage.number(AHEAD).await, stage.feed_faults().await), (0, 0));
    assert_eq!(
        (stage.number("SELECT count(*) FROM rating_lease").await, told(&[&service, &other]).await),
        (0, 1)
    );
    // Who asks again gets the same, and the hours that are left are free.
    cancelled(&rate(&other, request).await.unwrap_err(), "2", "2026-06-01T03:00:00Z");
    rate(&other, window(0, 3)).await.unwrap();
    assert_billed_once(&stage).await;
}

#[tokio::test]
async fn a_dead_run_that_was_cancelled_is_not_taken_up_again() {
    let (stage, gate) = gated().await;
    open(gate).await;
    let dead = Dead::after(2, stage, window(0, 5), &ARGUMENTS).await;
    let service = dead.stage.service(&ARGUMENTS).await;
    assert_eq!(cancel(&service, &dead.run_id).await, RunState::Cancelling);
    end_leases(&dead.stage).await;
    assert_eq!(dead.end().await, ended("cancelled", "", 3));
    assert_eq!(dead.stage.number(CHUNKS).await, 2);
    assert_eq!((told(&[&service]).await, dead.stage.number(AHEAD).await), (1, 0));
}

#[tokio::test]
async fn a_run_that_waits_for_a_process_is_cancelled_at_once() {
    let (stage, gate) = gated().await;
    let mut first = stage.service(&ARGUMENTS).await;
    let run = ask(&first, window(0, 5)).await;
    until("the second chunk is in flight", SOON, async || stage.number(CHUNKS).await == 1).await;
    first.signal(Signal::SIGTERM);
    first.wait_for_log("stopping: no new calls, what is in flight ends", SOON).await;
    open(gate).await;
    run.await.unwrap().unwrap_err();
    drop(first);
    let run_id: String =
        sqlx::query_scalar("SELECT run_id FROM rating_run").fetch_one(&stage.pool).await.unwrap();
    let left = record(&stage, &run_id).await;
    assert_eq!(left.state, "pending");
    // A run that another's lease keeps from going on waits for as long as that lives.
    stage
        .sql("INSERT INTO rating_lease (run_id, during, expires_at)
            VALUES ('other', '[2026-06-01T00:00Z, 2026-06-01T01:00Z)', clock_timestamp() + interval '1 hour')")
        .await;
    let service = stage.service(&ARGUMENTS).await;
    assert_eq!(cancel(&service, &run_id).await, RunState::Cancelled);
    assert_eq!(record(&stage, &run_id).await, ended("cancelled", "", left.hours_left));
    assert_eq!(told(&[&service]).await, 1);
    // Too late to change anything.
    assert_eq!(cancel(&service, &run_id).await, RunState::Cancelled);
    assert_eq!(told(&[&service]).await, 1);
}

#[tokio::test]
async fn to_cancel_a_run_that_has_ended_changes_nothing() {
    let (stage, gate) = gated().await;
    open(gate).await;
    let service = stage.service(&ARGUMENTS).await;
    let result = rate(&service, window(0, 5)).await.unwrap();
    let run_id: String =
        sqlx::query_scalar("SELECT run_id FROM rating_run").fetch_one(&stage.pool).await.unwrap();
    let version = "SELECT xmin::text::bigint FROM rating_run";
    let before = stage.number(version).await;
    assert_eq!(cancel(&service, &run_id).await, RunState::Succeeded);
    store(&stage).cancel_run(&run_id).await.unwrap();
    assert_eq!(stage.number(version).await, before);
    assert_eq!((record(&stage, &run_id).await, result.inserted_rollups), (ended("succeeded", "", 0), 49));
    assert_billed_once(&stage).await;
}
