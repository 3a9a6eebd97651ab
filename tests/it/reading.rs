//! GetRatedUsage: filters, order, pages, and what travels.

mod pages;
mod tokens;

use prost::Message;
use rater::proto::*;

use crate::harness::{event, rated_usage};
use crate::rig::{BOOK, Rig, backfill, hour, timestamp};

pub async fn page(rig: &Rig, request: GetRatedUsageRequest) -> GetRatedUsageResponse {
    rig.client().get_rated_usage(request).await.unwrap().into_inner()
}

/// All pages of a size, each checked against the limits.
pub async fn all(rig: &Rig, filter: UsageFilter, page_size: i32) -> (Vec<RatedUsage>, usize) {
    let mut request = GetRatedUsageRequest { filter: Some(filter), page_size, page_token: String::new() };
    let (mut rows, mut pages) = (Vec::new(), 0);
    loop {
        let page = page(rig, request.clone()).await;
        assert!(page.encoded_len() < 2 * 1024 * 1024, "{} bytes", page.encoded_len());
        if page_size > 0 {
            assert!(page.rated_usage.len() <= page_size as usize);
        }
        assert!(!page.rated_usage.is_empty() || page.next_page_token.is_empty());
        pages += 1;
        rows.extend(page.rated_usage);
        if page.next_page_token.is_empty() {
            return (rows, pages);
        }
        request.page_token = page.next_page_token;
    }
}

/// 3 hours × 2 identities × 2 resources × 2 models, with ids that sort otherwise in a locale.
async fn filled() -> Rig {
    let rig = Rig::start(BOOK, &[]).await;
    let mut events = Vec::new();
    for h in 10..13 {
        for auth in ["auth-B", "auth-a"] {
            for resource in ["r_1", "r-1"] {
                for model in ["acme/large", "acme/small"] {
                    let id = format!("{h}{auth}{resource}{model}");
                    let made = event(&id).auth(auth).resource(resource).model(model);
                    events.push(made.at(&format!("2026-06-01T{h}:15:00Z")));
                }
            }
        }
    }
    rig.insert(events).await;
    rig.rated(backfill(10, 13)).await;
    rig
}

#[tokio::test]
async fn pages_of_every_size_are_the_same_rows_in_the_same_order() {
    let rig = filled().await;
    let (whole, pages) = all(&rig, UsageFilter::default(), 0).await;
    assert_eq!((whole.len(), pages), (24, 1));
    let expected: Vec<String> = rated_usage(rig.pool()).await.into_iter().map(|row| row.id).collect();
    assert_eq!(whole.iter().map(|row| row.id.clone()).collect::<Vec<_>>(), expected);
    for size in (1..=25).chain([10_000, i32::MAX]) {
        let (rows, pages) = all(&rig, UsageFilter::default(), size).await;
        assert_eq!(rows, whole, "pages of {size}");
        assert_eq!(pages, 24usize.div_ceil(size as usize), "pages of {size}");
    }
}

#[tokio::test]
async fn filters_choose_rows_and_work_together() {
    let rig = filled().await;
    let count = async |filter: UsageFilter| all(&rig, filter, 5).await.0.len();
    let strings = |values: &[&str]| values.iter().map(|v| v.to_string()).collect::<Vec<_>>();
    let none = UsageFilter::default;
    let at = |h| Some(timestamp(&hour(h)));
    assert_eq!(count(UsageFilter { since: at(11), ..none() }).await, 16);
    assert_eq!(count(UsageFilter { until: at(11), ..none() }).await, 8);
    assert_eq!(count(UsageFilter { since: at(11), until: at(12), ..none() }).await, 8);
    assert_eq!(count(UsageFilter { since: at(11), until: at(11), ..none() }).await, 0);
    assert_eq!(count(UsageFilter { auth_ids: strings(&["auth-a"]), ..none() }).await, 12);
    assert_eq!(count(UsageFilter { auth_ids: strings(&["auth-a", "auth-B", "x"]), ..none() }).await, 24);
    assert_eq!(count(UsageFilter { auth_ids: strings(&["auth-b"]), ..none() }).await, 0);
    let narrow = UsageFilter {
        since: at(12),
        until: None,
        auth_ids: strings(&["auth-a"]),
        resource_ids: strings(&["r-1"]),
        model_ids: strings(&["acme/small"]),
    };
    let rows = all(&rig, narrow, 5).await.0;
    assert_eq!(rows.len(), 1);
    let row = &rows[0];
    assert_eq!(
        (row.resource_id.as_str(), row.model_id.as_str(), row.window_start),
        ("r-1", "acme/small", at(12))
    );
}

#[tokio::test]
async fn a_row_travels_whole_with_canonical_decimals() {
    let book = r#"{version: 1, base_models: {"acme/large":
        {prompt: "0.0000003125", cached: "0.100", completion: "1"}}}"#;
    let rig = Rig::start(book, &[]).await;
    rig.insert([event("a").tokens(5, 0, 0), event("b").auth("auth-2").tokens(0, 0, 100)]).await;
    let run = rig.rate(backfill(10, 11)).await.unwrap();
    let rows = page(&rig, GetRatedUsageRequest::default()).await.rated_usage;
    let stored = rig.rows().await;
    let expected = RatedUsage {
        id: stored[0].id.clone(),
        auth_id: "auth-1".into(),
        resource_id: "resource-1".into(),
        model_id: "acme/large".into(),
        window_start: Some(timestamp(&hour(10))),
        window_end: Some(timestamp(&hour(11))),
        prompt_tokens: 5,
        cached_tokens: 0,
        completion_tokens: 0,
        billable_prompt_tokens: 5,
        event_count: 1,
        currency_code: "USD".into(),
        cost: "0.0000015625".into(),
        applied_prompt_rate: "0.0000003125".into(),
        applied_cached_rate: "0.1".into(),
        applied_completion_rate: "1".into(),
        pricebook_digest: run.result.unwrap().pricebook_digest,
        run_id: run.run_id,
        rated_at: stored[0].rated_at.map(|time| timestamp(&time.to_rfc3339())),
        price_class: "standard".into(),
    };
    assert_eq!(rows[0], expected);
    assert_eq!(rows[1].cost, "100");
}
