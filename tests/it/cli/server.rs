//! What a client finds without the contract at hand: reflection and health.

use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::harness::{Service, event, run};
use crate::rig::{BOOK, Rig, backfill, eventually};

const OURS: [&str; 2] = ["rating.v1.RatingService", "rating.v1.EventService"];

macro_rules! services {
    ($version:ident, $channel:expr) => {{
        use tonic_reflection::pb::$version as pb;
        let request = pb::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(pb::server_reflection_request::MessageRequest::ListServices("*".into())),
        };
        let mut client = pb::server_reflection_client::ServerReflectionClient::new($channel);
        let asked = client.server_reflection_info(tokio_stream::iter([request])).await.unwrap();
        let answer = asked.into_inner().message().await.unwrap().unwrap().message_response.unwrap();
        match answer {
            pb::server_reflection_response::MessageResponse::ListServicesResponse(list) => {
                list.service.into_iter().map(|service| service.name).collect::<Vec<_>>()
            }
            other => panic!("{other:?}"),
        }
    }};
}

#[tokio::test]
async fn reflection_lists_both_services_in_both_versions() {
    let rig = Rig::start(BOOK, &[]).await;
    for names in [services!(v1, rig.service.channel().await), services!(v1alpha, rig.service.channel().await)]
    {
        assert!(OURS.iter().all(|ours| names.iter().any(|name| name == ours)), "{names:?}");
    }
}

/// A way to a database that can be cut.
async fn wire(address: &str, upstream: String) -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    let work = async move {
        let mut connections = JoinSet::new();
        while let Ok((mut client, _)) = listener.accept().await {
            let upstream = upstream.clone();
            connections.spawn(async move {
                let mut server = TcpStream::connect(upstream).await.unwrap();
                drop(copy_bidirectional(&mut client, &mut server).await);
            });
        }
    };
    (address, tokio::spawn(work))
}

async fn statuses(service: &Service) -> Vec<ServingStatus> {
    let mut client = HealthClient::new(service.channel().await);
    let mut found = Vec::new();
    for name in ["", OURS[0], OURS[1]] {
        let request = HealthCheckRequest { service: name.into() };
        found.push(client.check(request).await.unwrap().into_inner().status());
    }
    found
}

#[tokio::test]
async fn health_follows_the_database_and_comes_back_by_itself() {
    let rig = Rig::with_events([event("a")]).await;
    let (before, rest) = rig.db.url.split_once("127.0.0.1:").unwrap();
    let (port, after) = rest.split_once('/').unwrap();
    let (address, cut) = wire("127.0.0.1:0", format!("127.0.0.1:{port}")).await;
    let url = format!("{before}{address}/{after}");
    let book = rig.book_path();
    let service = Service::start(&url, &["--pricebook", book.to_str().unwrap()]).await;
    assert_eq!(statuses(&service).await, [ServingStatus::Serving; 3]);
    // The command blocks this thread, and the wire lives on it.
    let health = async |service: &Service| {
        let url = service.url();
        tokio::task::spawn_blocking(move || run(&url, &["health"])).await.unwrap()
    };
    let healthy = health(&service).await;
    assert_eq!((healthy.code(), healthy.stdout.as_str()), (Some(0), "SERVING\n"));

    cut.abort();
    drop(cut.await);
    eventually("it says so", async || statuses(&service).await == [ServingStatus::NotServing; 3]).await;
    let away = health(&service).await;
    assert_eq!((away.code(), away.stdout.as_str()), (Some(1), "NOT_SERVING\n"));
    let mut client = service.client_rating().await;
    let failure = rater::grpc::client::Failure::from(client.rate_window(backfill(10, 11)).await.unwrap_err());
    assert_eq!(
        (failure.code, failure.reason.as_str()),
        ("UNAVAILABLE", "DATABASE_UNAVAILABLE"),
        "{failure:?}"
    );
    assert!(failure.retry_after.is_some() && !failure.message.contains("127.0.0.1"), "{failure:?}");

    let (_, back) = wire(&address.to_string(), format!("127.0.0.1:{port}")).await;
    eventually("it is back", async || statuses(&service).await == [ServingStatus::Serving; 3]).await;
    client.rate_window(backfill(10, 11)).await.unwrap();
    assert_eq!(rig.rows().await.len(), 1);
    back.abort();
}

#[tokio::test]
async fn health_of_a_service_that_is_not_there_is_a_failure_in_one_line() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let output = run(&url, &["health"]);
    assert_eq!((output.code(), output.stdout.as_str(), output.stderr.lines().count()), (Some(1), "", 1));
    let rig = Rig::start(BOOK, &[]).await;
    let unknown = run(&rig.service.url(), &["health", "--service", "no.such.Service"]);
    assert_eq!((unknown.code(), unknown.stdout.as_str()), (Some(1), ""));
    assert_eq!(run(&rig.service.url(), &["health", "--service", OURS[1]]).stdout, "SERVING\n");
}
