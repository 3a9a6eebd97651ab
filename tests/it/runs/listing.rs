//! ListRuns: order, filters, pages.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prost::Message;
use rater::proto::*;

use super::{list, standing, wrong_field};
use crate::harness::event;
use crate::rig::{BOOK, Rig, backfill, routine};

/// Runs that have ended, `count` of them, three at each instant; states and triggers take turns.
async fn ended(rig: &Rig, count: u32) {
    standing(rig.pool(), "seed", "succeeded").await;
    rig.sql(&format!(
        "INSERT INTO rating_run (run_id, window_start, window_end, trigger, rate_basis, state, pricebook_digest,
            currency_code, fence, requested_by, request_hash, created_at, started_at, finished_at)
         SELECT 'run-' || n, window_start, window_end, (ARRAY['routine', 'backfill'])[1 + n % 2], rate_basis,
            (ARRAY['succeeded', 'failed', 'cancelled'])[1 + n % 3], pricebook_digest, currency_code, n, '', '',
            created_at + n / 3 * interval '1 second', started_at, now()
         FROM rating_run, generate_series(1, {count}) n WHERE run_id = 'seed';
         DELETE FROM rating_run WHERE run_id = 'seed'; DELETE FROM rating_lease"
    ))
    .await;
}

/// Ids of all pages of a size; `between` happens after the first.
async fn all(rig: &Rig, request: &ListRunsRequest, between: impl AsyncFn()) -> Vec<String> {
    let (mut request, mut ids) = (request.clone(), Vec::new());
    loop {
        let page = list(rig, request.clone()).await;
        assert!(page.encoded_len() < 2 * 1024 * 1024, "{} bytes", page.encoded_len());
        assert!(request.page_size == 0 || page.runs.len() <= request.page_size as usize);
        assert!(!page.runs.is_empty() || page.next_page_token.is_empty());
        if request.page_token.is_empty() {
            between().await;
        }
        ids.extend(page.runs.into_iter().map(|run| run.run_id));
        if page.next_page_token.is_empty() {
            return ids;
        }
        request.page_token = page.next_page_token;
    }
}

async fn ids(rig: &Rig, filter: &str) -> Vec<String> {
    let sql = format!("SELECT run_id FROM rating_run WHERE {filter} ORDER BY created_at DESC, run_id DESC");
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_all(rig.pool()).await.unwrap()
}

#[tokio::test]
async fn pages_are_complete_and_without_repetition_while_new_runs_begin() {
    let rig = Rig::with_events([event("a")]).await;
    ended(&rig, 25).await;
    let before = ids(&rig, "true").await;
    for size in [1, 2, 7, 24, 25, 26, 0, i32::MAX] {
        let request = ListRunsRequest { page_size: size, ..ListRunsRequest::default() };
        let known = ids(&rig, "true").await;
        let told = all(&rig, &request, async || {
            rig.rate(backfill(10, 11)).await.unwrap();
        })
        .await;
        assert_eq!(told, known, "pages of {size}");
    }
    let told = all(&rig, &ListRunsRequest::default(), async || ()).await;
    assert_eq!((told.len(), &told[8..]), (33, &before[..]), "the new ones are first");
}

#[tokio::test]
async fn filters_choose_runs_and_work_together() {
    let rig = Rig::start(BOOK, &[]).await;
    ended(&rig, 24).await;
    let told = async |states: &[RunState], triggers: &[Trigger]| {
        let states = states.iter().map(|state| i32::from(*state)).collect();
        let triggers = triggers.iter().map(|trigger| i32::from(*trigger)).collect();
        let request = ListRunsRequest { page_size: 5, states, triggers, ..ListRunsRequest::default() };
        all(&rig, &request, async || ()).await
    };
    use RunState::*;
    use Trigger::*;
    assert_eq!(told(&[], &[]).await.len(), 24);
    assert_eq!(told(&[Failed], &[]).await, ids(&rig, "state = 'failed'").await);
    assert_eq!(told(&[Failed, Cancelled, Failed], &[]).await, ids(&rig, "state <> 'succeeded'").await);
    assert_eq!(told(&[Running, Pending, Cancelling], &[]).await, [""; 0]);
    assert_eq!(told(&[], &[Routine]).await, ids(&rig, "trigger = 'routine'").await);
    let both = ids(&rig, "state = 'failed' AND trigger = 'backfill'").await;
    assert!(!both.is_empty());
    assert_eq!(told(&[Failed], &[Backfill]).await, both);
}

#[tokio::test]
async fn a_page_tells_each_run_as_get_run_does() {
    let rig = Rig::with_events([event("a"), event("b").without_auth()]).await;
    rig.rate(routine(10, 12)).await.unwrap();
    standing(rig.pool(), "run-1", "running").await;
    let page = list(&rig, ListRunsRequest::default()).await;
    assert_eq!(page.runs.len(), 2);
    for run in page.runs {
        assert_eq!(super::get(&rig, &run.run_id).await, run);
    }
}

#[tokio::test]
async fn a_page_is_of_50_runs_at_most_of_200_and_below_2_mib() {
    let rig = Rig::start(BOOK, &[]).await;
    ended(&rig, 450).await;
    let size = async |page_size| {
        let page = list(&rig, ListRunsRequest { page_size, ..ListRunsRequest::default() }).await;
        assert!(page.encoded_len() < 2 * 1024 * 1024, "{} bytes", page.encoded_len());
        page.runs.len()
    };
    assert_eq!((size(0).await, size(200).await, size(201).await, size(i32::MAX).await), (50, 200, 200, 200));
    // The longest of everything, and every finding.
    rig.sql(
        "UPDATE rating_run SET reason = repeat('🎈', 250), request_id = repeat('🎈', 128) || run_id,
            error_reason = 'DATABASE_UNAVAILABLE', error_message = repeat('🎈', 250),
            requested_by = repeat('🎈', 64), state = 'failed', remaining_end = window_end;
         INSERT INTO rating_run_chunk (run_id, chunk_start, chunk_end, events, rated_events, unpriced_events,
            unattributable_events, ambiguous_base_events, malformed_events, clamped_events, rollups,
            inserted_rollups, updated_rollups, unchanged_rollups, reconciled_deletions, shrunk_rollups,
            rate_drift_rollups, unexplained_rollups, previous_cost, total_cost)
         SELECT run_id, window_start, window_end, n, n, n, n, n, n, n, n, n, n, n, n, n, n, n, 1, 1
         FROM rating_run, (VALUES (2000000000000000::bigint)) v (n)",
    )
    .await;
    assert_eq!(size(200).await, 200);
    // Past what this version writes: fewer, and none is lost.
    rig.sql("UPDATE rating_run SET reason = repeat('x', 30000)").await;
    assert!(size(200).await < 100);
    let request = ListRunsRequest { page_size: 200, ..ListRunsRequest::default() };
    assert_eq!(all(&rig, &request, async || ()).await, ids(&rig, "true").await);
}

#[tokio::test]
async fn a_token_is_good_for_its_call_and_its_filter_alone() {
    let rig =
        Rig::with_events([event("b").auth("b"), event("a"), event("u").model("x"), event("v").model("y")])
            .await;
    rig.rated(backfill(10, 11)).await;
    ended(&rig, 9).await;
    let first = ListRunsRequest {
        page_size: 2,
        states: vec![RunState::Failed.into(), RunState::Succeeded.into()],
        ..ListRunsRequest::default()
    };
    let token = list(&rig, first.clone()).await.next_page_token;
    let asked = async |request: ListRunsRequest| rig.client().list_runs(request).await;
    let with = |token: &str| ListRunsRequest { page_token: token.into(), ..first.clone() };

    // The same set in another order, and another size, are no other filter.
    let mut turned = ListRunsRequest { page_size: 9, ..with(&token) };
    turned.states.reverse();
    assert_eq!(asked(turned).await.unwrap().into_inner().runs.len(), 5);
    for other in [
        ListRunsRequest { states: vec![RunState::Failed.into()], ..with(&token) },
        ListRunsRequest { states: Vec::new(), ..with(&token) },
        ListRunsRequest { triggers: vec![Trigger::Routine.into()], ..with(&token) },
    ] {
        assert_eq!(wrong_field(asked(other).await), "page_token OTHER_FILTER");
    }

    // Tokens of other calls, of this one in those, and what someone made of it.
    let usage = GetRatedUsageRequest { page_size: 1, ..GetRatedUsageRequest::default() };
    let of_usage = rig.client().get_rated_usage(usage.clone()).await.unwrap().into_inner().next_page_token;
    let anomalies = ListAnomaliesRequest { page_size: 1, ..ListAnomaliesRequest::default() };
    let of_anomalies = super::anomalies(&rig, anomalies.clone()).await.next_page_token;
    for other in [of_usage, of_anomalies] {
        assert_ne!(other, "");
        assert_eq!(wrong_field(asked(with(&other)).await), "page_token OTHER_FILTER");
    }
    let in_usage = GetRatedUsageRequest { page_token: token.clone(), ..usage };
    assert_eq!(wrong_field(rig.client().get_rated_usage(in_usage).await), "page_token OTHER_FILTER");
    let in_anomalies = ListAnomaliesRequest { page_token: token.clone(), ..anomalies };
    assert_eq!(wrong_field(rig.client().list_anomalies(in_anomalies).await), "page_token OTHER_FILTER");
    let decoded: serde_json::Value =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(&token).unwrap()).unwrap();
    for (pointer, value) in [
        ("/k/run_id", "a\0".into()),
        ("/k/run_id", 7.into()),
        ("/k/created_at", "+262142-12-31T23:59:59Z".into()),
        ("/k/created_at", "0000-01-01T00:00:00Z".into()),
        ("/k", serde_json::Value::Null),
        ("/v", 1.into()),
    ] {
        let mut tampered = decoded.clone();
        *tampered.pointer_mut(pointer).unwrap() = value;
        let tampered = URL_SAFE_NO_PAD.encode(tampered.to_string());
        assert_eq!(wrong_field(asked(with(&tampered)).await), "page_token MALFORMED", "{pointer}");
    }
    for garbage in ["x", "%%%", &token[1..], &token[..token.len() - 2], &"A".repeat(10_000)] {
        assert_eq!(wrong_field(asked(with(garbage)).await), "page_token MALFORMED", "{garbage:.20}");
    }
}

#[tokio::test]
async fn what_no_run_can_be_is_refused_by_field() {
    let rig = Rig::start(BOOK, &[]).await;
    let asked = async |request| wrong_field(rig.client().list_runs(request).await);
    for value in [0, 7, -1, i32::MIN] {
        let states = vec![RunState::Failed.into(), value];
        let request = ListRunsRequest { states, ..ListRunsRequest::default() };
        assert_eq!(asked(request).await, "states UNKNOWN", "{value}");
    }
    for value in [0, 3, -1, i32::MAX] {
        let request = ListRunsRequest { triggers: vec![value; 1_000], ..ListRunsRequest::default() };
        assert_eq!(asked(request).await, "triggers UNKNOWN", "{value}");
    }
    for page_size in [-1, i32::MIN] {
        let request = ListRunsRequest { page_size, ..ListRunsRequest::default() };
        assert_eq!(asked(request).await, "page_size NEGATIVE");
    }
}
