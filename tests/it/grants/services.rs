//! A service with each duty's role does that duty.

use std::time::Duration;

use rater::proto::*;
use serde_json::Value;

use super::{Ground, run_id};
use crate::harness::Service;
use crate::rig::http_get;
use crate::stage::{event, rate, record, until, window};

const PATIENCE: Duration = Duration::from_secs(30);

fn said(service: &Service, level: &str) -> Vec<Value> {
    service.logs().into_iter().filter(|line| line["level"] == level).collect()
}

/// That what it may not do is said, once, and not tried.
fn assert_leaves(service: &Service, rating: bool, retention: bool) {
    let said = said(service, "INFO");
    let duties =
        said.iter().filter(|line| line.to_string().contains("the database role may not do all of this"));
    let duties: Vec<_> = duties.collect();
    assert_eq!(duties.len(), usize::from(!(rating && retention)), "{duties:?}");
    for line in duties {
        let text = line.to_string();
        assert!(text.contains(&format!("\"rating\":{rating}")), "{text}");
        assert!(text.contains(&format!("\"retention\":{retention}")), "{text}");
    }
}

#[tokio::test]
async fn services_of_three_duties_do_the_work_of_one() {
    let ground = Ground::granted().await;
    let stage = &ground.stage;
    let unasked = ["--lease-ttl", "1s", "--change-retention", "1h", "--chunk-hours", "1"];
    let ingest = stage.service_over(&ground.url("ingest"), &unasked).await;
    let reading = stage.service_over(&ground.url("reading"), &unasked).await;
    stores(&ingest).await;
    // A run whose process is gone, which neither of the two may even look for.
    orphan(&ground).await;
    let rating = stage.service_over(&ground.url("rating"), &unasked).await;
    goes_on_with_the_orphan(&ground).await;
    let run = rates(&ground, &rating).await;
    cancels(&ground, &rating).await;
    rate(&rating, window(0, 14)).await.unwrap();
    reads(&ground, &reading, &run).await;

    for service in [&ingest, &reading] {
        assert_eq!((said(service, "WARN"), said(service, "ERROR")), (vec![], vec![]));
        assert_leaves(service, false, false);
    }
    assert_leaves(&rating, true, true);
    for service in [&ingest, &reading, &rating] {
        let ready = http_get(service.admin_address(), "/readyz").await;
        assert!(ready.contains("200 OK"), "{ready}");
    }
    assert_eq!((stage.mismatches().await, stage.feed_faults().await), (0, 0));
}

/// Stored, found again, and told apart from a stored one.
async fn stores(ingest: &Service) {
    let events = [event("e-1", 0), event("e-2", 1), event("e-3", 2)];
    assert_eq!(record(ingest, &events).await.unwrap().stored, 3);
    assert_eq!(record(ingest, &events).await.unwrap().duplicates, 3);
    let other = BillingEvent { prompt_tokens: 7, ..event("e-1", 0) };
    assert_eq!(record(ingest, &[other]).await.unwrap_err().reason, "EVENT_CONFLICT");
}

/// A run of the hours 0 to 2 that stands still: a service of another pricebook's began it.
async fn orphan(ground: &Ground) {
    ground
        .stage
        .sql(
            "INSERT INTO pricebook (digest, pricebook_yaml) VALUES ('old', '');
             INSERT INTO rating_run (run_id, window_start, window_end, trigger, rate_basis, state,
                pricebook_digest, currency_code, fence, requested_by, request_hash, started_at, told)
             VALUES ('orphan', '2026-06-01T00:00Z', '2026-06-01T02:00Z', 'backfill', 'pricebook', 'pending', 'old',
                'USD', 0, '', '', now(), false)",
        )
        .await;
}

async fn goes_on_with_the_orphan(ground: &Ground) {
    until("the sweep ends the run, and tells it", PATIENCE, async || {
        let sql = "SELECT count(*) FROM rating_run WHERE run_id = 'orphan' AND state = 'failed' AND told";
        ground.stage.number(sql).await == 1
    })
    .await;
}

/// Inserts, updates and deletes, also by a plan.
async fn rates(ground: &Ground, rating: &Service) -> String {
    let result = rate(rating, window(0, 3)).await.unwrap();
    assert_eq!((result.inserted_rollups, result.events), (3, 3));
    ground
        .stage
        .sql(
            "UPDATE billing_event SET prompt_tokens = 200 WHERE request_id = 'e-1';
             DELETE FROM billing_event WHERE request_id = 'e-2';
             UPDATE billing_event SET model = 'unknown' WHERE request_id = 'e-3'",
        )
        .await;
    let plan = rate(rating, RateWindowRequest { dry_run: true, ..window(0, 3) }).await.unwrap();
    let request = RateWindowRequest { expected_plan_hash: plan.plan_hash, ..window(0, 3) };
    let mut client = rating.client_rating().await;
    let response = client.rate_window(request).await.unwrap().into_inner();
    let result = response.result.unwrap();
    assert_eq!((result.updated_rollups, result.reconciled_deletions, result.unpriced_events), (1, 2, 1));
    response.run_id
}

/// While a chunk is in flight, and so that the rest is left.
async fn cancels(ground: &Ground, rating: &Service) {
    ground.stage.fill("more", 10, 14, 5).await;
    let mut hold = ground.stage.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE rated_usage IN SHARE MODE").execute(&mut *hold).await.unwrap();
    let mut client = rating.client_rating().await;
    let request = RateWindowRequest { detach: true, ..window(10, 14) };
    let id = client.rate_window(request).await.unwrap().into_inner().run_id;
    let cancel = CancelRunRequest { run_id: id.clone() };
    let run = client.cancel_run(cancel).await.unwrap().into_inner().run.unwrap();
    assert_eq!(run.state(), RunState::Cancelling);
    // As long as it takes for the lease to be renewed.
    until("the lease is renewed", PATIENCE, async || {
        let sql = "SELECT count(*) FROM rating_lease WHERE expires_at > now() + interval '500 ms'";
        ground.stage.number(sql).await == 1
    })
    .await;
    hold.rollback().await.unwrap();
    until("the run ends", PATIENCE, async || {
        let run = rating.client_rating().await.get_run(run_id(&id)).await.unwrap().into_inner().run.unwrap();
        run.state() == RunState::Cancelled
    })
    .await;
}

/// Everything that a reader may, with SQL alone, too.
async fn reads(ground: &Ground, reading: &Service, run: &str) {
    let mut client = reading.client_rating().await;
    let rows = client.get_rated_usage(GetRatedUsageRequest::default()).await.unwrap().into_inner();
    assert!(!rows.rated_usage.is_empty() && !rows.change_cursor.is_empty(), "{rows:?}");
    let changes = StreamRatedUsageChangesRequest { follow: true, ..Default::default() };
    let mut changes = client.stream_rated_usage_changes(changes).await.unwrap().into_inner();
    assert!(!changes.message().await.unwrap().unwrap().changes.is_empty());
    let totals =
        client.summarize_rated_usage(SummarizeRatedUsageRequest::default()).await.unwrap().into_inner();
    assert_eq!(totals.summaries.len(), 1);
    let found = client.get_run(run_id(run)).await.unwrap().into_inner().run.unwrap();
    assert_eq!(found.state(), RunState::Succeeded);
    let runs = client.list_runs(ListRunsRequest::default()).await.unwrap().into_inner().runs;
    assert_eq!(runs.len(), 5);
    let mut watch = client.watch_run(WatchRunRequest { run_id: run.into() }).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().run.unwrap(), found);
    let anomalies = client.list_anomalies(ListAnomaliesRequest::default()).await.unwrap().into_inner();
    assert_eq!(anomalies.anomalies.len(), 1);
    let loaded = client.get_pricebook(GetPricebookRequest::default()).await.unwrap().into_inner();
    let earlier = GetPricebookRequest { digest: loaded.digest };
    client.get_pricebook(earlier).await.unwrap();
    let valid = ValidatePricebookRequest { pricebook_yaml: loaded.pricebook_yaml, against: None };
    assert!(client.validate_pricebook(valid).await.unwrap().into_inner().valid);

    for sql in ["SELECT sum(cost) FROM rated_usage", "SELECT count(*) FROM rated_usage_change"] {
        ground.sql_as("reading", sql).unwrap();
    }
}
