//! SIGTERM: no new calls, the chunk in flight commits, the run goes on in another process, and
//! the process is gone within its limit, whoever holds a connection open.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use sqlx::Row;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonic::Code;

use crate::stage::{Refusal, Stage, assert_no_panic, until, window};

const SOON: Duration = Duration::from_secs(20);

/// Each chunk takes a moment.
const SLOW: &str = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_sleep(0.15); RETURN NULL; END $$;
    CREATE TRIGGER slow BEFORE INSERT ON rated_usage FOR EACH STATEMENT EXECUTE FUNCTION slow()";

#[tokio::test]
async fn a_stop_lets_the_chunk_in_flight_commit_and_hands_the_run_over() {
    let stage = Stage::new().await;
    stage.fill("e", 0, 48, 5).await;
    stage.sql(SLOW).await;
    let mut service = stage.service(&["--chunk-hours", "1"]).await;
    let mut client = service.client_rating().await;
    let run = tokio::spawn(async move { client.rate_window(window(0, 48)).await.map_err(Refusal::from) });
    let chunks = "SELECT count(*) FROM rating_run_chunk";
    until("some chunks are committed", SOON, async || stage.number(chunks).await >= 3).await;
    service.signal(Signal::SIGTERM);
    let told = Instant::now();
    let refused = run.await.unwrap().unwrap_err();
    let status = service.wait(SOON).await;
    println!("out after {:?}", told.elapsed());
    assert_eq!(status.code(), Some(0));
    assert_eq!((refused.code, refused.reason.as_str()), (Code::Unavailable, "SHUTTING_DOWN"), "{refused:?}");

    let committed = stage.number(chunks).await;
    assert!((3..48).contains(&committed));
    assert_eq!(refused.metadata["hours_committed"], committed.to_string());
    let sql = "SELECT state, error_reason IS NULL AS unfailed,
            (extract(epoch FROM remaining_end - window_start) / 3600)::bigint AS left FROM rating_run";
    let row = sqlx::query(sql).fetch_one(&stage.pool).await.unwrap();
    assert_eq!((row.get::<String, _>("state").as_str(), row.get::<bool, _>("unfailed")), ("pending", true));
    assert_eq!(row.get::<i64, _>("left"), 48 - committed);
    assert_eq!(stage.number("SELECT count(*) FROM rating_lease").await, 0, "given back");
    assert_no_panic(&service);

    // The next process goes on with it, without being asked.
    let next = stage.service(&["--chunk-hours", "1"]).await;
    let succeeded = "SELECT count(*) FROM rating_run WHERE state = 'succeeded'";
    until("the run is done", SOON, async || stage.number(succeeded).await == 1).await;
    assert_eq!(stage.number(chunks).await, 48);
    assert_eq!(stage.mismatches().await, 0);
    assert_no_panic(&next);
}

/// Runs that wait for their turn do not begin a chunk once the service stops.
#[tokio::test]
async fn a_stop_begins_no_chunk_that_was_waiting_for_its_turn() {
    let stage = Stage::new().await;
    stage.sql(&SLOW.replace("0.15", "0.5")).await;
    // Two chunks at once.
    let mut service = stage.service(&["--database-connections", "4"]).await;
    let mut runs = JoinSet::new();
    for n in 0..12 {
        let mut client = service.client_rating().await;
        runs.spawn(async move { client.rate_window(window(n, n + 1)).await.map_err(Refusal::from) });
    }
    let begun = "SELECT count(*) FROM rating_run";
    until("all have begun", SOON, async || stage.number(begun).await == 12).await;
    let before = stage.number("SELECT count(*) FROM rating_run_chunk").await;
    service.signal(Signal::SIGTERM);
    let mut rated = 0;
    while let Some(run) = runs.join_next().await {
        match run.unwrap() {
            Ok(_) => rated += 1,
            Err(refused) => assert_eq!(refused.reason, "SHUTTING_DOWN", "{refused:?}"),
        }
    }
    assert_eq!(service.wait(SOON).await.code(), Some(0));
    let after = stage.number("SELECT count(*) FROM rating_run_chunk").await;
    assert_eq!(rated, after);
    assert!(after - before <= 4, "{before} chunks before the stop and {after} after it");
}

#[tokio::test]
async fn silent_clients_hold_a_stop_only_to_its_limit() {
    let stage = Stage::new().await;
    let mut service = stage.service(&["--shutdown-grace", "5s"]).await;
    let mut silent = TcpStream::connect(service.address()).await.unwrap();
    let mut admin = TcpStream::connect(service.admin_address()).await.unwrap();
    let idle = service.channel().await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    service.signal(Signal::SIGTERM);
    let told = Instant::now();
    let status = service.wait(Duration::from_secs(6)).await;
    println!("out after {:?}", told.elapsed());
    assert_eq!(status.code(), Some(0));
    for stream in [&mut silent, &mut admin] {
        drop(stream.read(&mut [0; 100]).await);
    }
    drop(idle);
}
