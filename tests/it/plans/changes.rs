//! The plans of a look into the change feed, on a feed that is long: it costs what it reads.

use std::time::Duration;

use rater::proto::{StreamRatedUsageChangesRequest, UsageFilter};

use super::{explaining_server, length, plans, whole};
use crate::changes::fabricate;
use crate::harness::{psql, soak};
use crate::stage::Stage;

/// Firsts of the statements' texts.
const BATCHES: &str = "-- The feed, and its batches";
const CHANGES: &str = "-- The changes of parts of batches";

#[tokio::test]
async fn a_look_into_the_change_feed_reads_by_key_whatever_its_filter_matches() {
    let server = explaining_server().await;
    let postgres = &server.postgres;
    let stage = Stage::over(&postgres.url());
    let service = stage.service(&["--migrate"]).await;
    let long = if soak() { 300_000 } else { 60_000 };
    fabricate(&stage.pool, &[10, long, 10]).await;
    fabricate(&stage.pool, &[3; 100]).await;
    let batches = "INSERT INTO change_batch (batch_id, run_id, trigger, changes)
        SELECT gen_random_uuid(), 'run', 'routine', 1 FROM generate_series(1, 20000)";
    psql(postgres, batches).unwrap();
    let nobody = UsageFilter { auth_ids: vec!["nobody".into()], ..Default::default() };
    // Without statistics, as after a restore, and with them.
    for statistics in ["SELECT", "ANALYZE"] {
        psql(postgres, statistics).unwrap();
        for filter in [UsageFilter::default(), nobody.clone()] {
            let from = length(postgres);
            let request = StreamRatedUsageChangesRequest { filter: Some(filter), ..Default::default() };
            let mut client = service.client_rating().await;
            let mut stream = client.stream_rated_usage_changes(request).await.unwrap().into_inner();
            while stream.message().await.unwrap().is_some() {}
            tokio::time::sleep(Duration::from_millis(50)).await;
            let looks = plans(postgres, CHANGES, from);
            assert!(looks.len() > 100, "{}", looks.len());
            for plan in &looks {
                assert!(plan.contains("Index Scan using rated_usage_change_pkey"), "{plan}");
                assert!(!whole(plan, "rated_usage_change"), "{plan}");
            }
            for plan in plans(postgres, BATCHES, from) {
                assert!(plan.contains("Index Scan using change_batch_pkey"), "{plan}");
            }
        }
    }
    // And the check can fail.
    psql(postgres, "ALTER TABLE rated_usage_change DROP CONSTRAINT rated_usage_change_pkey").unwrap();
    let from = length(postgres);
    let mut client = service.client_rating().await;
    let request = StreamRatedUsageChangesRequest::default();
    let mut stream = client.stream_rated_usage_changes(request).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    drop(stream);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(plans(postgres, CHANGES, from).iter().all(|plan| whole(plan, "rated_usage_change")));
}
