//! A run with a plan keeps to it, whoever goes on with it.

use tonic::Code;

use super::*;
use crate::stage::{rate, window};

const ARGUMENTS: [&str; 4] = ["--chunk-hours", "1", "--lease-ttl", "2s"];

/// Five hours, and the request that applies a plan of them.
async fn planned() -> (Stage, RateWindowRequest) {
    let stage = Stage::new().await;
    stage.fill("e", 0, 5, 10).await;
    let service = stage.service(&ARGUMENTS).await;
    let plan = rate(&service, RateWindowRequest { dry_run: true, ..window(0, 5) }).await.unwrap();
    let request =
        RateWindowRequest { expected_plan_hash: plan.plan_hash, request_id: "apply".into(), ..window(0, 5) };
    stop(service).await;
    (stage, request)
}

#[tokio::test]
async fn a_resumed_run_that_would_do_what_its_plan_says_finishes() {
    let (stage, request) = planned().await;
    let dead = Dead::after(2, stage, request.clone(), &ARGUMENTS).await;
    // In an hour that is committed: no change of what is left.
    dead.stage.fill("more", 4, 5, 3).await;
    let service = dead.stage.service(&ARGUMENTS).await;
    end_leases(&dead.stage).await;
    assert_eq!(dead.end().await, ended("succeeded", "", 0));
    let result = rate(&service, request).await.unwrap();
    assert_eq!((result.inserted_rollups, result.events), (50, 50));
    assert_eq!((dead.stage.number(AHEAD).await, dead.stage.number(CHANGES).await), (0, 50));
}

#[tokio::test]
async fn a_resumed_run_stops_where_its_plan_no_longer_holds() {
    let (stage, request) = planned().await;
    let dead = Dead::after(2, stage, request.clone(), &ARGUMENTS).await;
    dead.stage.fill("late", 1, 2, 1).await;
    let service = dead.stage.service(&ARGUMENTS).await;
    end_leases(&dead.stage).await;
    assert_eq!(dead.end().await, ended("failed", "PLAN_CHANGED", 2));
    let refused = rate(&service, request).await.unwrap_err();
    assert_eq!((refused.code, refused.reason.as_str()), (Code::FailedPrecondition, "PLAN_CHANGED"));
    assert_eq!(refused.metadata["hours_committed"], "3");
    assert_eq!((dead.stage.number(AHEAD).await, dead.stage.feed_faults().await), (0, 0));
    assert_eq!(dead.stage.number(CHANGES).await, 30);
}

#[tokio::test]
async fn a_run_that_died_in_its_survey_is_surveyed_again() {
    for (late, outcome) in [(false, ended("succeeded", "", 0)), (true, ended("failed", "PLAN_CHANGED", 5))] {
        let (stage, request) = planned().await;
        let spot = Spot { statement: S2, nth: 3, side: Side::After };
        let dead = Dead::at(spot, stage, request, &ARGUMENTS).await;
        let unplanned = "SELECT count(*) FROM rating_run WHERE hour_hashes IS NULL";
        assert_eq!((dead.stage.number(CHUNKS).await, dead.stage.number(unplanned).await), (0, 1));
        if late {
            dead.stage.fill("late", 0, 1, 1).await;
        }
        let service = dead.stage.service(&ARGUMENTS).await;
        end_leases(&dead.stage).await;
        assert_eq!(dead.end().await, outcome);
        // The survey refuses before anything is committed.
        assert_eq!(dead.stage.number(CHUNKS).await, if late { 0 } else { 5 });
        stop(service).await;
    }
}
