//! R1 and R2: exact money, each token once.

use rater::proto::{FindingCode, GetRatedUsageRequest, Severity};

use crate::harness::event;
use crate::rig::{Rig, backfill, findings};

/// A number of picodollars as a canonical decimal.
fn canonical(pico: i128) -> String {
    let text = format!("{}.{:012}", pico / 1_000_000_000_000, pico % 1_000_000_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

#[tokio::test]
async fn r01_exact_money_is_the_product_to_the_last_digit() {
    const MOST: i32 = i32::MAX;
    let book = r#"{version: 1, base_models: {"acme/large":
        {prompt: "333.333333333333", cached: "0.000000000001", completion: "0.1"}}}"#;
    let rig = Rig::start(book, &[]).await;
    rig.insert((0..3).map(|n| event(&n.to_string()).tokens(MOST, 1, MOST - n))).await;
    let result = rig.rated(backfill(10, 11)).await;
    let (prompt, completion) = (3 * (i128::from(MOST) - 1), 3 * i128::from(MOST) - 3);
    let pico = prompt * 333_333_333_333_333 + 3 + completion * 100_000_000_000;
    let row = &rig.rows().await[0];
    assert_eq!(row.cost, canonical(pico));
    assert_eq!(result.total_cost, canonical(pico));
    assert_eq!(i128::from(row.billable_prompt_tokens), prompt);
    let read = rig.client().get_rated_usage(GetRatedUsageRequest::default()).await.unwrap().into_inner();
    assert_eq!(read.rated_usage[0].cost, canonical(pico));
    assert_eq!(rig.changes().await[0].after_cost, canonical(pico));
}

#[tokio::test]
async fn r01_a_derived_rate_is_rounded_once_half_away_from_zero() {
    let book = r#"{version: 1, base_models: {"acme/large":
          {prompt: "0.000000000003", cached: "0.000000000001", completion: "0.000000000005"}},
        fine_tune_premium: {policy: multiplier, factor: "1.5"}}"#;
    let rig = Rig::start(book, &[]).await;
    let tuned = |id: &str| event(id).model("ft:x").base("acme/large");
    rig.insert([tuned("a").tokens(1_000_000, 0, 1), tuned("b").tokens(1, 1, 0)]).await;
    rig.rated(backfill(10, 11)).await;
    let row = &rig.rows().await[0];
    let rates = [&row.prompt_rate, &row.cached_rate, &row.completion_rate];
    assert_eq!(rates, ["0.000000000005", "0.000000000002", "0.000000000008"]);
    assert_eq!(row.cost, "0.00000500001");
}

#[tokio::test]
async fn r01_a_cost_past_what_a_row_can_hold_refuses_the_run() {
    let book =
        r#"{version: 1, base_models: {"acme/large": {prompt: "999", cached: "999", completion: "999"}}}"#;
    let rig = Rig::start(book, &["--chunk-hours", "1"]).await;
    rig.insert([event("newer").at("2026-06-01T11:15:00Z")]).await;
    rig.sql(
        "INSERT INTO billing_event (request_id, auth_id, resource_id, model, prompt_tokens, event_ts)
         SELECT n::text, 'a', 'r', 'acme/large', 2147483647, '2026-06-01T10:15:00Z' FROM generate_series(1, 5000) n",
    )
    .await;
    let failure = rig.refused(backfill(10, 12)).await;
    assert_eq!((failure.code, failure.reason.as_str()), ("FAILED_PRECONDITION", "COST_OUT_OF_RANGE"));
    // The newer hour stays, and says so.
    assert_eq!(failure.metadata["hours_committed"], "1");
    assert_eq!(rig.rows().await.len(), 1);
    let (state, reason, _) = rig.run(&failure.metadata["run"]).await;
    assert_eq!((state.as_str(), reason.as_deref()), ("failed", Some("COST_OUT_OF_RANGE")));
}

#[tokio::test]
async fn r02_cached_tokens_are_part_of_the_prompt_and_aborted_requests_are_served() {
    let rig = Rig::with_events([
        event("a").tokens(100, 40, 10),
        event("b").auth("aborted").tokens(100, 40, 10).aborted(),
    ])
    .await;
    let result = rig.rated(backfill(10, 11)).await;
    assert_eq!((result.rated_events, result.clamped_events), (2, 0));
    for row in rig.rows().await {
        let tokens =
            (row.prompt_tokens, row.cached_tokens, row.completion_tokens, row.billable_prompt_tokens);
        assert_eq!(tokens, (100, 40, 10, 60));
        // 60 × 0.000003 + 40 × 0.0000003 + 10 × 0.000015
        assert_eq!(row.cost, "0.000342");
    }
}

#[tokio::test]
async fn r02_what_a_prompt_does_not_cover_is_clamped_event_by_event() {
    // By sums, the second event's surplus of cached tokens would eat the first one's prompt.
    let rig = Rig::with_events([event("a").tokens(100, 0, 0), event("b").tokens(10, 110, 0)]).await;
    let result = rig.rated(backfill(10, 11)).await;
    let row = &rig.rows().await[0];
    assert_eq!((row.prompt_tokens, row.cached_tokens, row.billable_prompt_tokens), (110, 110, 100));
    assert_eq!(row.cost, "0.000333");
    assert_eq!(result.clamped_events, 1);
    assert_eq!(findings(&result), [(FindingCode::ClampedEvents, Severity::Warning, 1)]);
    assert_eq!(result.severity(), Severity::Warning);
}

#[tokio::test]
async fn r02_an_event_without_tokens_is_rated_at_nothing_and_counted() {
    let rig = Rig::with_events([event("a").tokens(0, 0, 0)]).await;
    let result = rig.rated(backfill(10, 11)).await;
    assert_eq!((result.rated_events, result.rollups, result.total_cost.as_str()), (1, 1, "0"));
}
