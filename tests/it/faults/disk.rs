//! The database's disk is full.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use rater::proto::BillingEvent;
use tonic::Code;

use super::serving;
use crate::harness::{Tmpfs, own_server_in, psql, skipped};
use crate::stage::{Refusal, Stage, assert_no_panic, event, rate, rate_until_done, record, until, window};

const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_full_disk_is_told_and_nothing_is_half_written() {
    let tmpfs = match Tmpfs::mount(160) {
        Ok(tmpfs) => tmpfs,
        Err(why) => return skipped("a_full_disk_is_told_and_nothing_is_half_written", &why),
    };
    let settings = [("synchronous_commit", "on"), ("max_wal_size", "48MB"), ("min_wal_size", "32MB")];
    let postgres = own_server_in(tmpfs.path(), &settings).await;
    let stage = Stage::over(&postgres.url());
    let service = stage.service(&["--migrate", "--lease-ttl", "2s"]).await;
    stage.fill("before", 0, 2, 6_000).await;

    // A fresh piece of the log, so that it is the tables that find no room.
    psql(&postgres, "SELECT pg_switch_wal()").unwrap();
    psql(&postgres, "CHECKPOINT").unwrap();
    psql(&postgres, "INSERT INTO billing_event (request_id, event_ts) VALUES ('x', '2020-01-01')").unwrap();
    let filler = tmpfs.path().join("filler");
    fill_up(&filler);

    let batch: Vec<BillingEvent> = (0..4_000).map(|n| event(&format!("full-{n}"), 2)).collect();
    full(&record(&service, &batch).await.unwrap_err());
    // Its tables are empty: even its record needs a new page.
    full(&rate(&service, window(0, 2)).await.unwrap_err());
    assert_eq!(stage.number("SELECT count(*) FROM billing_event WHERE request_id LIKE 'full%'").await, 0);
    assert_eq!(stage.number("SELECT count(*) FROM rated_usage").await, 0);
    assert_eq!(stage.number("SELECT count(*) FROM rated_usage_change").await, 0);

    std::fs::remove_file(&filler).unwrap();
    until("serving", SOON, async || serving(&service).await).await;
    assert_eq!(record(&service, &batch).await.unwrap().stored, 4_000);
    let (result, _) = rate_until_done(&service, window(0, 3), SOON).await;
    assert_eq!(result.rated_events, 16_000);
    assert_eq!(stage.mismatches().await, 0);
    assert_eq!(stage.feed_faults().await, 0);
    assert_no_panic(&service);
    drop(service);
    tokio::task::spawn_blocking(move || postgres.stop()).await.unwrap();
}

/// Takes every byte that is left.
fn fill_up(path: &Path) {
    let mut file = File::create(path).unwrap();
    for size in [1 << 20, 4096, 1] {
        let block = vec![0; size];
        while file.write_all(&block).is_ok() {}
    }
}

fn full(refused: &Refusal) {
    assert_eq!(refused.code, Code::Unavailable, "{refused:?}");
    assert_eq!(refused.reason, "DATABASE_UNAVAILABLE", "{refused:?}");
    assert!(refused.retry.is_some(), "{refused:?}");
}
