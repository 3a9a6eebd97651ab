//! A run outlives its caller: a deadline that passes, a caller that goes away, a service that is
//! told to stop.

use std::time::Duration;

use nix::sys::signal::Signal;
use rater::grpc::client::Failure;
use rater::proto::RateWindowRequest;

use crate::harness::event;
use crate::rig::{BOOK, Rig, backfill, eventually};

fn named() -> RateWindowRequest {
    RateWindowRequest { request_id: "slow".into(), ..backfill(10, 11) }
}

#[tokio::test]
async fn a_run_that_outlasts_its_callers_deadline_goes_on_and_is_found_again() {
    let rig = Rig::with_events([event("a")]).await;
    let hold = rig.hold_writes().await;
    let mut request = tonic::Request::new(named());
    request.set_timeout(Duration::from_secs(3));
    let failure = Failure::from(rig.client().rate_window(request).await.expect_err("too slow"));
    assert_eq!(
        (failure.code, failure.reason.as_str()),
        ("DEADLINE_EXCEEDED", "RUN_CONTINUES"),
        "{failure:?}"
    );
    let run_id = failure.metadata["run"].clone();
    assert_eq!(rig.run(&run_id).await.0, "running");
    let release = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        hold.rollback().await.unwrap();
    };
    let (response, ()) = tokio::join!(rig.rate(named()), release);
    let response = response.unwrap();
    assert_eq!((response.run_id, response.result.unwrap().inserted_rollups), (run_id, 1));
    assert_eq!(rig.count("rating_run").await, 1);
}

#[tokio::test]
async fn a_retry_has_a_deadline_of_its_own() {
    let rig = Rig::with_events([event("a")]).await;
    let hold = rig.hold_writes().await;
    let mut client = rig.client();
    let first = tokio::spawn(async move { client.rate_window(named()).await });
    rig.until_blocked(1).await;
    let mut request = tonic::Request::new(named());
    request.set_timeout(Duration::from_secs(3));
    let failure = Failure::from(rig.client().rate_window(request).await.expect_err("too slow"));
    assert_eq!(
        (failure.code, failure.reason.as_str()),
        ("DEADLINE_EXCEEDED", "RUN_CONTINUES"),
        "{failure:?}"
    );
    hold.rollback().await.unwrap();
    assert_eq!(first.await.unwrap().unwrap().into_inner().run_id, failure.metadata["run"]);
}

#[tokio::test]
async fn a_caller_that_goes_away_does_not_stop_its_run() {
    let rig = Rig::with_events([event("a")]).await;
    let hold = rig.hold_writes().await;
    let mut client = rig.client();
    let call = tokio::spawn(async move { client.rate_window(backfill(10, 11)).await });
    rig.until_blocked(1).await;
    call.abort();
    drop(call.await);
    tokio::time::sleep(Duration::from_millis(200)).await;
    hold.rollback().await.unwrap();
    eventually("the run has succeeded", async || {
        rig.one::<i64>("SELECT count(*) FROM rating_run WHERE state = 'succeeded'").await == 1
    })
    .await;
    assert_eq!(rig.rows().await.len(), 1);
    rig.assert_explained().await;
}

#[tokio::test]
async fn a_service_that_is_stopped_commits_the_chunk_in_hand_and_says_what_is_left() {
    let mut rig = Rig::start(BOOK, &["--chunk-hours", "1"]).await;
    rig.insert((9..12).map(|h| event(&h.to_string()).at(&format!("2026-06-01T{h:02}:15:00Z")))).await;
    let hold = rig.hold_writes().await;
    let mut client = rig.client();
    let call = tokio::spawn(async move { client.rate_window(backfill(9, 12)).await });
    rig.until_blocked(1).await;
    rig.service.signal(Signal::SIGTERM);
    rig.service.wait_for_log("stopping: no new calls, what is in flight ends", Duration::from_secs(10)).await;
    hold.rollback().await.unwrap();
    let failure = Failure::from(call.await.unwrap().expect_err("stopped"));
    assert_eq!((failure.code, failure.reason.as_str()), ("UNAVAILABLE", "SHUTTING_DOWN"), "{failure:?}");
    assert_eq!(failure.metadata["hours_committed"], "1");
    assert_eq!(failure.metadata["left_end"], "2026-06-01T11:00:00Z");
    assert_eq!(rig.service.wait(Duration::from_secs(20)).await.code(), Some(0));
    assert_eq!(rig.costs().await, [("11".to_string(), "0.00045".to_string())]);
    assert_eq!(
        (rig.run(&failure.metadata["run"]).await.0.as_str(), rig.count("rating_lease").await),
        ("pending", 0)
    );
}
