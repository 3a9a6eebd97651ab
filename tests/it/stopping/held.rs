//! Whoever would hold a stop, known or not: it waits for none of them to the end of its grace.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::task::JoinSet;

use crate::harness::event;
use crate::limits::raw::*;
use crate::rig::{BOOK, Rig, eventually};

const CHANGES: &str = "/rating.v1.RatingService/StreamRatedUsageChanges";

/// Each is there whenever it is asked for, and goes no further.
#[tokio::test(flavor = "multi_thread")]
async fn half_calls_and_consumers_that_take_nothing_hold_no_stop_to_its_grace() {
    let mut rig = Rig::start(BOOK, &[]).await;
    rig.insert([event("a")]).await;
    // No room for any answer: a stream's initial window is 0.
    let no_room =
        [PREFACE, &frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]), &frame(SETTINGS, ACK, 0, &[])].concat();
    let whole = [
        frame(HEADERS, END_HEADERS, 1, &headers(CHANGES)),
        frame(DATA, END_STREAM, 1, &[0, 0, 0, 0, 2, 0x10, 1]),
    ];
    let long = [&[0, 0, 0x30, 0, 0][..], &[0; 2_000]].concat();
    let mut holding = JoinSet::new();
    for first in [
        beginning(),
        [beginning(), half("/grpc.health.v1.Health/Check", 1, &[0, 0])].concat(),
        [beginning(), half("/grpc.health.v1.Health/Watch", 1, &[0, 0, 0, 0, 0])].concat(),
        [beginning(), half("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", 1, &[0, 0])].concat(),
        [beginning(), half("/rating.v1.RatingService/ListRuns", 1, &long)].concat(),
        [beginning(), half("/rating.v1.EventService/RecordEvents", 1, &long)].concat(),
        [no_room, whole.concat()].concat(),
    ] {
        let stream = connect(rig.service.address()).await;
        holding.spawn(hold(stream, first));
    }
    eventually("the calls are there", async || {
        rig.metric("rater_calls").await.is_some_and(|calls| calls == "3")
    })
    .await;
    rig.service.signal(Signal::SIGTERM);
    let told = Instant::now();
    let status = rig.service.wait(Duration::from_secs(60)).await;
    println!("gone after {:.1?}", told.elapsed());
    assert_eq!(status.code(), Some(0));
    assert!(told.elapsed() < Duration::from_secs(12), "{:?}", told.elapsed());
}
