//! A run keeps the prices that it began with, or ends.

use tonic::Code;

use super::*;
use crate::stage::{rate, window};

const ARGUMENTS: [&str; 4] = ["--chunk-hours", "1", "--lease-ttl", "1s"];

async fn died_after_two_hours_of_five() -> (Dead, RateWindowRequest) {
    let stage = Stage::new().await;
    stage.fill("e", 0, 5, 10).await;
    stage.sql("UPDATE billing_event SET model = 'nobody/knows' WHERE request_id = 'e-4-1'").await;
    let request = RateWindowRequest { request_id: "prices".into(), ..window(0, 5) };
    (Dead::after(2, stage, request.clone(), &ARGUMENTS).await, request)
}

#[tokio::test]
async fn a_run_is_not_resumed_with_other_prices() {
    let (dead, request) = died_after_two_hours_of_five().await;
    let path = dead.stage.pricebook();
    let dearer = std::fs::read_to_string(&path).unwrap().replace("0.0000006", "0.0000007");
    std::fs::write(&path, dearer).unwrap();
    let service = dead.stage.service(&ARGUMENTS).await;
    end_leases(&dead.stage).await;
    assert_eq!(dead.end().await, ended("failed", "PRICEBOOK_MISMATCH", 3));
    let refused = rate(&service, request).await.unwrap_err();
    assert_eq!((refused.code, refused.reason.as_str()), (Code::FailedPrecondition, "PRICEBOOK_MISMATCH"));
    let said = |name: &str| refused.metadata[name].as_str();
    assert_eq!((said("hours_committed"), said("left_end")), ("2", "2026-06-01T03:00:00Z"));
    assert_eq!(dead.stage.number(CHUNKS).await, 2);
    // What it had found is told by who ended it.
    let told = logged(&[&service], "code", "UNPRICED_EVENTS").await;
    assert_eq!((told.len(), field(&told[0], "run_id").as_str()), (1, Some(dead.run_id.as_str())));
}

#[tokio::test]
async fn a_run_is_resumed_with_the_same_prices_in_another_file() {
    let (dead, request) = died_after_two_hours_of_five().await;
    let path = dead.stage.pricebook();
    let text = std::fs::read_to_string(&path).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    assert!(lines[2].contains("acme/large") && lines[3].contains("acme/small"));
    lines.swap(2, 3);
    std::fs::write(&path, format!("# the same\n{}\n", lines.join(" # again\n"))).unwrap();
    let service = dead.stage.service(&ARGUMENTS).await;
    end_leases(&dead.stage).await;
    assert_eq!(dead.end().await, ended("succeeded", "", 0));
    let result = rate(&service, request).await.unwrap();
    assert_eq!((result.events, result.unpriced_events, result.inserted_rollups), (50, 1, 49));
    assert_billed_once(&dead.stage).await;
}
