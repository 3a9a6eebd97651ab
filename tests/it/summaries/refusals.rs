//! SummarizeRatedUsage: the size of its pages, its tokens, and what it refuses.

use rater::grpc::client::Failure;
use rater::proto::*;

use super::{AUTH, DAY, HOUR, MODEL, MONTH, all, by, long_rows, summarize};
use crate::rig::{BOOK, Rig, hour, timestamp};
use crate::runs::wrong_field;

type Request = SummarizeRatedUsageRequest;

async fn refused(rig: &Rig, request: Request) -> String {
    wrong_field(rig.client().summarize_rated_usage(request).await)
}

#[tokio::test]
async fn a_page_is_of_1_000_at_most_of_10_000_and_a_top_of_1_000() {
    let rig = Rig::start(BOOK, &[]).await;
    rig.free_rollups(10_500).await;
    let size = async |page_size| {
        let page = summarize(&rig, Request { page_size, ..by(&[AUTH]) }).await;
        assert_ne!(page.next_page_token, "");
        page.summaries.len()
    };
    assert_eq!((size(0).await, size(7).await, size(10_000).await), (1_000, 7, 10_000));
    assert_eq!((size(10_001).await, size(i32::MAX).await), (10_000, 10_000));
    let top = async |top, page_size| {
        let answer = summarize(&rig, Request { top, page_size, ..by(&[AUTH]) }).await;
        assert_eq!(answer.next_page_token, "");
        answer.summaries.len()
    };
    assert_eq!((top(1, 0).await, top(1_000, 0).await, top(20, 5).await), (1, 1_000, 20));
}

#[tokio::test]
async fn a_page_of_long_ids_stays_under_2_mib_and_nothing_is_lost() {
    let rig = Rig::start(BOOK, &[]).await;
    long_rows(&rig, 3_000, 255).await;
    let (summaries, pages) = all(&rig, Request { page_size: 10_000, ..by(&[AUTH, 2, MODEL, HOUR]) }).await;
    assert_eq!(summaries.len(), 3_000);
    assert!(pages > 2, "{pages}");
    assert!(summaries.windows(2).all(|two| two[0].model_id < two[1].model_id));
    let dearest = summarize(&rig, Request { top: 1_000, ..by(&[AUTH, 2, MODEL, HOUR]) }).await.summaries;
    assert_eq!(
        dearest.iter().map(|s| s.prompt_tokens).collect::<Vec<_>>(),
        (2_001..=3_000).rev().collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn a_top_that_no_message_holds_is_refused_and_not_cut() {
    let rig = Rig::start(BOOK, &[]).await;
    long_rows(&rig, 1_000, 600).await;
    let request = Request { top: 1_000, ..by(&[AUTH, 2, MODEL]) };
    assert_eq!(refused(&rig, request.clone()).await, "top TOO_LARGE");
    let status = rig.client().summarize_rated_usage(request.clone()).await.unwrap_err();
    let fit: i32 = status.message().split(' ').find_map(|word| word.parse().ok()).expect("how many fit");
    assert_eq!(summarize(&rig, Request { top: fit, ..request.clone() }).await.summaries.len(), fit as usize);
    assert_eq!(refused(&rig, Request { top: fit + 1, ..request }).await, "top TOO_LARGE");
}

#[tokio::test]
async fn a_token_is_good_for_its_filter_and_its_dimensions_alone() {
    let rig = Rig::start(BOOK, &[]).await;
    rig.free_rollups(9).await;
    let first = Request { page_size: 2, ..by(&[AUTH, DAY]) };
    let page_token = summarize(&rig, first.clone()).await.next_page_token;
    let first = Request { page_token: page_token.clone(), ..first };
    for same in [vec![DAY, AUTH], vec![MONTH, DAY, AUTH, AUTH]] {
        let rest = summarize(&rig, Request { group_by: same, page_size: 9, ..first.clone() }).await;
        assert_eq!(rest.summaries.len(), 7, "the same dimensions");
    }
    let filter = |auth_id: &str| Some(UsageFilter { auth_ids: vec![auth_id.into()], ..Default::default() });
    for other in [
        Request { group_by: vec![AUTH], ..first.clone() },
        Request { group_by: vec![AUTH, HOUR], ..first.clone() },
        Request { group_by: vec![AUTH, MODEL, DAY], ..first.clone() },
        Request { filter: filter("1"), ..first.clone() },
    ] {
        assert_eq!(refused(&rig, other.clone()).await, "page_token OTHER_FILTER", "{other:?}");
    }
    let rows = GetRatedUsageRequest { page_size: 2, ..Default::default() };
    let page_token = rig.client().get_rated_usage(rows).await.unwrap().into_inner().next_page_token;
    assert_eq!(refused(&rig, Request { page_token, ..first.clone() }).await, "page_token OTHER_FILTER");
    let half = &first.page_token[..first.page_token.len() / 2];
    for garbage in ["x", "%%%", "bnVsbA", half, &first.page_token[1..], &"A".repeat(10_000)] {
        let request = Request { page_token: garbage.into(), ..first.clone() };
        assert_eq!(refused(&rig, request).await, "page_token MALFORMED", "{garbage:.20}");
    }
}

#[tokio::test]
async fn what_no_summary_can_be_is_refused_by_field() {
    let rig = Rig::start(BOOK, &[]).await;
    let filter = |filter| Request { filter: Some(filter), ..by(&[]) };
    let none = UsageFilter::default;
    let never = Some(prost_types::Timestamp { seconds: i64::MAX, nanos: 0 });
    let (since, until) = (Some(timestamp(&hour(11))), Some(timestamp(&hour(10))));
    let many = || vec!["x".to_string(); 1_001];
    for (request, wrong) in [
        (by(&[0]), "group_by UNKNOWN"),
        (by(&[AUTH, 7]), "group_by UNKNOWN"),
        (by(&[-1]), "group_by UNKNOWN"),
        (Request { page_size: -1, ..by(&[]) }, "page_size NEGATIVE"),
        (Request { page_size: i32::MIN, top: 3, ..by(&[]) }, "page_size NEGATIVE"),
        (Request { top: -1, ..by(&[]) }, "top NEGATIVE"),
        (Request { top: 1_001, ..by(&[]) }, "top TOO_MANY"),
        (Request { top: i32::MAX, ..by(&[]) }, "top TOO_MANY"),
        (Request { top: 3, page_token: "x".into(), ..by(&[]) }, "page_token NOT_WITH_TOP"),
        (filter(UsageFilter { since: never, ..none() }), "filter.since OUT_OF_RANGE"),
        (filter(UsageFilter { since, until, ..none() }), "filter.until INVERTED"),
        (
            filter(UsageFilter { resource_ids: vec!["a\0".into()], ..none() }),
            "filter.resource_ids NUL_CHARACTER",
        ),
        (filter(UsageFilter { auth_ids: many(), ..none() }), "filter.auth_ids TOO_MANY"),
        (filter(UsageFilter { model_ids: many(), ..none() }), "filter.model_ids TOO_MANY"),
    ] {
        assert_eq!(refused(&rig, request).await, wrong);
    }
    let all_wrong = Request { page_size: -1, top: 1_001, page_token: "x".into(), ..by(&[]) };
    let failure = Failure::from(rig.client().summarize_rated_usage(all_wrong).await.unwrap_err());
    assert_eq!(failure.violations.len(), 3, "every violation at once: {failure:?}");
}

#[tokio::test]
async fn a_sum_of_tokens_that_no_message_holds_is_an_error_and_not_a_wrong_number() {
    let rig = Rig::start(BOOK, &[]).await;
    rig.free_rollups(2).await;
    rig.sql("UPDATE rated_usage SET prompt_tokens = 9223372036854775807").await;
    let failure = Failure::from(rig.client().summarize_rated_usage(by(&[])).await.unwrap_err());
    assert_eq!(
        (failure.code, failure.reason.as_str()),
        ("FAILED_PRECONDITION", "COST_OUT_OF_RANGE"),
        "{failure:?}"
    );
    assert_eq!(summarize(&rig, by(&[AUTH])).await.summaries[0].prompt_tokens, i64::MAX);
}
