//! ListAnomalies: the size of its pages, its tokens, and what it refuses.

use prost::Message;
use rater::proto::*;

use super::{anomalies, wrong_field};
use crate::rig::{BOOK, Rig, hour, timestamp};

/// `count` anomalies of one hour, a model each, with their bases.
async fn fill(rig: &Rig, count: u32, model: &str, bases: &str) {
    rig.sql(&format!(
        "INSERT INTO rating_anomaly (window_start, kind, auth_id, resource_id, model_id, base_models, events,
            prompt_tokens, cached_tokens, completion_tokens, sample_request_id, run_id)
         SELECT '2026-06-01T10:00Z', 'unpriced', repeat('🎈', 64), repeat('🎈', 64), {model}, {bases}, 1, 1, 1, 1,
            lpad('', 255, '🎈'), 'run'
         FROM generate_series(1, {count}) n"
    ))
    .await;
}

fn by_all() -> Vec<i32> {
    (1..=6).collect()
}

#[tokio::test]
async fn a_page_is_of_100_at_most_of_1_000() {
    let rig = Rig::start(BOOK, &[]).await;
    fill(&rig, 1_500, "n::text", "'{}'").await;
    let size = async |page_size| {
        let page = anomalies(&rig, ListAnomaliesRequest { page_size, ..Default::default() }).await;
        assert_ne!(page.next_page_token, "");
        page.anomalies.len()
    };
    assert_eq!((size(0).await, size(7).await, size(1_000).await), (100, 7, 1_000));
    assert_eq!((size(1_001).await, size(i32::MAX).await), (1_000, 1_000));
}

#[tokio::test]
async fn a_page_of_long_texts_stays_under_2_mib_and_nothing_is_lost() {
    let rig = Rig::start(BOOK, &[]).await;
    let bases = "(SELECT array_agg(rpad(n || '-' || b, 255, '🎈')) FROM generate_series(1, 10) b)";
    fill(&rig, 1_000, "rpad(n::text, 255, '🎈')", bases).await;
    let mut request = ListAnomaliesRequest { page_size: 1_000, group_by: by_all(), ..Default::default() };
    let (mut told, mut pages) = (Vec::new(), 0);
    loop {
        let page = anomalies(&rig, request.clone()).await;
        assert!(page.encoded_len() < 2 * 1024 * 1024, "{} bytes", page.encoded_len());
        pages += 1;
        told.extend(page.anomalies);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    assert!(pages > 5, "{pages}");
    assert_eq!(told.len(), 1_000);
    assert!(told.windows(2).all(|two| two[0].model_id < two[1].model_id));
    assert!(told.iter().all(|anomaly| anomaly.base_models.len() == 10));
}

#[tokio::test]
async fn a_token_is_good_for_its_filter_and_its_dimensions_alone() {
    let rig = Rig::start(BOOK, &[]).await;
    fill(&rig, 9, "n::text", "'{}'").await;
    let filter = |auth_ids: &[&str]| {
        Some(UsageFilter {
            auth_ids: auth_ids.iter().map(|id| id.to_string()).collect(),
            ..UsageFilter::default()
        })
    };
    let model: i32 = Dimension::ModelId.into();
    let first = ListAnomaliesRequest { group_by: vec![model, 5], page_size: 2, ..Default::default() };
    let page_token = anomalies(&rig, first.clone()).await.next_page_token;
    let first = ListAnomaliesRequest { page_token, ..first };
    for same in [vec![5, model], vec![6, 5, model, model]] {
        let request = ListAnomaliesRequest { group_by: same, page_size: 9, ..first.clone() };
        assert_eq!(anomalies(&rig, request).await.anomalies.len(), 7, "the same dimensions");
    }
    for other in [
        ListAnomaliesRequest { group_by: vec![model], ..first.clone() },
        ListAnomaliesRequest { group_by: vec![model, 4], ..first.clone() },
        ListAnomaliesRequest { group_by: vec![model, 5, 1], ..first.clone() },
        ListAnomaliesRequest { filter: filter(&["x"]), ..first.clone() },
        ListAnomaliesRequest { kinds: vec![AnomalyKind::Unpriced.into()], ..first.clone() },
    ] {
        let answer = rig.client().list_anomalies(other.clone()).await;
        assert_eq!(wrong_field(answer), "page_token OTHER_FILTER", "{other:?}");
    }
    for garbage in ["x", "%%%", &first.page_token[1..]] {
        let request = ListAnomaliesRequest { page_token: garbage.into(), ..first.clone() };
        assert_eq!(wrong_field(rig.client().list_anomalies(request).await), "page_token MALFORMED");
    }
}

#[tokio::test]
async fn what_no_anomaly_can_be_is_refused_by_field() {
    let rig = Rig::start(BOOK, &[]).await;
    let base = ListAnomaliesRequest::default;
    let filter = |filter| ListAnomaliesRequest { filter: Some(filter), ..base() };
    let none = UsageFilter::default;
    let never = Some(prost_types::Timestamp { seconds: i64::MAX, nanos: 0 });
    let (since, until) = (Some(timestamp(&hour(11))), Some(timestamp(&hour(10))));
    for (request, wrong) in [
        (ListAnomaliesRequest { kinds: vec![0], ..base() }, "kinds UNKNOWN"),
        (ListAnomaliesRequest { kinds: vec![1, 5, 6, 7], ..base() }, "kinds UNKNOWN"),
        (ListAnomaliesRequest { group_by: vec![0], ..base() }, "group_by UNKNOWN"),
        (ListAnomaliesRequest { group_by: vec![1, 7], ..base() }, "group_by UNKNOWN"),
        (ListAnomaliesRequest { group_by: vec![-1], ..base() }, "group_by UNKNOWN"),
        (ListAnomaliesRequest { page_size: -1, ..base() }, "page_size NEGATIVE"),
        (filter(UsageFilter { since: never, ..none() }), "filter.since OUT_OF_RANGE"),
        (filter(UsageFilter { since, until, ..none() }), "filter.until INVERTED"),
        (filter(UsageFilter { auth_ids: vec!["a\0".into()], ..none() }), "filter.auth_ids NUL_CHARACTER"),
        (filter(UsageFilter { model_ids: vec!["m".into(); 1_001], ..none() }), "filter.model_ids TOO_MANY"),
    ] {
        assert_eq!(wrong_field(rig.client().list_anomalies(request).await), wrong);
    }
    let both = ListAnomaliesRequest { kinds: vec![0], group_by: vec![0], ..base() };
    let failure = rater::grpc::client::Failure::from(rig.client().list_anomalies(both).await.unwrap_err());
    assert_eq!(failure.violations.len(), 2, "every violation at once");
}
