//! R10: what was billed keeps its rate on a schedule; a backfill reprices.

use rater::proto::{FindingCode, RateBasis, RateWindowRequest, Severity};

use crate::harness::event;
use crate::rig::{BOOK, Rig, backfill, dearer, findings, routine};

fn with(basis: RateBasis, request: RateWindowRequest) -> RateWindowRequest {
    RateWindowRequest { rate_basis: basis.into(), ..request }
}

/// One usual event rated by a routine run, and then a dearer pricebook.
async fn repriced() -> Rig {
    let rig = Rig::with_events([event("a")]).await;
    rig.rated(routine(10, 11)).await;
    rig.reload(&dearer()).await;
    rig
}

#[tokio::test]
async fn r10_late_events_are_billed_at_the_frozen_rate_and_drift_is_counted() {
    let rig = repriced().await;
    let digest = rig.rows().await[0].pricebook_digest.clone();
    rig.insert([event("late"), event("new").auth("auth-2")]).await;
    let result = rig.rated(routine(10, 11)).await;
    assert_eq!(result.rate_basis(), RateBasis::Frozen);
    assert_eq!((result.updated_rollups, result.inserted_rollups, result.rate_drift_rollups), (1, 1, 1));
    assert_eq!(findings(&result), [(FindingCode::RateDrift, Severity::Warning, 1)]);
    let rows = rig.rows().await;
    assert_eq!((rows[0].cost.as_str(), rows[0].event_count), ("0.0009", 2));
    assert_eq!((&rows[0].pricebook_digest, rows[0].prompt_rate.as_str()), (&digest, "0.000003"));
    // What was not billed before gets the price of now.
    assert_eq!(
        (rows[1].cost.as_str(), rows[1].pricebook_digest.as_str()),
        ("0.0009", result.pricebook_digest.as_str())
    );
}

#[tokio::test]
async fn r10_a_routine_run_over_unchanged_events_writes_nothing_after_a_price_change() {
    let rig = repriced().await;
    let versions = rig.versions("rated_usage").await;
    let result = rig.rated(routine(10, 11)).await;
    assert_eq!((result.unchanged_rollups, result.rate_drift_rollups), (1, 1));
    assert_eq!((result.total_cost.as_str(), rig.versions("rated_usage").await), ("0.00045", versions));
}

#[tokio::test]
async fn r10_a_backfill_reprices_unless_it_asks_for_the_frozen_rate() {
    let rig = repriced().await;
    let frozen = rig.rated(with(RateBasis::Frozen, backfill(10, 11))).await;
    assert_eq!((frozen.unchanged_rollups, frozen.rate_drift_rollups), (1, 1));
    let result = rig.rated(backfill(10, 11)).await;
    assert_eq!((result.rate_basis(), result.updated_rollups), (RateBasis::Pricebook, 1));
    assert_eq!((result.previous_cost.as_str(), result.total_cost.as_str()), ("0.00045", "0.0009"));
    assert_eq!((findings(&result), result.rate_drift_rollups), (vec![], 0));
    let row = rig.rows().await.remove(0);
    assert_eq!((row.prompt_rate.as_str(), row.pricebook_digest), ("0.000006", result.pricebook_digest));
    let last = rig.changes().await.pop().unwrap();
    assert_eq!((last.before_cost.as_str(), last.after_cost.as_str()), ("0.00045", "0.0009"));
}

#[tokio::test]
async fn r10_a_routine_run_at_the_pricebooks_rate_is_refused() {
    let rig = repriced().await;
    for request in [routine(10, 11), RateWindowRequest::default()] {
        let failure = rig.refused(with(RateBasis::Pricebook, request)).await;
        assert_eq!((failure.code, failure.violations[0].0.as_str()), ("INVALID_ARGUMENT", "rate_basis"));
    }
    assert_eq!(rig.rows().await[0].cost, "0.00045");
}

#[tokio::test]
async fn r10_a_model_that_no_longer_resolves_is_unpriced_on_both() {
    for request in [routine(10, 11), backfill(10, 11)] {
        let rig = Rig::with_events([event("a"), event("b").model("acme/small")]).await;
        rig.rated(routine(10, 11)).await;
        rig.reload(&BOOK.replace("acme/small", "acme/tiny")).await;
        let result = rig.rated(request).await;
        assert_eq!((result.unpriced_events, result.reconciled_deletions, result.rollups), (1, 1, 1));
        assert_eq!(rig.rows().await[0].model_id, "acme/large");
        assert_eq!(rig.anomalies().await, ["unpriced auth-1 resource-1 acme/small 1"]);
    }
}

#[tokio::test]
async fn r10_a_rollup_that_was_deleted_and_returns_is_priced_anew() {
    let rig = repriced().await;
    rig.sql("DELETE FROM billing_event").await;
    rig.rated(routine(10, 11)).await;
    rig.insert([event("a")]).await;
    let result = rig.rated(routine(10, 11)).await;
    assert_eq!((result.inserted_rollups, result.rate_drift_rollups), (1, 0));
    assert_eq!(
        (result.total_cost.as_str(), rig.rows().await[0].prompt_rate.as_str()),
        ("0.0009", "0.000006")
    );
}

#[tokio::test]
async fn r10_a_fine_tune_keeps_the_rate_of_the_base_that_it_was_billed_through() {
    let rig = Rig::with_events([event("a").model("ft:x").base("acme/large")]).await;
    rig.rated(routine(10, 11)).await;
    rig.sql("UPDATE billing_event SET base_model = 'acme/small'").await;
    let result = rig.rated(routine(10, 11)).await;
    assert_eq!((result.unchanged_rollups, result.rate_drift_rollups), (1, 1));
    assert_eq!(rig.rated(backfill(10, 11)).await.total_cost, "0.000039");
}
