//! WatchRun: what a client is told and when, and how a stream ends.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rater::proto::*;
use rater::service::Error;
use rater::service::watch_run::Watchers;
use rater::store::{Db, DbOptions};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Streaming};

use super::{get, standing};
use crate::harness::event;
use crate::rig::{BOOK, Rig, backfill, eventually};
use crate::stage::{Refusal, Stage, assert_no_panic, until, window};

const SOON: Duration = Duration::from_secs(30);

async fn watch(rig: &Rig, run_id: &str) -> Streaming<WatchRunResponse> {
    let request = WatchRunRequest { run_id: run_id.into() };
    rig.client().watch_run(request).await.unwrap().into_inner()
}

/// The next message, and how long it took; `None` at the end.
async fn next(stream: &mut Streaming<WatchRunResponse>) -> Option<(Run, Duration)> {
    let asked = Instant::now();
    let told = tokio::time::timeout(SOON, stream.message()).await.expect("it says something");
    told.unwrap().map(|told| (told.run.unwrap(), asked.elapsed()))
}

#[tokio::test]
async fn progress_never_goes_backwards_while_a_run_of_many_chunks_goes() {
    let stage = Stage::new().await;
    stage.fill("e", 0, 30, 5).await;
    stage
        .sql(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN PERFORM pg_sleep(0.1); RETURN NULL; END $$;
            CREATE TRIGGER slow BEFORE INSERT ON rated_usage FOR EACH STATEMENT EXECUTE FUNCTION slow()",
        )
        .await;
    let service = stage.service(&["--chunk-hours", "1"]).await;
    let mut client = service.client_rating().await;
    let mut rating = client.clone();
    let rated = tokio::spawn(async move { rating.rate_window(window(0, 30)).await.map_err(Refusal::from) });
    let begun = "SELECT count(*) FROM rating_run";
    until("it has begun", SOON, async || stage.number(begun).await == 1).await;
    let run_id: String =
        sqlx::query_scalar("SELECT run_id FROM rating_run").fetch_one(&stage.pool).await.unwrap();
    let request = WatchRunRequest { run_id: run_id.clone() };
    let mut stream = client.watch_run(request).await.unwrap().into_inner();
    let mut told = Vec::new();
    while let Some((run, _)) = next(&mut stream).await {
        told.push(run);
    }
    let rated = rated.await.unwrap().unwrap().into_inner();

    let steps: Vec<_> = told
        .iter()
        .map(|run| {
            let progress = run.progress.unwrap();
            assert_eq!((run.run_id.as_str(), progress.hours_total), (run_id.as_str(), 30));
            assert_eq!(run.result.as_ref().unwrap().events, progress.events_done);
            assert_eq!(progress.events_done, progress.hours_done * 5, "chunk by chunk");
            (progress.hours_done, progress.updated_at.map(|time| (time.seconds, time.nanos)))
        })
        .collect();
    assert!(steps.is_sorted(), "{steps:?}");
    assert!(steps.len() > 3, "{steps:?}");
    let (last, before) = told.split_last().unwrap();
    assert!(before.iter().all(|run| run.state() == RunState::Running), "{steps:?}");
    assert!(before.iter().any(|run| run.progress.unwrap().eta.is_some()), "{before:?}");
    assert_eq!((last.state(), last.progress.unwrap().hours_done), (RunState::Succeeded, 30));
    assert_eq!((last.progress.unwrap().eta, &last.result), (None, &rated.result));
    assert_no_panic(&service);
}

#[tokio::test]
async fn a_finished_run_is_told_once_and_that_is_the_end() {
    let rig = Rig::with_events([event("a")]).await;
    let run_id = rig.rate(backfill(10, 11)).await.unwrap().run_id;
    let mut stream = watch(&rig, &run_id).await;
    let (run, _) = next(&mut stream).await.unwrap();
    assert_eq!((run.state(), &run), (RunState::Succeeded, &get(&rig, &run_id).await));
    let ended = Instant::now();
    assert_eq!(next(&mut stream).await, None);
    assert!(ended.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn a_change_is_told_soon_and_no_change_after_a_while() {
    let rig = Rig::start(BOOK, &[]).await;
    standing(rig.pool(), "run-1", "running").await;
    let mut stream = watch(&rig, "run-1").await;
    let (first, took) = next(&mut stream).await.unwrap();
    assert!(took < Duration::from_secs(2), "at once: {took:?}");
    let (again, took) = next(&mut stream).await.unwrap();
    assert_eq!(again, first);
    assert!(took > Duration::from_secs(4), "nothing has changed: {took:?}");
    rig.sql("UPDATE rating_run SET state = 'cancelling'").await;
    let (changed, took) = next(&mut stream).await.unwrap();
    assert_eq!(changed, Run { state: RunState::Cancelling.into(), ..first });
    assert!(took < Duration::from_secs(3), "{took:?}");
    rig.sql("UPDATE rating_run SET state = 'cancelled', finished_at = now()").await;
    let (last, took) = next(&mut stream).await.unwrap();
    assert_eq!(last.state(), RunState::Cancelled);
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert_eq!(next(&mut stream).await, None);
}

/// Looks wait for whoever holds the table, and so can be seen.
#[tokio::test]
async fn a_client_that_goes_away_ends_its_looks_at_once() {
    const WAITING: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
        AND wait_event_type = 'Lock' AND query LIKE '-- Runs, newest first%'";
    let rig = Rig::start(BOOK, &[]).await;
    standing(rig.pool(), "run-1", "running").await;
    let lock = async || {
        let mut held = rig.pool().begin().await.unwrap();
        let sql = "LOCK TABLE rating_run IN ACCESS EXCLUSIVE MODE";
        sqlx::query(sql).execute(&mut *held).await.unwrap();
        held
    };
    let mut stream = watch(&rig, "run-1").await;
    next(&mut stream).await.unwrap();
    let held = lock().await;
    eventually("it looks", async || rig.one::<i64>(WAITING).await == 1).await;
    held.rollback().await.unwrap();
    eventually("it has looked", async || rig.one::<i64>(WAITING).await == 0).await;

    drop(stream);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let held = lock().await;
    // Two looks' time.
    for _ in 0..12 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(rig.one::<i64>(WAITING).await, 0, "it looks on, for nobody");
    }
    held.rollback().await.unwrap();
}

#[tokio::test]
async fn a_stop_ends_the_stream_with_its_reason() {
    let mut rig = Rig::start(BOOK, &[]).await;
    standing(rig.pool(), "run-1", "running").await;
    let mut stream = watch(&rig, "run-1").await;
    next(&mut stream).await.unwrap();
    rig.service.signal(Signal::SIGTERM);
    let told = Instant::now();
    let refused = tokio::time::timeout(SOON, stream.message()).await.unwrap().map_err(Refusal::from);
    let refused = refused.expect_err("it does not end as if the run had");
    assert_eq!((refused.code, refused.reason.as_str()), (Code::Unavailable, "SHUTTING_DOWN"));
    assert!(refused.retry.is_some());
    drop(stream);
    assert_eq!(rig.service.wait(SOON).await.code(), Some(0));
    assert!(told.elapsed() < Duration::from_secs(10), "{:?}", told.elapsed());
}

#[tokio::test]
async fn watchers_are_so_many_and_one_that_ends_makes_room() {
    let stage = Stage::new().await;
    standing(&stage.pool, "run-1", "succeeded").await;
    let acquire_timeout = Duration::from_secs(10);
    let db = Db::new(&DbOptions { url: stage.url.clone(), max_connections: 2, acquire_timeout }).unwrap();
    let watchers = Watchers::new(db, CancellationToken::new(), 2);
    // A call that is refused keeps no place.
    for _ in 0..3 {
        assert!(matches!(watchers.watch("nothing").await, Err(Error::RunNotFound)));
    }
    let first = watchers.watch("run-1").await.unwrap();
    let _second = watchers.watch("run-1").await.unwrap();
    assert!(matches!(watchers.watch("run-1").await, Err(Error::Overloaded)));
    drop(first);
    let mut third = watchers.watch("run-1").await.unwrap();
    assert!(third.next().await.unwrap().is_some() && third.next().await.unwrap().is_none());
}
