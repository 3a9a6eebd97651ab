//! Applying a plan: what was seen is what happens, or the run stops.

use std::time::Duration;

use nix::sys::signal::Signal;
use rater::grpc::client::Failure;
use rater::proto::{RateBasis, RateWindowRequest};

use super::{applying, changed, done, is_hash, named, planned};
use crate::harness::{Service, event};
use crate::rig::{BOOK, Gate, Rig, backfill, dearer, eventually, routine};

/// Refused by its plan, before it rated anything.
async fn assert_changed(rig: &Rig, failure: &Failure, window: [&str; 2]) {
    assert_eq!((failure.code, failure.reason.as_str()), ("FAILED_PRECONDITION", "PLAN_CHANGED"));
    let left = ["hours_committed", "left_start", "left_end"].map(|key| failure.metadata[key].as_str());
    assert_eq!(left, ["0", window[0], window[1]]);
    let (state, reason, remaining) = rig.run(&failure.metadata["run"]).await;
    assert_eq!((state.as_str(), reason.as_deref()), ("failed", Some("PLAN_CHANGED")));
    assert_eq!(remaining, Some(window[1].parse().unwrap()));
    assert_eq!(rig.count("rating_lease").await, 0);
}

#[tokio::test]
async fn the_seen_plan_is_applied_whatever_chunks_either_had() {
    for (seen, applied) in [
        (&[][..], &["--chunk-hours", "1", "--parallel", "4"][..]),
        (&["--chunk-hours", "1", "--parallel", "4"], &[]),
        (&["--chunk-hours", "3"], &["--chunk-hours", "1"]),
    ] {
        let mut rig = changed(seen).await;
        let plan = planned(&rig, backfill(8, 12)).await;
        let hash = plan.plan_hash.clone();
        let path = rig.book_path();
        let arguments = [&["--pricebook", path.to_str().unwrap()], applied].concat();
        rig.service = Service::start(&rig.db.url, &arguments).await;
        let mut client = rig.service.client_rating().await;
        let response = client.rate_window(applying(&hash, backfill(8, 12))).await.unwrap().into_inner();
        let result = response.result.unwrap();
        assert_eq!((result.plan_hash.as_str(), result.dry_run), (hash.as_str(), false));
        assert_eq!(done(result), done(plan));
        rig.assert_explained().await;
        let stored: Option<Vec<Vec<u8>>> = rig
            .one(&format!("SELECT hour_hashes FROM rating_run WHERE run_id = '{}'", response.run_id))
            .await;
        assert_eq!(stored.unwrap().len(), 4);
    }
}

#[tokio::test]
async fn what_is_not_the_plan_any_more_is_not_applied_and_names_the_plan_now() {
    let rig = changed(&["--chunk-hours", "1"]).await;
    let hash = planned(&rig, backfill(8, 12)).await.plan_hash;
    let (rows, changes) = (rig.rows().await, rig.changes().await);
    let frozen = || RateWindowRequest { rate_basis: RateBasis::Frozen.into(), ..backfill(8, 12) };
    let restore = "DELETE FROM billing_event WHERE request_id = 'other'";
    for (change, request) in [
        ("another window", backfill(8, 11)),
        ("an hour more, in which nothing happens", backfill(7, 12)),
        ("another basis", frozen()),
        ("an event more", backfill(8, 12)),
        ("an event less", backfill(8, 12)),
        ("a price", backfill(8, 12)),
    ] {
        match change {
            "an event more" => rig.insert([event("other").at("2026-06-01T08:15:00Z")]).await,
            "an event less" => {
                rig.sql("DELETE FROM billing_event WHERE request_id IN ('other', 'new')").await
            }
            "a price" => {
                rig.insert([event("new").auth("auth-5").at("2026-06-01T11:15:00Z")]).await;
                assert_eq!(planned(&rig, backfill(8, 12)).await.plan_hash, hash, "it is the same again");
                rig.reload(&dearer()).await;
            }
            _ => rig.sql(restore).await,
        }
        let now = planned(&rig, request.clone()).await.plan_hash;
        assert_ne!(now, hash, "{change}");
        let failure = rig.refused(applying(&hash, request.clone())).await;
        let at = |time: Option<prost_types::Timestamp>| {
            chrono::DateTime::from_timestamp(time.unwrap().seconds, 0).unwrap().format("%FT%TZ").to_string()
        };
        assert_changed(&rig, &failure, [&at(request.since), &at(request.until)]).await;
        assert!(failure.message.contains(&now), "{change}: {failure:?}");
        assert_eq!((rig.rows().await, rig.changes().await), (rows.clone(), changes.clone()), "{change}");
    }
}

#[tokio::test]
async fn a_plan_is_applied_once_and_the_same_request_gets_its_result_again() {
    let rig = changed(&[]).await;
    let hash = planned(&rig, backfill(8, 12)).await.plan_hash;
    let request = |id: &str| RateWindowRequest { request_id: id.into(), ..applying(&hash, backfill(8, 12)) };
    let first = rig.rate(request("apply")).await.unwrap();
    assert_eq!(rig.rate(request("apply")).await.unwrap(), first);
    assert_eq!(rig.refused(request("again")).await.reason, "PLAN_CHANGED");
    // What was refused stays so under its id.
    assert_eq!(rig.refused(request("again")).await, rig.refused(request("again")).await);
    for other in [applying(&"0".repeat(64), backfill(8, 12)), backfill(8, 12)] {
        let other = RateWindowRequest { request_id: "apply".into(), ..other };
        assert_eq!(rig.refused(other).await.reason, "REQUEST_ID_REUSED");
    }
}

#[tokio::test]
async fn a_plan_of_nothing_has_a_hash_and_is_applied() {
    let rig = Rig::with_events([event("a")]).await;
    rig.rated(backfill(10, 11)).await;
    let rows = rig.rows().await;
    for window in [backfill(10, 11), backfill(1, 5), routine(10, 11)] {
        let plan = planned(&rig, window.clone()).await;
        assert_eq!(plan.inserted_rollups + plan.updated_rollups + plan.reconciled_deletions, 0);
        let result = rig.rated(applying(&plan.plan_hash, window)).await;
        assert_eq!((result.plan_hash.clone(), done(result)), (plan.plan_hash.clone(), done(plan)));
    }
    assert_eq!((rig.rows().await, rig.count("change_batch").await), (rows, 1));
}

#[tokio::test]
async fn an_event_that_arrives_after_the_survey_stops_the_run_at_its_chunk() {
    let rig = Rig::start(BOOK, &["--chunk-hours", "1"]).await;
    rig.insert((8..12).map(|h| event(&h.to_string()).at(&format!("2026-06-01T{h:02}:15:00Z")))).await;
    let hash = planned(&rig, backfill(8, 12)).await.plan_hash;
    let gate = rig.gate(Gate::AT_RESULTS, "true").await;
    let mut client = rig.client();
    let request = RateWindowRequest { request_id: "late".into(), ..applying(&hash, backfill(8, 12)) };
    let retry = request.clone();
    let run = tokio::spawn(async move { client.rate_window(request).await });
    rig.until_blocked(1).await;
    rig.insert([event("late").auth("late").at("2026-06-01T09:45:00Z")]).await;
    gate.open().await;
    let failure = Failure::from(run.await.unwrap().expect_err("changed"));
    assert_eq!((failure.code, failure.reason.as_str()), ("FAILED_PRECONDITION", "PLAN_CHANGED"));
    let left = ["hours_committed", "left_start", "left_end"].map(|key| failure.metadata[key].as_str());
    assert_eq!(left, ["2", "2026-06-01T08:00:00Z", "2026-06-01T10:00:00Z"]);
    // Its two newest hours stand, and the oldest was not begun.
    let hours: Vec<String> = rig.costs().await.into_iter().map(|(hour, _)| hour).collect();
    assert_eq!(hours, ["10", "11"]);
    let (state, reason, remaining) = rig.run(&failure.metadata["run"]).await;
    assert_eq!((state.as_str(), reason.as_deref()), ("failed", Some("PLAN_CHANGED")));
    assert_eq!(remaining, Some("2026-06-01T10:00:00Z".parse().unwrap()));
    rig.assert_explained().await;
    assert_eq!(rig.refused(retry).await, failure);
    // The rest has a plan of its own.
    let rest = planned(&rig, backfill(8, 10)).await;
    assert_eq!(rig.rated(applying(&rest.plan_hash, backfill(8, 10))).await.inserted_rollups, 3);
}

#[tokio::test]
async fn a_process_that_takes_a_run_over_keeps_to_its_plan() {
    let mut rig = Rig::start(BOOK, &["--chunk-hours", "1", "--lease-ttl", "2s"]).await;
    rig.insert((8..12).map(|h| event(&h.to_string()).at(&format!("2026-06-01T{h:02}:15:00Z")))).await;
    let hash = planned(&rig, backfill(8, 12)).await.plan_hash;
    let gate = rig.gate(Gate::AT_ROLLUPS, "NEW.window_start = '2026-06-01T10:00Z'").await;
    let mut client = rig.client();
    let run = tokio::spawn(async move { client.rate_window(applying(&hash, backfill(8, 12))).await });
    eventually("the first is committed", async || rig.count("rating_run_chunk").await == 1).await;
    rig.service.signal(Signal::SIGKILL);
    rig.service.wait(Duration::from_secs(20)).await;
    assert!(run.await.unwrap().is_err());
    gate.open().await;
    rig.insert([event("late").at("2026-06-01T08:45:00Z")]).await;
    let path = rig.book_path();
    rig.service =
        Service::start(&rig.db.url, &["--pricebook", path.to_str().unwrap(), "--lease-ttl", "2s"]).await;
    eventually("it has ended", async || {
        rig.one::<i64>("SELECT count(*) FROM rating_run WHERE finished_at IS NOT NULL").await == 1
    })
    .await;
    // In one chunk, with what the plan does not know of.
    let (state, reason, remaining) = rig.run(&rig.one::<String>("SELECT run_id FROM rating_run").await).await;
    assert_eq!((state.as_str(), reason.as_deref()), ("failed", Some("PLAN_CHANGED")));
    assert_eq!(remaining, Some("2026-06-01T11:00:00Z".parse().unwrap()));
    assert_eq!(rig.costs().await, [("11".to_string(), "0.00045".to_string())]);
}

#[tokio::test]
async fn what_is_no_hash_is_refused_by_the_name_of_its_field() {
    let rig = Rig::with_events([event("a")]).await;
    for wrong in ["x", &"0".repeat(63), &"0".repeat(65), &"A".repeat(64), &"g".repeat(64), &"é".repeat(32)] {
        assert!(!is_hash(wrong));
        let failure = rig.refused(applying(wrong, backfill(10, 11))).await;
        assert_eq!(named(&failure), ("INVALID_ARGUMENT", vec!["expected_plan_hash"]), "{wrong}");
        assert!(failure.violations[0].1.starts_with("MALFORMED: "), "{failure:?}");
    }
    assert_eq!(rig.count("rating_run").await, 0);
}

#[tokio::test]
async fn a_plan_of_more_hours_than_it_can_keep_is_refused_by_the_name_of_its_field() {
    let rig = Rig::with_events([event("a")]).await;
    let ages = |since: &str| RateWindowRequest {
        since: Some(crate::rig::timestamp(since)),
        until: Some(crate::rig::timestamp("2026-06-01T11:00:00Z")),
        ..RateWindowRequest::default()
    };
    let dry_run = RateWindowRequest { dry_run: true, ..ages("0001-01-01T00:00:00Z") };
    for request in [dry_run, applying(&"0".repeat(64), ages("2014-01-01T00:00:00Z"))] {
        let failure = rig.refused(request).await;
        assert_eq!(named(&failure), ("INVALID_ARGUMENT", vec!["since"]));
        assert!(failure.violations[0].1.starts_with("TOO_LONG: "), "{failure:?}");
    }
    assert_eq!(rig.count("rating_run").await, 0);
}
