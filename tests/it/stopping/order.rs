//! What comes first: whoever asks is told that the service is not ready, before anything ends.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rater::proto::*;
use tokio::net::TcpStream;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::harness::event;
use crate::rig::{BOOK, Rig, backfill, eventually, http_get};
use crate::stage::Refusal;

const SERVING: i32 = 1;
const NOT_SERVING: i32 = 2;

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_is_told_at_once_and_what_is_in_flight_ends_well() {
    let mut rig = Rig::with_events([event("a")]).await;
    // Everything that goes on for as long as somebody listens.
    let mut health = HealthClient::new(rig.service.channel().await);
    let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status, SERVING);
    let request = StreamRatedUsageChangesRequest { follow: true, ..Default::default() };
    let mut changes = rig.client().stream_rated_usage_changes(request).await.unwrap().into_inner();
    // And a call that takes its time.
    let hold = rig.hold_writes().await;
    let mut client = rig.client();
    let run = tokio::spawn(async move { client.rate_window(backfill(10, 11)).await });
    rig.until_blocked(1).await;

    rig.service.signal(Signal::SIGTERM);
    let told = Instant::now();
    assert_eq!(watch.message().await.unwrap().unwrap().status, NOT_SERVING);
    println!("not serving after {:.1?}", told.elapsed());
    let end = loop {
        match watch.message().await {
            Ok(again) => assert_eq!(again.unwrap().status, NOT_SERVING),
            Err(end) => break Refusal::from(end),
        }
    };
    assert_eq!((end.code, end.reason.as_str()), (Code::Unavailable, "SHUTTING_DOWN"), "{end:?}");
    let ready = http_get(rig.service.admin_address(), "/readyz").await;
    assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("service: stopping"), "{ready}");
    let end = loop {
        if let Err(end) = changes.message().await {
            break Refusal::from(end);
        }
    };
    assert_eq!((end.code, end.reason.as_str()), (Code::Unavailable, "SHUTTING_DOWN"), "{end:?}");
    eventually("nobody is let in any more", async || {
        TcpStream::connect(rig.service.address()).await.is_err()
    })
    .await;
    assert!(rig.service.ended().is_none(), "a call is in flight");
    hold.rollback().await.unwrap();
    let result = run.await.unwrap().unwrap().into_inner().result.unwrap();
    assert_eq!(result.inserted_rollups, 1);
    assert_eq!(rig.service.wait(Duration::from_secs(10)).await.code(), Some(0));
}

/// A connection that has not begun, one that is idle, and one that asks about the contract.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_only_holds_a_connection_keeps_no_stop() {
    let mut rig = Rig::start(BOOK, &[]).await;
    let _silent = TcpStream::connect(rig.service.address()).await.unwrap();
    let _idle = rig.service.channel().await;
    let mut reflection = tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient::new(
        rig.service.channel().await,
    );
    let questions = tokio_stream::pending();
    let mut answers = reflection.server_reflection_info(questions).await.unwrap().into_inner();
    rig.service.signal(Signal::SIGTERM);
    let told = Instant::now();
    assert_eq!(rig.service.wait(Duration::from_secs(10)).await.code(), Some(0));
    println!("out after {:.1?}", told.elapsed());
    assert!(told.elapsed() < Duration::from_secs(3), "{:?}", told.elapsed());
    // Or its own end, where that is sooner: nothing of it was asked.
    if let Some(end) = answers.message().await.map_err(Refusal::from).err() {
        assert_eq!(end.reason, "SHUTTING_DOWN", "{end:?}");
    }
}
