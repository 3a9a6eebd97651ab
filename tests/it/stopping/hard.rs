//! A stop that takes too long, or is not waited for: exit code 1, and nothing is lost by it.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rater::proto::RateWindowRequest;
use tonic::Code;

use crate::harness::{Process, Service, event, field, rater, temp_dir};
use crate::rig::{BOOK, Rig, backfill, eventually};
use crate::stage;

const SOON: Duration = Duration::from_secs(20);

/// A service that is told to stop while its one chunk can't be written, and then `hard`; the run is
/// done by the next one.
async fn stopped_hard(arguments: &[&str], hard: impl AsyncFn(&Service), why: &str) -> Duration {
    let mut rig = Rig::start(BOOK, arguments).await;
    rig.insert([event("a")]).await;
    let hold = rig.hold_writes().await;
    let mut client = rig.client();
    let request = RateWindowRequest { request_id: "slow".into(), ..backfill(10, 11) };
    let asked = request.clone();
    let run = tokio::spawn(async move { client.rate_window(asked).await });
    rig.until_blocked(1).await;
    rig.service.signal(Signal::SIGTERM);
    rig.service.wait_for_log("stopping: no new calls, what is in flight ends", SOON).await;
    assert!(rig.service.ended().is_none());
    let began = Instant::now();
    hard(&rig.service).await;
    let status = rig.service.wait(SOON).await;
    let took = began.elapsed();
    assert_eq!(status.code(), Some(1));
    let line = rig.service.wait_for_log("stopping hard, with calls or runs in flight", SOON).await;
    assert_eq!((field(&line, "why").as_str(), field(&line, "runs").as_u64()), (Some(why), Some(1)));
    assert!(run.await.unwrap().is_err(), "nobody answers");
    hold.rollback().await.unwrap();
    // The same id finds the run, and the next process goes on with it once its lease has ended.
    let book = rig.book_path();
    let next =
        Service::start(&rig.db.url, &["--pricebook", book.to_str().unwrap(), "--lease-ttl", "1s"]).await;
    let mut client = next.client_rating().await;
    let result = loop {
        match client.rate_window(request.clone()).await {
            Ok(response) => break response.into_inner().result.unwrap(),
            Err(status) => assert!(matches!(status.code(), Code::Unavailable | Code::Aborted), "{status:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(result.rollups, 1);
    assert_eq!((rig.count("rating_run").await, rig.count("rated_usage").await), (1, 1));
    rig.assert_explained().await;
    took
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_stops_hard_and_nothing_is_lost() {
    let again = async |service: &Service| service.signal(Signal::SIGTERM);
    let took = stopped_hard(&["--lease-ttl", "1s"], again, "told to stop once more").await;
    println!("gone {took:.1?} after the second signal");
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_grace_stops_hard_and_nothing_is_lost() {
    let arguments = ["--lease-ttl", "1s", "--shutdown-grace", "1s"];
    let took = stopped_hard(&arguments, async |_: &Service| {}, "the grace is over").await;
    println!("gone after {took:.1?} of a grace of 1 s");
    assert!(took < Duration::from_secs(2), "{took:?}");
}

/// Its private PostgreSQL goes with it, and has everything when it is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_hard_stop_with_a_private_postgresql_loses_nothing() {
    let dir = temp_dir();
    let book = dir.path().join("book.yaml");
    std::fs::write(&book, BOOK).unwrap();
    let data = dir.path().join("data");
    let start = async || {
        let mut command = rater();
        command.args(["serve", "--migrate", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
        command.arg("--embedded-postgres").arg(&data).arg("--pricebook").arg(&book);
        let mut process = Process::spawn(command);
        let line = process.wait_for_log("listening", Duration::from_secs(60)).await;
        (process, format!("http://{}", field(&line, "address").as_str().unwrap()))
    };
    for round in 0..3 {
        let (mut process, url) = start().await;
        let mut client = rater::proto::event_service_client::EventServiceClient::connect(url).await.unwrap();
        let events = (0..10).map(|n| stage::event(&format!("e-{n}"), 10)).collect();
        let request = rater::proto::RecordEventsRequest { events, skip_invalid: false };
        let answer = client.record_events(request).await.unwrap().into_inner();
        let expected = if round == 0 { (10, 0) } else { (0, 10) };
        assert_eq!((answer.stored, answer.duplicates), expected, "round {round}");
        process.signal(Signal::SIGTERM);
        if round < 2 {
            process.signal(Signal::SIGINT);
        }
        let status = process.wait(SOON).await;
        if round == 2 {
            assert_eq!(status.code(), Some(0));
        }
    }
    eventually("its PostgreSQL is gone", async || !data.join("data/postmaster.pid").exists()).await;
}
