//! Batches that meet other writers.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use rater::domain::event::RawEvent;
use sqlx::{AssertSqlSafe, PgConnection};
use tokio::task::{JoinHandle, JoinSet};

use super::{Fixture, Random, done, fixture, rejected};
use crate::harness::soak;

async fn insert(connection: &mut PgConnection, id: &str, prompt_tokens: i32) {
    sqlx::query("INSERT INTO billing_event (request_id, prompt_tokens) VALUES ($1, $2)")
        .bind(id)
        .bind(prompt_tokens)
        .execute(connection)
        .await
        .unwrap();
}

/// Waits until a statement of ours on `table` waits for a lock.
async fn until_blocked(f: &Fixture, by: i32) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let blocked: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity WHERE $1 = ANY (pg_blocking_pids(pid))",
        )
        .bind(by)
        .fetch_one(f.other())
        .await
        .unwrap();
        if blocked > 0 {
            return;
        }
        assert!(Instant::now() < deadline, "nothing waits for {by}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn backend(connection: &mut PgConnection) -> i32 {
    sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(connection).await.unwrap()
}

fn spawn<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    tokio::spawn(work)
}

#[tokio::test]
async fn a_writer_that_commits_meanwhile_is_seen_by_the_comparison() {
    let f = fixture().await;
    let mut writer = f.other().begin().await.unwrap();
    let pid = backend(&mut writer).await;
    insert(&mut writer, "same", 7).await;
    insert(&mut writer, "other", 8).await;
    let event = |name: &str| RawEvent { request_id: name.into(), prompt_tokens: 7, ..RawEvent::default() };
    let (intake, batch) = (f.intake.clone(), vec![event("new"), event("other"), event("same")]);
    let ours = spawn(async move { intake.record(batch, true).await });
    until_blocked(&f, pid).await;
    writer.commit().await.unwrap();
    let recorded = ours.await.unwrap().unwrap();
    assert_eq!((recorded.stored, recorded.duplicates), (1, 1));
    assert_eq!(rejected(&recorded), [(1, "request_id", "EVENT_CONFLICT")]);
}

#[tokio::test]
async fn a_writer_that_rolls_back_meanwhile_leaves_the_event_to_us() {
    let f = fixture().await;
    let mut writer = f.other().begin().await.unwrap();
    let pid = backend(&mut writer).await;
    insert(&mut writer, "a", 7).await;
    let (intake, batch) = (f.intake.clone(), vec![f.event("a")]);
    let ours = spawn(async move { intake.record(batch, false).await });
    until_blocked(&f, pid).await;
    writer.rollback().await.unwrap();
    assert_eq!(ours.await.unwrap().unwrap(), done(1, 0));
}

/// The insert meets "a" and then waits at "b"; meanwhile "a" is deleted, so that the
/// comparison finds nothing under an id that was not inserted.
#[tokio::test]
async fn a_row_deleted_between_the_statements_is_stored_by_another_try() {
    let f = fixture().await;
    f.record(&[f.event("a")]).await.unwrap();
    let mut writer = f.other().begin().await.unwrap();
    let pid = backend(&mut writer).await;
    insert(&mut writer, "b", 7).await;
    let (intake, batch) = (f.intake.clone(), vec![f.event("b"), f.event("a")]);
    let ours = spawn(async move { intake.record(batch, false).await });
    until_blocked(&f, pid).await;
    sqlx::query("DELETE FROM billing_event WHERE request_id = $1")
        .bind("a")
        .execute(f.other())
        .await
        .unwrap();
    writer.rollback().await.unwrap();
    // The first try inserted "b" and was rolled back as a whole.
    assert_eq!(ours.await.unwrap().unwrap(), done(2, 0));
    assert_eq!(f.count().await, 2);
}

#[tokio::test]
async fn a_caller_that_goes_away_does_not_stop_the_write() {
    let f = fixture().await;
    let mut writer = f.other().begin().await.unwrap();
    let pid = backend(&mut writer).await;
    insert(&mut writer, "b", 7).await;
    let (intake, batch) = (f.intake.clone(), vec![f.event("a"), f.event("b")]);
    let ours = spawn(async move { intake.record(batch, false).await });
    until_blocked(&f, pid).await;
    ours.abort();
    assert!(ours.await.unwrap_err().is_cancelled());
    writer.rollback().await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while f.count().await < 2 {
        assert!(Instant::now() < deadline, "the write was dropped half-way");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Round after round, eight batches at once over the same ids, each with most of them and in an
/// order of its own: none fails or runs into a deadlock, and each id is stored exactly once.
#[tokio::test(flavor = "multi_thread")]
async fn overlapping_batches_in_any_order_store_each_event_once() {
    const IDS: usize = 500;
    const BATCH: usize = 400;
    let f = fixture().await;
    let mut random = Random(1);
    let (mut stored, mut duplicates, mut sent) = (0, 0, HashSet::new());
    let until = Instant::now() + Duration::from_secs(if soak() { 60 } else { 3 });
    for round in 0.. {
        if Instant::now() >= until {
            break;
        }
        let mut writers = JoinSet::new();
        for _ in 0..8 {
            let mut batch: Vec<RawEvent> = (0..IDS).map(|id| f.event(&format!("{round}-{id}"))).collect();
            random.shuffle(&mut batch);
            batch.truncate(BATCH);
            sent.extend(batch.iter().map(|event| event.request_id.clone()));
            let intake = f.intake.clone();
            writers.spawn(async move { intake.record(batch, false).await });
        }
        while let Some(recorded) = writers.join_next().await {
            let recorded = recorded.unwrap().expect("no conflict, no deadlock");
            stored += recorded.stored;
            duplicates += recorded.duplicates;
        }
        assert_eq!(stored + duplicates, (round + 1) * 8 * BATCH as i64);
    }
    assert!(duplicates > stored, "the batches overlap: {stored} stored, {duplicates} duplicates");
    assert_eq!(stored, f.count().await, "each stored event was reported once");
    assert_eq!(stored, sent.len() as i64, "each id was stored");
    assert_eq!(deadlocks(&f).await, 0, "deadlocks that another try hid");
}

/// The deadlocks that our connections ran into. A connection reports them at its end, if not
/// before, so they are closed first.
async fn deadlocks(f: &Fixture) -> i64 {
    let ours = "datname = current_database() AND application_name = 'rater'";
    let end = format!("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE {ours}");
    sqlx::query(AssertSqlSafe(end)).execute(f.other()).await.unwrap();
    sqlx::query_scalar("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        .fetch_one(f.other())
        .await
        .unwrap()
}
