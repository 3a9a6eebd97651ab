//! Whoever nobody knows, of good manners (they answer whenever they are asked whether they are there)
//! and from several addresses: they keep out nobody who is known, and fail no health check.

use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::raw::*;
use crate::access::guarded::{Files, Guarded, LIST_RUNS, call, call_as, subject};
use crate::harness::{Service, soak};
use crate::rig::{BOOK, Rig, eventually, http_get};
use crate::stage::assert_no_panic;

const CHECK: &str = "/grpc.health.v1.Health/Check";
const WATCH: &str = "/grpc.health.v1.Health/Watch";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

/// A service that knows its callers by their tokens.
async fn guarded(more: &[&str]) -> Guarded {
    let files = Files::new();
    files.serve_with(&[("--pricebook", "book.yaml"), ("--identities", "identities.yaml")], more).await
}

async fn channel(service: &Service) -> Channel {
    Endpoint::from_shared(service.url()).unwrap().connect().await.unwrap()
}

async fn is_healthy(service: &Service) -> bool {
    let mut health = HealthClient::new(channel(service).await);
    let answer = health.check(HealthCheckRequest::default()).await;
    answer.is_ok_and(|answer| answer.into_inner().status == 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn half_asked_questions_fail_nobodys_health_check() {
    let rig = guarded(&[]).await;
    let (mut holding, mut first) = (JoinSet::new(), beginning());
    for call in 0..190 {
        first.extend(half(CHECK, 2 * call + 1, &[0, 0]));
    }
    for path in [WATCH, REFLECTION] {
        for call in 0..190 {
            let stream = 381 + 2 * call + if path == WATCH { 0 } else { 380 };
            first.extend(half(path, stream, &[0, 0]));
        }
    }
    for _ in 0..4 {
        let stream = connect(rig.service.address()).await;
        holding.spawn(hold(stream, first.clone()));
    }
    let until = Instant::now() + Duration::from_secs(4);
    let mut checks = 0;
    while Instant::now() < until {
        assert!(is_healthy(&rig.service).await, "after {checks}");
        checks += 1;
    }
    println!("{checks} health checks while 2,280 questions are half asked");
    assert_no_panic(&rig.service);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_connection_may_watch_the_health() {
    let rig = Rig::start(BOOK, &[]).await;
    let mut watches = Vec::new();
    for n in 0..140 {
        let mut health = HealthClient::new(channel(&rig.service).await);
        let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
        assert_eq!(watch.message().await.unwrap().unwrap().status, 1, "{n}");
        watches.push(watch);
    }
    // One connection has a few.
    let health = HealthClient::new(channel(&rig.service).await);
    let mut refused = None;
    for _ in 0..20 {
        match health.clone().watch(HealthCheckRequest::default()).await {
            Ok(watch) => watches.push(watch.into_inner()),
            Err(status) => refused = Some(status.code()),
        }
    }
    assert_eq!(refused, Some(Code::ResourceExhausted));
}

/// From two addresses, which together have all places.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_only_hold_on_keep_no_caller_out() {
    let connections = if soak() { 1_000 } else { 40 };
    let rig = guarded(&["--max-connections", &connections.to_string()]).await;
    let token = rig.files.signer.token(&subject("operator"));
    let mut holding = JoinSet::new();
    for n in 0..connections {
        let from = ["127.0.0.2", "127.0.0.3"][n % 2];
        let stream = connect_from(from, rig.service.address(), None).await;
        // Being healthy proves nothing about whoever asks.
        let asks = [beginning(), half(WATCH, 1, &[0, 0, 0, 0, 0])].concat();
        holding.spawn(hold(stream, if n % 4 == 0 { asks } else { beginning() }));
    }
    eventually("all places are taken", async || {
        rig.metric("rater_connections").await.is_some_and(|open| open == connections.to_string())
    })
    .await;
    let (mut known, mut longest) = (Vec::new(), Duration::ZERO);
    for n in 0..10 {
        let began = Instant::now();
        let channel = channel(&rig.service).await;
        let (code, reason) = call_as(&channel, LIST_RUNS, &token).await.unwrap();
        assert_eq!(code, Code::Ok, "caller {n}: {reason}");
        longest = longest.max(began.elapsed());
        known.push(channel);
    }
    assert!(longest < super::A_SECOND, "{longest:?}");
    println!("{connections} that hold on, 10 callers: served within {longest:.1?}");
    // They stay, whoever else comes.
    for _ in 0..10 {
        let stream = connect_from("127.0.0.4", rig.service.address(), None).await;
        holding.spawn(hold(stream, beginning()));
    }
    for channel in &known {
        assert_eq!(call_as(channel, LIST_RUNS, &token).await.unwrap().0, Code::Ok);
    }
}

/// Each is answered before it is reset: it is refused.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_that_reset_calls_are_closed_within_ten_seconds() {
    let rig = guarded(&["--max-calls-per-second", "0"]).await;
    let mut attacks = JoinSet::new();
    for _ in 0..if soak() { 1_000 } else { 20 } {
        let mut stream = connect(rig.service.address()).await;
        attacks.spawn(async move {
            let began = Instant::now();
            stream.write_all(&beginning()).await.unwrap();
            let (block, mut next) = (headers(LIST_RUNS), 1);
            let more = move || {
                let mut bytes = Vec::new();
                for _ in 0..10 {
                    bytes.extend(frame(HEADERS, END_HEADERS, next, &block));
                    bytes.extend(frame(RST_STREAM, 0, next, &8_u32.to_be_bytes()));
                    next += 2;
                }
                bytes
            };
            closed_while_sending(stream, began, more, Duration::from_millis(20)).await
        });
    }
    let closed = attacks.join_all().await;
    let last = closed.iter().max().unwrap();
    println!("{} strangers that reset calls: closed within {last:.1?}", closed.len());
    assert!(*last <= Duration::from_secs(10), "{last:?}");
    assert_no_panic(&rig.service);
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_refused_at_a_rate_that_costs_nobody_else_anything() {
    let rig = guarded(&[]).await;
    let token = rig.files.signer.token(&subject("operator"));
    let known = channel(&rig.service).await;
    let mut strangers = JoinSet::new();
    for _ in 0..6 {
        let channel = channel(&rig.service).await;
        strangers.spawn(async move {
            let mut refused = Vec::new();
            // One that goes on for longer is closed.
            for _ in 0..450 {
                refused.push(call(channel.clone(), LIST_RUNS, &[], &[]).await.unwrap().0);
            }
            refused
        });
    }
    let refused = strangers.join_all().await.concat();
    let of = |code| refused.iter().filter(|refused| **refused == code).count();
    let (told, untold) = (of(Code::Unauthenticated), of(Code::ResourceExhausted));
    println!("{told} refusals were told why, and {untold} were too many");
    assert!(told >= 1_500 && untold > 0 && told + untold == refused.len(), "{told} {untold}");
    assert_eq!(call_as(&known, LIST_RUNS, &token).await.unwrap().0, Code::Ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_holds_on_to_the_admin_page_keeps_no_probe_out() {
    let rig = Rig::start(BOOK, &[]).await;
    let files = || std::fs::read_dir(format!("/proc/{}/fd", rig.service.pid())).unwrap().count();
    let (before, mut attacks) = (files(), JoinSet::new());
    for n in 0..600 {
        let mut stream =
            connect_from(["127.0.0.2", "127.0.0.3"][n % 2], rig.service.admin_address(), None).await;
        attacks.spawn(async move {
            let began = Instant::now();
            // It may be closed already.
            let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x").await;
            closed(&mut stream, began).await
        });
    }
    let began = Instant::now();
    let healthy = http_get(rig.service.admin_address(), "/healthz").await;
    assert!(healthy.starts_with("HTTP/1.1 200"), "{healthy}");
    assert!(began.elapsed() < super::A_SECOND, "{:?}", began.elapsed());
    let most = files();
    assert!(most < before + 150, "{most} files, and {before} before");
    let closed = attacks.join_all().await;
    let last = closed.iter().max().unwrap();
    println!(
        "600 that hold on to the admin page: {} files more, closed within {last:.1?}",
        most - before.min(most)
    );
    assert!(*last < Duration::from_secs(15), "{last:?}");
}
