//! The connection breaks at COMMIT: whether it happened is unknown, and is said to be; the
//! same call again is always safe, and leads to the same rows.

use std::time::Duration;

use rater::proto::BillingEvent;
use tonic::Code;

use crate::proxy::{Proxy, Side};
use crate::stage::{Refusal, Stage, assert_no_panic, event, rate, rate_until_done, record, window};

fn unknown(refused: &Refusal) {
    let told = (refused.code, refused.reason.as_str());
    assert_eq!(told, (Code::Unavailable, "OUTCOME_UNKNOWN"), "{refused:?}");
}

#[tokio::test]
async fn a_run_whose_commit_is_cut_says_so_and_a_repeat_converges() {
    // The first COMMIT is that of the lease and the record, then one a chunk.
    let all = [(1, Side::Before), (1, Side::After), (2, Side::Before), (2, Side::After), (3, Side::After)];
    let mut cases = tokio::task::JoinSet::new();
    for (nth, cut) in all {
        cases.spawn(a_cut_run(nth, cut));
    }
    while let Some(done) = cases.join_next().await {
        done.unwrap();
    }
}

async fn a_cut_run(nth: u32, cut: Side) {
    let stage = Stage::new().await;
    stage.fill("e", 0, 2, 30).await;
    let proxy = Proxy::to(&stage.url).await;
    let arguments = ["--lease-ttl", "2s", "--chunk-hours", "1"];
    let service = stage.service_over(&proxy.url(&stage.url), &arguments).await;
    proxy.cut(nth, cut);
    let answer = rate(&service, window(0, 2)).await;
    assert!(proxy.has_struck());
    if (nth, cut) == (3, Side::After) {
        // The last commit: the record says that the run is done.
        assert_eq!(answer.unwrap().inserted_rollups, 60);
    } else {
        let refused = answer.unwrap_err();
        unknown(&refused);
        // What had been committed for sure.
        let hours_committed = refused.metadata.get("hours_committed").map_or("0", String::as_str);
        assert_eq!(hours_committed, if nth == 3 { "1" } else { "0" }, "{refused:?}");
    }
    let rows = stage.number("SELECT count(*) FROM rated_usage").await;
    let committed = i64::from(nth) - 1 - i64::from(cut == Side::Before);
    assert_eq!(rows, 30 * committed.max(0), "{nth} {cut:?}");

    let (result, refused) = rate_until_done(&service, window(0, 2), Duration::from_secs(20)).await;
    assert!(refused.iter().all(|reason| reason == "WINDOW_BUSY"), "{nth} {cut:?} {refused:?}");
    assert_eq!((result.rated_events, result.rollups), (60, 60));
    // The run that was cut off goes on by itself, unless the later one ends it.
    assert!([rows, 60].contains(&result.unchanged_rollups), "{nth} {cut:?} {result:?}");
    assert_eq!(stage.mismatches().await, 0);
    assert_eq!(stage.feed_faults().await, 0);
    assert_eq!(stage.number("SELECT count(*) FROM rated_usage_change").await, 60, "each once");
    let running = "SELECT count(*) FROM rating_run WHERE finished_at IS NULL";
    assert_eq!(stage.number(running).await, 0, "{nth} {cut:?}");
    assert_no_panic(&service);
}

#[tokio::test]
async fn a_batch_whose_commit_is_cut_says_so_and_is_stored_once() {
    for (cut, stored) in [(Side::Before, 200), (Side::After, 0)] {
        let stage = Stage::new().await;
        let proxy = Proxy::to(&stage.url).await;
        let service = stage.service_over(&proxy.url(&stage.url), &[]).await;
        let batch: Vec<BillingEvent> = (0..200).map(|n| event(&format!("e-{n}"), 0)).collect();
        proxy.cut(1, cut);
        let refused = record(&service, &batch).await.unwrap_err();
        assert!(proxy.has_struck());
        unknown(&refused);
        assert!(refused.retry.is_some());
        let again = record(&service, &batch).await.unwrap();
        assert_eq!((again.stored, again.duplicates), (stored, 200 - stored), "{cut:?}");
        assert_eq!(stage.number("SELECT count(*) FROM billing_event").await, 200);
    }
}

/// An error that ends the session may come after the commit was written: it is no proof.
#[tokio::test]
async fn a_session_that_is_ended_at_commit_leaves_its_outcome_unknown() {
    let stage = Stage::new().await;
    stage.fill("e", 0, 1, 10).await;
    stage
        .sql(
            "CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()), pg_sleep(5); RETURN NULL; END $$;
             CREATE CONSTRAINT TRIGGER die AFTER INSERT ON rating_run_chunk
                DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION die();
             CREATE CONSTRAINT TRIGGER die AFTER INSERT ON billing_event
                DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION die()",
        )
        .await;
    let service = stage.service(&[]).await;
    unknown(&rate(&service, window(0, 1)).await.unwrap_err());
    unknown(&record(&service, &[event("late", 0)]).await.unwrap_err());
    stage.sql("DROP TRIGGER die ON rating_run_chunk; DROP TRIGGER die ON billing_event").await;
    assert_eq!(record(&service, &[event("late", 0)]).await.unwrap().stored, 1);
    assert_eq!(rate(&service, window(0, 1)).await.unwrap().rated_events, 11);
}
