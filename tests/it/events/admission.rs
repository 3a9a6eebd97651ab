//! Room is bounded: however many calls come at once, with whatever bodies and at whatever pace, the
//! service holds no more of them than it has places and bytes for, and one that crawls takes neither
//! from the others.

use std::fs;
use std::time::{Duration, Instant};

use rater::grpc::events::EventServer;
use rater::service::record_events::EventIntake;
use rater::store::{Db, DbOptions};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Code;
use tonic::codegen::Bytes;
use tonic::transport::{Channel, Endpoint};

use super::call::{Refused, Sent, call, request, send};
use crate::harness::{Service, TestDb, database, soak};
use crate::stage::{Stage, assert_no_panic, event, record};

/// As many events as a batch may have, in a little less than 4 MiB.
fn large() -> Bytes {
    let events = (0..10_000).map(|n| rater::proto::BillingEvent {
        finish_reason: "f".repeat(60),
        group_id: "g".repeat(32),
        model: "m".repeat(250),
        ..event(&format!("{n:030}"), 1)
    });
    let bytes = request(events.collect(), false);
    assert!((3_900_000..4_194_304).contains(&bytes.len()), "{}", bytes.len());
    bytes
}

/// The most memory that was resident so far, in MiB.
fn peak(service: &Service) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", service.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() / 1024
}

fn overloaded(refused: &Refused) {
    assert_eq!(
        (refused.code, refused.reason.as_str()),
        (Code::ResourceExhausted, "OVERLOADED"),
        "{refused:?}"
    );
    assert!(refused.retry.is_some_and(|wait| !wait.is_zero()), "{refused:?}");
}

/// What all bodies on their way may take, in batches of the largest kind.
const ARRIVING: usize = 16;

/// Each call sends all of 4 MiB but its last byte, and only then is any of them let on: without a
/// bound the service holds them all.
#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_large_calls_at_once_take_no_more_memory_than_there_is_room() {
    const PLACES: usize = 4;
    let calls = if soak() { 1_000 } else { 300 };
    let stage = Stage::new().await;
    let service = stage.service(&["--max-batches", &PLACES.to_string(), "--max-calls-per-second", "0"]).await;
    let bytes = large();
    let idle = peak(&service);
    let (release, held) = watch::channel(true);
    let mut all = JoinSet::new();
    let mut channels = Vec::new();
    for _ in 0..12 {
        channels.push(service.channel().await);
    }
    for n in 0..calls {
        let channel = channels[n % channels.len()].clone();
        let sent = Sent { bytes: bytes.clone(), timeout: None, held: Some(held.clone()) };
        all.spawn(async move { send(&channel, sent).await });
    }
    for _ in ARRIVING..calls {
        let refused = all.join_next().await.unwrap().unwrap();
        overloaded(&refused.expect_err("none is whole until they are released"));
    }
    release.send_replace(false);
    let (mut stored, mut known) = (0, 0);
    while let Some(answer) = all.join_next().await {
        match answer.unwrap() {
            Ok(answer) => (stored, known) = (stored + answer.stored, known + answer.duplicates),
            Err(refused) => overloaded(&refused),
        }
    }
    assert_eq!((stored, known % 10_000), (10_000, 0));
    let most = peak(&service) - idle;
    println!("{calls} calls of 4 MiB, {PLACES} places: {idle} MiB idle, {most} MiB more at most");
    assert!(most < 24 * PLACES as u64 + 4 * ARRIVING as u64 + 48, "{most} MiB");
    // Everybody at once, and at full speed.
    for n in 0..calls {
        let (channel, bytes) = (channels[n % channels.len()].clone(), bytes.clone());
        all.spawn(async move { call(&channel, bytes).await });
    }
    let mut done = 0;
    while let Some(answer) = all.join_next().await {
        match answer.unwrap() {
            Ok(answer) => done += i32::from(answer.duplicates == 10_000),
            Err(refused) => overloaded(&refused),
        }
    }
    assert!(done > 0);
    let most = peak(&service) - idle;
    println!("{done} of {calls} more were stored: {most} MiB more at most");
    assert!(most < 24 * PLACES as u64 + 4 * ARRIVING as u64 + 48, "{most} MiB");
    assert_eq!(record(&service, &[event("afterwards", 0)]).await.unwrap().stored, 1);
    assert_no_panic(&service);
}

/// A server with one place, in this process.
async fn one_place(arrives_within: Duration) -> (TestDb, EventIntake, Channel) {
    server(1, arrives_within).await
}

async fn server(places: usize, arrives_within: Duration) -> (TestDb, EventIntake, Channel) {
    let db = database().await;
    let options =
        DbOptions { url: db.url.clone(), max_connections: 4, acquire_timeout: Duration::from_secs(10) };
    let intake = EventIntake::new(Db::new(&options).unwrap(), places, Default::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = EventServer::new(intake.clone()).arriving_within(arrives_within);
    let server = tonic::transport::Server::builder().add_service(server);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    (db, intake, Endpoint::from_shared(url).unwrap().connect().await.unwrap())
}

fn crawling(timeout: Option<&'static str>) -> (watch::Sender<bool>, Sent) {
    let (release, held) = watch::channel(true);
    (release, Sent { bytes: request(vec![event("slow", 0)], false), timeout, held: Some(held) })
}

#[tokio::test]
async fn a_batch_that_crawls_in_is_given_up() {
    let (db, _, channel) = one_place(Duration::from_millis(300)).await;
    let (_release, sent) = crawling(None);
    let refused = send(&channel, sent).await.unwrap_err();
    assert_eq!((refused.code, refused.reason.as_str()), (Code::DeadlineExceeded, "BATCH_TOO_SLOW"));
    assert_eq!(call(&channel, request(vec![event("next", 0)], false)).await.unwrap().stored, 1);
    let count: i64 =
        sqlx::query_scalar("SELECT count(*) FROM billing_event").fetch_one(db.pool()).await.unwrap();
    assert_eq!(count, 1);
}

/// More of them than there are places, on the connection of the others, and for ever.
#[tokio::test]
async fn batches_that_crawl_in_keep_no_other_out() {
    // One for the good ones in turn, and one so that a crawling one which comes later is let in.
    let (_db, intake, channel) = server(2, Duration::from_secs(3600)).await;
    let mut crawling_ = JoinSet::new();
    let mut releases = Vec::new();
    for _ in 0..64 {
        let (release, sent) = crawling(None);
        releases.push(release);
        let channel = channel.clone();
        crawling_.spawn(async move { send(&channel, sent).await });
    }
    for n in 0..30 {
        let good = request(vec![event(&format!("good-{n}"), 0)], false);
        assert_eq!(call(&channel, good).await.unwrap().stored, 1);
    }
    // They are still on their way, and each gets its place when it is whole.
    assert!(crawling_.try_join_next().is_none());
    let places = [intake.admit().unwrap(), intake.admit().unwrap()];
    releases.pop().unwrap().send_replace(false);
    overloaded(&crawling_.join_next().await.unwrap().unwrap().unwrap_err());
    drop(places);
    releases.pop().unwrap().send_replace(false);
    assert_eq!(crawling_.join_next().await.unwrap().unwrap().unwrap().stored, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_batches_are_on_their_way_than_may_be_however_small_they_are() {
    const MOST: usize = 1024;
    let stage = Stage::new().await;
    let service = stage.service(&["--max-calls-per-second", "0"]).await;
    // More than the first KiB, for which there is less time than a busy machine takes for all of them.
    let bytes = request((0..40).map(|n| event(&format!("slow-{n}"), 0)).collect(), false);
    assert!(bytes.len() > 1024);
    let (mut crawlers, mut releases) = (JoinSet::new(), Vec::new());
    for _ in 0..8 {
        let channel = service.channel().await;
        for _ in 0..140 {
            let (release, sent) = crawling(None);
            let sent = Sent { bytes: bytes.clone(), ..sent };
            releases.push(release);
            let channel = channel.clone();
            crawlers.spawn(async move { send(&channel, sent).await });
        }
    }
    for _ in MOST..releases.len() {
        overloaded(&crawlers.join_next().await.unwrap().unwrap().unwrap_err());
    }
    assert!(crawlers.try_join_next().is_none());
    // Room is given back.
    for release in &releases {
        release.send_replace(false);
    }
    while let Some(answer) = crawlers.join_next().await {
        drop(answer.unwrap().map_err(|refused| overloaded(&refused)));
    }
    assert_eq!(record(&service, &[event("afterwards", 0)]).await.unwrap().stored, 1);
    assert_no_panic(&service);
}

#[tokio::test]
async fn a_callers_own_deadline_ends_a_batch_that_crawls_in() {
    let (_db, _, channel) = one_place(Duration::from_secs(3600)).await;
    let (_release, sent) = crawling(Some("4S"));
    let began = Instant::now();
    let refused = send(&channel, sent).await.unwrap_err();
    assert_eq!((refused.code, refused.reason.as_str()), (Code::DeadlineExceeded, "DEADLINE_PASSED"));
    assert!(began.elapsed() < Duration::from_secs(20));
    assert_eq!(call(&channel, request(vec![event("next", 0)], false)).await.unwrap().stored, 1);
}

#[tokio::test]
async fn a_call_past_the_places_is_answered_before_it_sends_anything() {
    let (_db, intake, channel) = one_place(Duration::from_secs(3600)).await;
    let place = intake.admit().unwrap();
    // Not even the beginning of a message comes before the answer.
    let (_release, mut sent) = crawling(None);
    sent.bytes = sent.bytes.slice(..1);
    overloaded(&send(&channel, sent).await.unwrap_err());
    drop(place);
    assert_eq!(call(&channel, request(vec![event("next", 0)], false)).await.unwrap().stored, 1);
}
