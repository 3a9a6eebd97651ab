//! The plans of summaries, as the server logs them while the real service asks.

use rater::proto::*;

use super::{AUTH, DAY, by};
use crate::harness::{Service, psql};
use crate::plans::{explaining_server, fill, length, plans, whole};
use crate::stage::{Refusal, Stage, hour};

/// The first of the statement's text, which the log quotes.
const SUMMARY: &str = "-- Totals of rated usage";

#[tokio::test]
async fn a_summary_of_a_window_or_of_an_identity_reads_no_more_than_its_rows() {
    let server = explaining_server().await;
    let postgres = &server.postgres;
    let stage = Stage::over(&postgres.url());
    let service = stage.service(&["--migrate"]).await;
    fill(postgres, 120_000);

    let (since, until) = (Some(hour(20 * 24)), Some(hour(21 * 24)));
    let of_window = UsageFilter { since, until, ..Default::default() };
    let of_identity = UsageFilter { auth_ids: vec!["auth-7".into()], ..Default::default() };
    let of_both = UsageFilter { since, until, ..of_identity.clone() };
    for filter in [of_window.clone(), of_identity, of_both] {
        let before = length(postgres);
        // More often than a prepared statement needs to be given a plan for all values.
        for top in [0, 3].repeat(6) {
            summarize(&service, &filter, top).await;
        }
        let plans = plans(postgres, SUMMARY, before);
        assert_eq!(plans.len(), 12);
        for plan in plans {
            let by_index =
                plan.contains("Index Scan using rated_usage_") || plan.contains("Index Scan on rated_usage_");
            assert!(by_index && !whole(&plan, "rated_usage"), "{filter:?}:\n{plan}");
        }
    }

    // And the check can fail.
    psql(postgres, "DROP INDEX rated_usage_window_start_ix, rated_usage_page_ix").unwrap();
    let before = length(postgres);
    summarize(&service, &of_window, 0).await;
    let plan = plans(postgres, SUMMARY, before).remove(0);
    assert!(whole(&plan, "rated_usage") || plan.contains("rated_usage_auth_id_window_start_ix"), "{plan}");
}

async fn summarize(service: &Service, filter: &UsageFilter, top: i32) {
    let request = SummarizeRatedUsageRequest { filter: Some(filter.clone()), top, ..by(&[AUTH, DAY]) };
    let mut client = service.client_rating().await;
    let answer = client.summarize_rated_usage(request).await.map_err(Refusal::from).unwrap().into_inner();
    assert!(!answer.summaries.is_empty());
}
