//! R8: a process that stands still past its lease finds that its run went on without it. Wherever
//! it stood, it commits nothing any more, and its caller hears so, or how the run ended.

use tonic::Code;

use super::*;
use crate::harness::{rated_usage, soak};
use crate::stage::{assert_no_panic, rate, window};

const HOURS: i64 = 4;
/// A heartbeat comes in between.
const SLOW: &str = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_sleep(0.3); RETURN NULL; END $$;
    CREATE TRIGGER slow BEFORE INSERT ON rated_usage FOR EACH STATEMENT EXECUTE FUNCTION slow()";
/// Chunks that were committed after the takeover have the new fence, and those before the old one.
const WRONG_FENCE: &str = "SELECT count(*) FROM rated_usage u JOIN rating_run r USING (run_id)
    JOIN rating_run_chunk c ON c.run_id = u.run_id
        AND u.window_start >= c.chunk_start AND u.window_start < c.chunk_end
    WHERE (u.fence > r.fence) <> (c.committed_at > r.resumed_at)";

#[tokio::test]
async fn r8_stopped_before_its_first_lock_a_run_goes_on_elsewhere() {
    stopped(COMMIT, 1, Side::After).await;
}

#[tokio::test]
async fn r8_stopped_before_a_lock_a_run_goes_on_elsewhere() {
    stopped(S1, 2, Side::Before).await;
}

#[tokio::test]
async fn r8_stopped_between_lock_and_statement_a_run_goes_on_elsewhere() {
    stopped(S1, 2, Side::After).await;
}

#[tokio::test]
async fn r8_stopped_in_its_statement_a_run_goes_on_elsewhere() {
    stopped(S2, 2, Side::During).await;
}

#[tokio::test]
async fn r8_stopped_before_a_commit_a_run_goes_on_elsewhere() {
    stopped(FEED, 2, Side::After).await;
}

/// What it says is held back for as long, and is late at the database.
#[tokio::test]
async fn r8_stopped_in_a_heartbeat_a_run_goes_on_elsewhere() {
    stopped(HEARTBEAT, 1, Side::Before).await;
}

async fn stopped(statement: &'static str, nth: u32, side: Side) {
    for round in 0..if soak() { 25 } else { 1 } {
        // Where the chunk in hand can be another one, it is.
        let nth = if nth > 1 { nth + round % 3 } else { nth };
        // It wakes when the other has the run's lease and stands still, too; or has ended the run.
        let late = round % 2 == 1;
        stopped_at(Spot { statement, nth, side }, late).await;
    }
    println!("{side:?} {statement}: stopped {} times", if soak() { 25 } else { 1 });
}

async fn stopped_at(spot: Spot, late: bool) {
    let stage = Stage::new().await;
    stage.fill("e", 0, HOURS, 20).await;
    stage.sql(SLOW).await;
    let (proxy, takers) = (Proxy::to(&stage.url).await, Proxy::to(&stage.url).await);
    let arguments = ["--lease-ttl", "3s", "--chunk-hours", "1"];
    let taker = stage.service_over(&takers.url(&stage.url), &arguments).await;
    if !late {
        // As soon as it has taken the run over, it reads the record.
        takers.strike(Spot { statement: READ, nth: 1, side: Side::Before }, Deed::Stop(taker.pid()));
    }
    let arguments = ["--lease-ttl", "2s", "--chunk-hours", "1"];
    let holder = stage.service_over(&proxy.url(&stage.url), &arguments).await;
    proxy.strike(spot, Deed::Stop(holder.pid()));
    let run = ask(&holder, window(0, HOURS)).await;
    until("it stands still", SOON, async || proxy.has_struck()).await;
    let taken = "SELECT count(*) FROM rating_run WHERE resumed_at IS NOT NULL";
    until("the run is taken over", SOON, async || stage.number(taken).await == 1).await;
    let done = "SELECT count(*) FROM rating_run WHERE state = 'succeeded'";
    if late {
        until("the run is done", SOON, async || stage.number(done).await == 1).await;
    } else {
        until("the other stands still", SOON, async || takers.has_struck()).await;
        hold_leases(&stage).await;
    }
    let before = stage.number(CHUNKS).await;
    let rows = rated_usage(&stage.pool).await;

    holder.signal(Signal::SIGCONT);
    proxy.release();
    match run.await.unwrap() {
        Ok(result) => assert_eq!((result.rollups, result.rated_events), (HOURS * 20, HOURS * 20), "{spot:?}"),
        Err(refused) => {
            assert_eq!((refused.code, refused.reason.as_str()), (Code::Aborted, "LEASE_LOST"), "{spot:?}");
            assert!(!late, "the run has ended: {refused:?}");
            assert_eq!(refused.metadata["hours_committed"], before.to_string(), "{spot:?}");
            assert_eq!(stage.number(CHUNKS).await, before, "{spot:?}: committed by the wrong one");
            taker.signal(Signal::SIGCONT);
            takers.release();
        }
    }
    until("the run is done", SOON, async || stage.number(done).await == 1).await;
    let after = rated_usage(&stage.pool).await;
    assert!(rows.iter().all(|row| after.contains(row)), "{spot:?}: to the row version");
    assert!(!late || rows.len() == after.len());
    assert_eq!(stage.number(WRONG_FENCE).await, 0, "{spot:?}");
    assert_eq!(stage.number(RUNS).await, 1);
    assert_billed_once(&stage).await;
    // It serves on.
    let again = rate(&holder, window(0, HOURS)).await.unwrap();
    assert_eq!((again.unchanged_rollups, again.rollups), (HOURS * 20, HOURS * 20));
    assert_no_panic(&holder);
    assert_no_panic(&taker);
}
