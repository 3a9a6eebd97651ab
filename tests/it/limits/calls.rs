//! Past each limit on calls: its code, what to do about it, and no memory.

use std::fs;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use rater::proto::rating_service_client::RatingServiceClient;
use rater::proto::*;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;

use crate::harness::{Service, soak};
use crate::rig::{BOOK, Rig, eventually};
use crate::stage::{Refusal, assert_no_panic};

type Client = RatingServiceClient<Channel>;

async fn follow(client: &Client) -> Streaming<StreamRatedUsageChangesResponse> {
    let request = StreamRatedUsageChangesRequest { follow: true, ..Default::default() };
    client.clone().stream_rated_usage_changes(request).await.unwrap().into_inner()
}

async fn list(client: &Client) -> Result<(), Refusal> {
    client.clone().list_runs(ListRunsRequest::default()).await.map(drop).map_err(Refusal::from)
}

async fn health(service: &Service) -> i32 {
    let mut health = HealthClient::new(service.channel().await);
    health.check(HealthCheckRequest::default()).await.unwrap().into_inner().status
}

fn past(refused: &Refusal, reason: &str) {
    assert_eq!((refused.code, refused.reason.as_str()), (Code::ResourceExhausted, reason), "{refused:?}");
    assert!(refused.retry.is_some_and(|wait| !wait.is_zero()), "{refused:?}");
}

#[tokio::test]
async fn past_max_calls_a_call_is_told_to_come_again_and_a_stream_holds_its_place() {
    let rig = Rig::start(BOOK, &["--max-calls", "2"]).await;
    let (one, _two) = (follow(&rig.client()).await, follow(&rig.client()).await);
    past(&list(&rig.client()).await.unwrap_err(), "OVERLOADED");
    // No load makes a healthy service look dead.
    assert_eq!(health(&rig.service).await, 1);
    assert_eq!(rig.metric("rater_calls").await.unwrap(), "2");
    drop(one);
    eventually("the place is given back", async || list(&rig.client()).await.is_ok()).await;
    let refused = rig.metric(r#"rater_calls_refused_total{reason="overloaded"}"#).await.unwrap();
    assert!(refused.parse::<u32>().unwrap() >= 1);
}

#[tokio::test]
async fn a_caller_past_its_rate_is_told_when_to_come_again_and_others_are_not_kept() {
    let rig = Rig::start(BOOK, &["--max-calls-per-second", "5"]).await;
    let client = rig.client();
    let mut refused = None;
    for _ in 0..100 {
        if let Err(refusal) = list(&client).await {
            refused = Some(refusal);
            break;
        }
    }
    let refused = refused.expect("more than five in a second");
    past(&refused, "RATE_LIMITED");
    let wait = refused.retry.unwrap();
    assert!(wait <= Duration::from_millis(200), "{wait:?}");
    let other = Endpoint::from_shared(rig.service.url()).unwrap();
    let other = other.local_address(Some("127.0.0.3".parse::<IpAddr>().unwrap())).connect().await.unwrap();
    list(&RatingServiceClient::new(other)).await.unwrap();
    assert_eq!(health(&rig.service).await, 1);
    tokio::time::sleep(wait).await;
    list(&client).await.unwrap();
}

#[tokio::test]
async fn a_request_past_4_mib_is_refused_by_what_it_says_of_itself() {
    let rig = Rig::start(BOOK, &[]).await;
    let yaml = "#".repeat(4 << 20);
    let validate = ValidatePricebookRequest { pricebook_yaml: yaml.clone(), ..Default::default() };
    let rate = RateWindowRequest { pricebook_yaml: yaml, dry_run: true, ..Default::default() };
    let list = ListRunsRequest { page_token: "x".repeat(4 << 20), ..Default::default() };
    let mut client = rig.client();
    for refused in [
        client.validate_pricebook(validate).await.map(drop).unwrap_err(),
        client.rate_window(rate).await.map(drop).unwrap_err(),
        client.list_runs(list).await.map(drop).unwrap_err(),
    ] {
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        let violations = refused.get_details_bad_request().unwrap().field_violations;
        assert_eq!(violations[0].field, "request");
        assert!(violations[0].description.starts_with("TOO_LARGE"), "{violations:?}");
    }
}

#[tokio::test]
async fn a_deadline_that_is_none_is_told() {
    let rig = Rig::start(BOOK, &[]).await;
    let mut request = Request::new(ListRunsRequest::default());
    request.metadata_mut().insert("grpc-timeout", "soon".parse().unwrap());
    let refused = rig.client().list_runs(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    let violations = refused.get_details_bad_request().unwrap().field_violations;
    assert_eq!(violations[0].field, "grpc-timeout");
}

#[tokio::test]
async fn a_connection_has_so_many_calls_at_once_and_others_have_theirs() {
    let rig = Rig::start(BOOK, &["--max-streams", "2"]).await;
    let client = rig.client();
    // Until it has heard of it, a client takes the limit to be higher.
    list(&client).await.unwrap();
    let (one, _two) = (follow(&client).await, follow(&client).await);
    let waits = tokio::time::timeout(Duration::from_millis(500), list(&client)).await;
    assert!(waits.is_err(), "{waits:?}");
    list(&rig.service.client_rating().await).await.unwrap();
    drop(one);
    list(&client).await.unwrap();
}

/// A connection that is old enough is exchanged, and no call on it notices.
#[tokio::test]
async fn connections_that_are_old_are_exchanged_and_no_call_fails() {
    let rig = Rig::start(BOOK, &["--max-connection-age", "1s"]).await;
    let client = rig.client();
    let mut stream = follow(&client).await;
    let until = Instant::now() + Duration::from_secs(4);
    let (mut calls, mut unsent) = (0, 0);
    while Instant::now() < until {
        calls += 1;
        // tonic's client gives up a call that it had not sent yet, instead of sending it on the next
        // connection; whatever reached the service is answered.
        let answer = client.clone().list_runs(ListRunsRequest::default()).await;
        unsent += usize::from(answer.is_err_and(|status| {
            assert_eq!((status.code(), status.message()), (Code::Cancelled, "operation was canceled"));
            true
        }));
    }
    assert!(unsent <= 4, "{unsent} of {calls}");
    println!("{calls} calls over four ages of a connection, {unsent} of them never sent");
    // What began on an old one goes on there.
    assert!(stream.message().await.unwrap().is_some());
}

/// The most memory that was resident so far, in MiB.
fn peak(service: &Service) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", service.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() / 1024
}

/// Each sends nearly 4 MiB, and most of them more than there is room for.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_shed_takes_no_memory() {
    let rig = Rig::start(BOOK, &["--max-calls", "20", "--max-calls-per-second", "0"]).await;
    list(&rig.client()).await.unwrap();
    let idle = peak(&rig.service);
    let calls = if soak() { 3_000 } else { 400 };
    let yaml: String = "#".repeat((4 << 20) - 1_000);
    let mut flood = JoinSet::new();
    for _ in 0..8 {
        let mut client = rig.service.client_rating().await;
        let yaml = yaml.clone();
        flood.spawn(async move {
            let (mut heard, mut shed) = (0, 0);
            let mut batch = JoinSet::new();
            for _ in 0..calls / 8 {
                let (mut client, pricebook_yaml) = (client.clone(), yaml.clone());
                batch.spawn(async move {
                    let request = ValidatePricebookRequest { pricebook_yaml, ..Default::default() };
                    client.validate_pricebook(request).await
                });
                if batch.len() >= 25 {
                    count(batch.join_next().await.unwrap().unwrap(), &mut heard, &mut shed);
                }
            }
            while let Some(answer) = batch.join_next().await {
                count(answer.unwrap(), &mut heard, &mut shed);
            }
            drop(client.list_runs(ListRunsRequest::default()).await);
            (heard, shed)
        });
    }
    let (mut heard, mut shed) = (0, 0);
    while let Some(answers) = flood.join_next().await {
        let (some_heard, some_shed) = answers.unwrap();
        (heard, shed) = (heard + some_heard, shed + some_shed);
    }
    let more = peak(&rig.service) - idle;
    println!("{heard} calls of 4 MiB heard and {shed} shed: {more} MiB more at most");
    assert!(heard > 0 && shed > 0, "{heard} {shed}");
    // 64 MiB on their way and as much of what is made of them; 8 connections' windows and buffers.
    assert!(more < 300, "{more} MiB");
    list(&rig.client()).await.unwrap();
    assert_no_panic(&rig.service);
}

fn count<T>(answer: Result<T, tonic::Status>, heard: &mut usize, shed: &mut usize) {
    match answer.map(drop).map_err(Refusal::from) {
        Ok(()) => *heard += 1,
        Err(refused) if refused.code == Code::InvalidArgument => *heard += 1,
        Err(refused) => {
            past(&refused, "OVERLOADED");
            *shed += 1;
        }
    }
}
