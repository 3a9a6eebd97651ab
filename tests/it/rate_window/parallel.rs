//! Chunks of one run side by side: the same tables, and what fails in one leaves the others whole.

use std::time::Duration;

use nix::sys::signal::Signal;
use rater::grpc::client::Failure;

use super::chunks::story;
use crate::harness::{Event, Service, event};
use crate::rig::{BOOK, Gate, Rig, backfill, eventually};

/// Two rollups in each of the hours 4 to 12.
fn eight_hours() -> Vec<Event> {
    let at = |h: u32| format!("2026-06-01T{h:02}:15:00Z");
    let two = |h: u32| [event(&format!("a{h}")).at(&at(h)), event(&format!("b{h}")).auth("b").at(&at(h))];
    (4..12).flat_map(two).collect()
}

const PARALLEL: [&str; 4] = ["--chunk-hours", "1", "--parallel", "4"];

#[tokio::test]
async fn a_run_of_chunks_side_by_side_equals_one_after_the_other() {
    let (alone, beside) = (story(&["--chunk-hours", "1"]).await, story(&PARALLEL).await);
    assert_eq!(alone, beside);
    assert!(alone.results[1].reconciled_deletions > 0 && alone.results[1].ambiguous_base_events > 0);
}

#[tokio::test]
async fn four_chunks_of_a_run_are_in_flight_at_once() {
    let rig = Rig::start(BOOK, &PARALLEL).await;
    rig.insert(eight_hours()).await;
    let hold = rig.hold_writes().await;
    let mut client = rig.client();
    let run = tokio::spawn(async move { client.rate_window(backfill(4, 12)).await });
    rig.until_blocked(4).await;
    assert_eq!(rig.refused(backfill(11, 12)).await.reason, "WINDOW_BUSY");
    hold.rollback().await.unwrap();
    assert_eq!(run.await.unwrap().unwrap().into_inner().result.unwrap().inserted_rollups, 16);
    assert_eq!(rig.count("rating_run_chunk").await, 8);
    rig.assert_explained().await;
}

/// Hours whose chunks are committed, from the record and from the rows.
async fn committed(rig: &Rig) -> Vec<String> {
    let sql = "SELECT to_char(chunk_start AT TIME ZONE 'UTC', 'HH24') FROM rating_run_chunk ORDER BY 1";
    let chunks: Vec<String> = sqlx::query_scalar(sql).fetch_all(rig.pool()).await.unwrap();
    let mut hours: Vec<String> = rig.costs().await.into_iter().map(|(hour, _)| hour).collect();
    assert_eq!(hours.len(), 2 * chunks.len(), "each is whole");
    hours.dedup();
    assert_eq!(hours, chunks);
    chunks
}

#[tokio::test]
async fn what_fails_in_one_chunk_leaves_the_others_whole_and_all_that_is_left_is_told() {
    let rig = Rig::start(BOOK, &PARALLEL).await;
    rig.insert(eight_hours()).await;
    rig.sql(
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.window_start = '2026-06-01T10:00Z' THEN RAISE EXCEPTION 'no'; END IF; RETURN NEW; END $$;
         CREATE TRIGGER no BEFORE INSERT ON rated_usage FOR EACH ROW EXECUTE FUNCTION no()",
    )
    .await;
    let hold = rig.hold_writes().await;
    let mut client = rig.client();
    let run = tokio::spawn(async move { client.rate_window(backfill(4, 12)).await });
    rig.until_blocked(4).await;
    hold.rollback().await.unwrap();
    let failure = Failure::from(run.await.unwrap().expect_err("it fails"));
    let hours = committed(&rig).await;
    // Those that were in flight beside it; which of the rest were begun before is the moment's.
    assert!(["08", "09", "11"].iter().all(|hour| hours.iter().any(|h| h == hour)), "{hours:?}");
    assert!(!hours.iter().any(|hour| hour == "10"), "{hours:?}");
    let left = ["hours_committed", "left_start", "left_end"].map(|key| failure.metadata[key].as_str());
    assert_eq!(left, [&hours.len().to_string(), "2026-06-01T04:00:00Z", "2026-06-01T11:00:00Z"]);
    let (state, reason, remaining) = rig.run(&failure.metadata["run"]).await;
    assert_eq!((state.as_str(), reason.as_deref()), ("failed", Some("INTERNAL")));
    assert_eq!(remaining, Some("2026-06-01T11:00:00Z".parse().unwrap()));
    assert_eq!(rig.count("rating_lease").await, 0);
    rig.assert_explained().await;

    rig.sql("DROP TRIGGER no ON rated_usage").await;
    let rest = rig.rated(backfill(4, 11)).await;
    assert_eq!((rest.unchanged_rollups, rest.rollups), (2 * hours.len() as i64 - 2, 14));
    assert_eq!(rig.rows().await.len(), 16);
}

#[tokio::test]
async fn a_run_whose_process_dies_goes_on_with_the_gap_alone() {
    let mut rig = Rig::start(BOOK, &[&PARALLEL[..], &["--lease-ttl", "2s"]].concat()).await;
    rig.insert(eight_hours()).await;
    // One chunk in the middle hangs; all others commit.
    let gate = rig.gate(Gate::AT_ROLLUPS, "NEW.window_start = '2026-06-01T10:00Z'").await;
    let mut client = rig.client();
    let run = tokio::spawn(async move { client.rate_window(backfill(4, 12)).await });
    eventually("the others are committed", async || rig.count("rating_run_chunk").await == 7).await;
    let others = rig.versions("rated_usage").await;
    rig.service.signal(Signal::SIGKILL);
    rig.service.wait(Duration::from_secs(20)).await;
    assert!(run.await.unwrap().is_err());
    gate.open().await;
    let path = rig.book_path();
    let arguments = ["--pricebook", path.to_str().unwrap(), "--parallel", "4", "--lease-ttl", "2s"];
    rig.service = Service::start(&rig.db.url, &arguments).await;
    eventually("another process has done the rest", async || {
        rig.one::<i64>("SELECT count(*) FROM rating_run WHERE state = 'succeeded'").await == 1
    })
    .await;
    assert_eq!((rig.rows().await.len(), committed(&rig).await.len()), (16, 8));
    let now = rig.versions("rated_usage").await;
    assert!(others.iter().all(|version| now.contains(version)), "nothing was rated twice");
    rig.assert_explained().await;
}
