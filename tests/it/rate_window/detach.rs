//! A caller that does not wait: it gets the run at once, and its result when it asks again.

use std::time::Duration;

use rater::proto::{RateWindowRequest, RateWindowResponse, RunState};

use crate::harness::event;
use crate::rig::{Rig, backfill};

/// It must not wait for what holds the run.
async fn at_once(rig: &Rig, request: RateWindowRequest) -> RateWindowResponse {
    let mut request = tonic::Request::new(request);
    request.set_timeout(Duration::from_secs(20));
    rig.client().rate_window(request).await.unwrap().into_inner()
}

fn asked(detach: bool) -> RateWindowRequest {
    RateWindowRequest { request_id: "id".into(), detach, ..backfill(10, 11) }
}

#[tokio::test]
async fn a_detached_run_is_answered_at_once_and_its_result_is_there_for_the_same_request() {
    let rig = Rig::with_events([event("a"), event("b").model("acme/unknown")]).await;
    let hold = rig.hold_writes().await;
    let begun = at_once(&rig, asked(true)).await;
    assert_eq!((begun.state(), begun.run_id.is_empty()), (RunState::Running, false));
    assert_eq!(rig.run(&begun.run_id).await.0, "running");
    let again = at_once(&rig, asked(true)).await;
    assert_eq!((again.state(), &again.run_id), (RunState::Running, &begun.run_id));
    let mut client = rig.client();
    let waiting = tokio::spawn(async move { client.rate_window(asked(false)).await });
    rig.until_blocked(1).await;
    assert!(!waiting.is_finished());
    hold.rollback().await.unwrap();
    let result = waiting.await.unwrap().unwrap().into_inner();
    assert_eq!((result.state(), &result.run_id), (RunState::Succeeded, &begun.run_id));
    assert_eq!(result.result.as_ref().unwrap().inserted_rollups, 1);
    assert_eq!(result.result.as_ref().unwrap().findings.len(), 1);
    assert_eq!(rig.rate(asked(true)).await.unwrap(), result);
    assert_eq!(rig.rate(asked(false)).await.unwrap(), result);
    assert_eq!(rig.count("rating_run").await, 1);
}

#[tokio::test]
async fn a_detached_run_without_an_id_of_its_callers_goes_on() {
    let rig = Rig::with_events([event("a")]).await;
    let hold = rig.hold_writes().await;
    let begun = at_once(&rig, RateWindowRequest { detach: true, ..backfill(10, 11) }).await;
    let busy = rig.refused(RateWindowRequest { detach: true, ..backfill(9, 11) }).await;
    assert_eq!((busy.reason.as_str(), &busy.metadata["run"]), ("WINDOW_BUSY", &begun.run_id));
    hold.rollback().await.unwrap();
    crate::rig::eventually("it is rated", async || rig.run(&begun.run_id).await.0 == "succeeded").await;
    assert_eq!(rig.rows().await.len(), 1);
}

#[tokio::test]
async fn what_is_refused_or_has_failed_is_told_to_a_detached_caller_too() {
    let rig = Rig::with_events([event("a")]).await;
    let wrong = RateWindowRequest { expected_plan_hash: "x".into(), ..asked(true) };
    assert_eq!(rig.refused(wrong).await.code, "INVALID_ARGUMENT");
    let unseen = |detach| RateWindowRequest { expected_plan_hash: "0".repeat(64), ..asked(detach) };
    let failure = rig.refused(unseen(false)).await;
    assert_eq!(failure.reason, "PLAN_CHANGED");
    assert_eq!(rig.refused(unseen(true)).await, failure);
    assert_eq!(rig.refused(asked(true)).await.reason, "REQUEST_ID_REUSED");
}
