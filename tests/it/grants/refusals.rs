//! A service refuses, in words, what its role may not do; nothing is written and nothing is half
//! begun. So does the database, to whoever comes past the service.

use rater::proto::*;

use super::{Ground, assert_denied, run_id};
use crate::harness::Service;
use crate::stage::{event, hour, rate, record, window};

/// A run, rows and an event, and a service of this user's.
async fn standing(user: &str) -> (Ground, Service, String) {
    let ground = Ground::granted().await;
    let stage = &ground.stage;
    let ingest = stage.service_over(&ground.url("ingest"), &[]).await;
    record(&ingest, &[event("e-1", 0)]).await.unwrap();
    let rating = stage.service_over(&ground.url("rating"), &[]).await;
    rate(&rating, window(0, 1)).await.unwrap();
    let run: String =
        sqlx::query_scalar("SELECT run_id FROM rating_run").fetch_one(&stage.pool).await.unwrap();
    let service = stage.service_over(&ground.url(user), &[]).await;
    (ground, service, run)
}

/// Every way to rate, and to stop it.
async fn assert_does_not_rate(service: &Service, run: &str) {
    let mut client = service.client_rating().await;
    for request in [
        window(0, 1),
        RateWindowRequest { dry_run: true, ..window(0, 1) },
        RateWindowRequest { detach: true, request_id: "mine".into(), ..window(0, 1) },
        RateWindowRequest::default(),
    ] {
        assert_denied(&format!("{request:?}"), client.rate_window(request).await);
    }
    let cancel = CancelRunRequest { run_id: run.into() };
    assert_denied("CancelRun", client.cancel_run(cancel).await);
    let book = client.get_pricebook(GetPricebookRequest::default()).await.unwrap().into_inner();
    let against = Some(Window { start: Some(hour(0)), end: Some(hour(1)) });
    let validate = ValidatePricebookRequest { pricebook_yaml: book.pricebook_yaml, against };
    assert_denied("ValidatePricebook", client.validate_pricebook(validate).await);
}

async fn assert_stores_nothing(service: &Service) {
    let request = RecordEventsRequest { events: vec![event("e-2", 0)], skip_invalid: false };
    assert_denied("RecordEvents", service.client_events().await.record_events(request).await);
}

/// One line a refused call, with what the database said, and no other.
fn assert_told(service: &Service, calls: usize) {
    let loud: Vec<_> = service.logs().into_iter().filter(|line| line["level"] != "INFO").collect();
    assert_eq!(loud.len(), calls, "{loud:#?}");
    assert!(loud.iter().all(|line| line.to_string().contains("permission denied for ")), "{loud:#?}");
}

#[tokio::test]
async fn a_reader_neither_rates_nor_stores() {
    let (ground, reading, run) = standing("reading").await;
    let before = ground.everything().await;
    assert_does_not_rate(&reading, &run).await;
    assert_stores_nothing(&reading).await;
    assert_eq!(ground.everything().await, before);
    assert_told(&reading, 7);
    for sql in [
        "DELETE FROM rated_usage",
        "UPDATE change_feed SET retired_through = 1",
        "SELECT count(*) FROM billing_event",
        "SELECT nextval('rating_fence_seq')",
        "CREATE TABLE mine ()",
    ] {
        assert!(ground.sql_as("reading", sql).unwrap_err().contains("permission denied"), "{sql}");
    }
}

#[tokio::test]
async fn who_rates_stores_no_events_and_changes_no_key() {
    let (ground, rating, _) = standing("rating").await;
    let before = ground.everything().await;
    assert_stores_nothing(&rating).await;
    for sql in [
        "UPDATE billing_event SET prompt_tokens = 0",
        "DELETE FROM billing_event",
        "SELECT user_id FROM billing_event",
        "UPDATE rated_usage SET auth_id = 'other'",
        "UPDATE rated_usage_change SET after_cost = 0",
        "UPDATE rating_run SET trigger = 'routine'",
        "DELETE FROM rating_run",
        "UPDATE pricebook SET pricebook_yaml = ''",
        "UPDATE change_feed SET whole_story = true",
        "UPDATE rater_schema SET version = 1",
    ] {
        assert!(ground.sql_as("rating", sql).unwrap_err().contains("permission denied"), "{sql}");
    }
    assert_eq!(ground.everything().await, before);
    assert_told(&rating, 1);
}

#[tokio::test]
async fn who_takes_events_in_reads_no_usage_and_no_runs() {
    let (ground, ingest, run) = standing("ingest").await;
    let before = ground.everything().await;
    assert_does_not_rate(&ingest, &run).await;
    let mut client = ingest.client_rating().await;
    assert_denied("GetRatedUsage", client.get_rated_usage(GetRatedUsageRequest::default()).await);
    let summarize = SummarizeRatedUsageRequest::default();
    assert_denied("SummarizeRatedUsage", client.summarize_rated_usage(summarize).await);
    let changes = StreamRatedUsageChangesRequest::default();
    assert_denied("StreamRatedUsageChanges", client.stream_rated_usage_changes(changes).await);
    assert_denied("GetRun", client.get_run(run_id(&run)).await);
    assert_denied("ListRuns", client.list_runs(ListRunsRequest::default()).await);
    assert_denied("WatchRun", client.watch_run(WatchRunRequest { run_id: run }).await);
    assert_denied("ListAnomalies", client.list_anomalies(ListAnomaliesRequest::default()).await);
    let digest = "0".repeat(64);
    assert_denied("GetPricebook", client.get_pricebook(GetPricebookRequest { digest }).await);
    for sql in [
        "SELECT count(*) FROM rated_usage",
        "UPDATE billing_event SET prompt_tokens = 0",
        "DELETE FROM billing_event",
        "INSERT INTO billing_event (request_id, created_at) VALUES ('x', '2026-06-01T00:00Z')",
    ] {
        assert!(ground.sql_as("ingest", sql).unwrap_err().contains("permission denied"), "{sql}");
    }
    assert_eq!(ground.everything().await, before);
    assert_told(&ingest, 14);
}
