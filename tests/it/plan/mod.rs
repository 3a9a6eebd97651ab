//! A plan: what a dry run says of it, that it leaves no trace and stands in nobody's way, and
//! that an applied one is what was seen, or nothing.

mod apply;
mod candidate;
mod command;
mod report;
mod silence;

use rater::grpc::client::Failure;
use rater::proto::{RateWindowRequest, RatingResult, RunState};

use crate::harness::event;
use crate::rig::{BOOK, Rig, backfill};

/// Rated once, and then changed in every way: of the hours 8 to 12 a run would insert a rollup,
/// delete one, leave one, and update two, one of which has shrunk.
async fn changed(arguments: &[&str]) -> Rig {
    let rig = Rig::start(BOOK, arguments).await;
    let small = |id: &str, at: &str| event(id).auth("auth-4").model("acme/small").at(at);
    rig.insert([
        event("same"),
        event("gone").auth("auth-2"),
        event("stays").auth("auth-3"),
        event("shrinks").auth("auth-3"),
        small("held", "2026-06-01T09:15:00Z"),
    ])
    .await;
    rig.rated(backfill(8, 12)).await;
    rig.sql("DELETE FROM billing_event WHERE request_id IN ('gone', 'shrinks')").await;
    rig.insert([
        small("grows", "2026-06-01T09:45:00Z"),
        event("new").auth("auth-5").at("2026-06-01T11:15:00Z"),
        event("unpriced").model("acme/unknown"),
    ])
    .await;
    rig
}

fn dry(request: RateWindowRequest) -> RateWindowRequest {
    RateWindowRequest { dry_run: true, ..request }
}

fn applying(hash: &str, request: RateWindowRequest) -> RateWindowRequest {
    RateWindowRequest { expected_plan_hash: hash.into(), ..request }
}

/// Plans, and holds what must hold of every plan.
async fn planned(rig: &Rig, request: RateWindowRequest) -> RatingResult {
    let response = rig.rate(dry(request)).await.unwrap();
    assert_eq!((response.run_id.as_str(), response.state()), ("", RunState::Succeeded));
    let plan = response.result.unwrap();
    assert!(plan.dry_run);
    assert!(is_hash(&plan.plan_hash), "{plan:?}");
    plan
}

fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// What a plan and its run have in common.
fn done(result: RatingResult) -> RatingResult {
    RatingResult {
        dry_run: false,
        plan_hash: String::new(),
        changes_by_model: Vec::new(),
        changes_by_auth_id: Vec::new(),
        ..result
    }
}

/// The code, and the fields in the order in which they are named.
fn named(failure: &Failure) -> (&str, Vec<&str>) {
    (failure.code, failure.violations.iter().map(|(field, _)| field.as_str()).collect())
}
