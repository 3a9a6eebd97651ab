//! CancelRun: a run stops after the chunk in flight, keeps what it has committed, and is told as
//! what it is.

use rater::grpc::client::Failure;
use rater::proto::*;
use tonic::Status;

use super::{get, standing, wrong_field};
use crate::harness::event;
use crate::rig::{BOOK, Rig, backfill, eventually};

async fn cancel(rig: &Rig, run_id: &str) -> Result<Run, Status> {
    let request = CancelRunRequest { run_id: run_id.into() };
    Ok(rig.client().cancel_run(request).await?.into_inner().run.unwrap())
}

/// Three hours with an event each, an hour a chunk.
async fn rig() -> Rig {
    let rig = Rig::start(BOOK, &["--chunk-hours", "1"]).await;
    rig.insert((9..12).map(|h| event(&h.to_string()).at(&format!("2026-06-01T{h:02}:15:00Z")))).await;
    rig
}

#[tokio::test]
async fn a_run_stops_after_the_chunk_in_flight_and_keeps_what_is_committed() {
    let rig = rig().await;
    let hold = rig.hold_writes().await;
    let mut client = rig.client();
    let call = tokio::spawn(async move { client.rate_window(backfill(9, 12)).await });
    rig.until_blocked(1).await;
    let run_id: String = rig.one("SELECT run_id FROM rating_run").await;
    for _ in 0..2 {
        let run = cancel(&rig, &run_id).await.unwrap();
        assert_eq!((run.state(), run.finished_at, &run.error), (RunState::Cancelling, None, &None));
    }
    hold.rollback().await.unwrap();
    let failure = Failure::from(call.await.unwrap().expect_err("cancelled"));
    assert_eq!((failure.code, failure.reason.as_str()), ("ABORTED", "RUN_CANCELLED"), "{failure:?}");
    assert_eq!(failure.metadata["run"], run_id);
    assert_eq!(failure.metadata["hours_committed"], "1");
    let left = (failure.metadata["left_start"].as_str(), failure.metadata["left_end"].as_str());
    assert_eq!(left, ("2026-06-01T09:00:00Z", "2026-06-01T11:00:00Z"));

    let run = get(&rig, &run_id).await;
    assert_eq!((run.state(), run.progress.unwrap().hours_done), (RunState::Cancelled, 1));
    assert!(run.finished_at.is_some() && run.error.is_none());
    assert_eq!(run.result.unwrap().inserted_rollups, 1);
    assert_eq!((rig.rows().await.len(), rig.count("rating_lease").await), (1, 0));
    // Its hours are free again.
    assert_eq!(rig.rated(backfill(9, 12)).await.inserted_rollups, 2);
    // Too late changes nothing.
    assert_eq!(cancel(&rig, &run_id).await.unwrap().state(), RunState::Cancelled);
    let series = r#"rater_runs_total{trigger="backfill",state="cancelled"}"#;
    assert_eq!(rig.metric(series).await.as_deref(), Some("1"));
}

#[tokio::test]
async fn a_run_that_has_ended_stays_as_it_is() {
    let rig = rig().await;
    let run_id = rig.rate(backfill(9, 12)).await.unwrap().run_id;
    let before = get(&rig, &run_id).await;
    assert_eq!(cancel(&rig, &run_id).await.unwrap(), before);
    assert_eq!((before.state(), get(&rig, &run_id).await), (RunState::Succeeded, before));
}

#[tokio::test]
async fn a_run_that_no_process_has_is_cancelled_at_once() {
    let rig = rig().await;
    // Its hours are another's: it waits.
    standing(rig.pool(), "waits", "pending").await;
    rig.sql(
        "UPDATE rating_lease SET run_id = 'other', during = '[2026-06-01 00:00Z, 2026-06-01 10:00Z)'
         WHERE run_id = 'waits'",
    )
    .await;
    rig.sql("UPDATE rating_run SET told = false").await;
    assert_eq!(get(&rig, "waits").await.state(), RunState::Pending);
    let run = cancel(&rig, "waits").await.unwrap();
    assert_eq!((run.state(), run.error), (RunState::Cancelled, None));
    assert!(run.finished_at.is_some());
    // What it had found is told by whoever ended it.
    rig.logged(|line| line["run_id"] == "waits" && line["code"] == "UNPRICED_EVENTS").await;
}

#[tokio::test]
async fn a_run_that_is_not_known_is_not_found() {
    let rig = rig().await;
    let failure = Failure::from(cancel(&rig, "nobody's").await.unwrap_err());
    assert_eq!((failure.code, failure.reason.as_str()), ("NOT_FOUND", "RUN_NOT_FOUND"));
    assert_eq!(wrong_field(cancel(&rig, "").await), "run_id MISSING");
}

#[tokio::test]
async fn a_cancelled_run_ends_its_watch_and_a_repeat_of_its_request_says_so() {
    let rig = rig().await;
    let hold = rig.hold_writes().await;
    let request = || RateWindowRequest { request_id: "nightly".into(), ..backfill(9, 12) };
    let detached = rig.rate(RateWindowRequest { detach: true, ..request() }).await.unwrap();
    let watched = WatchRunRequest { run_id: detached.run_id.clone() };
    let mut stream = rig.client().watch_run(watched).await.unwrap().into_inner();
    rig.until_blocked(1).await;
    cancel(&rig, &detached.run_id).await.unwrap();
    let mut states = Vec::new();
    let mut hold = Some(hold);
    while let Some(told) = stream.message().await.unwrap() {
        states.push(told.run.unwrap().state());
        if states.last() == Some(&RunState::Cancelling)
            && let Some(hold) = hold.take()
        {
            hold.rollback().await.unwrap();
        }
    }
    states.dedup();
    assert_eq!(states.last(), Some(&RunState::Cancelled), "{states:?}");
    assert!(states.contains(&RunState::Cancelling), "{states:?}");
    let failure = rig.refused(request()).await;
    assert_eq!((failure.reason.as_str(), &failure.metadata["run"]), ("RUN_CANCELLED", &detached.run_id));
    eventually("one run", async || rig.count("rating_run").await == 1).await;
}
