//! Connections of whoever means no good, many of each kind. All are closed within ten seconds, and
//! meanwhile whoever comes anew is served as always.

use std::fs;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::raw::*;
use super::{A_SECOND, Fresh};
use crate::harness::{Service, soak, temp_dir};
use crate::rig::{BOOK, Rig, eventually};
use crate::stage::assert_no_panic;

const PATH: &str = "/rating.v1.RatingService/GetRun";
/// Within which every one of them is closed.
const CLOSED_WITHIN: Duration = Duration::from_secs(10);

/// 1,000, or as many as are soon done.
fn many() -> usize {
    if soak() { 1_000 } else { 200 }
}

/// Runs `attack` on so many connections at once: how long after its beginning each was closed.
async fn attacked<F>(
    service: &Service,
    connections: usize,
    attack: impl Fn(TcpStream, Instant) -> F,
) -> Vec<Duration>
where
    F: Future<Output = Duration> + Send + 'static,
{
    let mut attacks = JoinSet::new();
    for _ in 0..connections {
        let stream = connect(service.address()).await;
        attacks.spawn(attack(stream, Instant::now()));
    }
    attacks.join_all().await
}

async fn holds(what: &str, service: &Service, fresh: Fresh, closed: Vec<Duration>) {
    let (p99, calls) = fresh.p99().await;
    let (first, last) = (closed.iter().min().unwrap(), closed.iter().max().unwrap());
    println!(
        "{} {what}: closed after {first:.1?} to {last:.1?}; {calls} fresh callers, 99 % within {p99:.1?}",
        closed.len()
    );
    assert!(*last <= CLOSED_WITHIN, "{what}: {last:?}");
    assert!(p99 < A_SECOND, "{what}: {p99:?}");
    assert_no_panic(service);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_never_speak_are_closed_and_keep_nobody_out() {
    let rig = Rig::start(BOOK, &[]).await;
    let fresh = Fresh::callers(&rig.service);
    let attack = async |mut stream: TcpStream, began| closed(&mut stream, began).await;
    let closed = attacked(&rig.service, many(), attack).await;
    holds("that never speak", &rig.service, fresh, closed).await;
    let silent = rig.metric(r#"rater_connections_refused_total{reason="silent"}"#).await.unwrap();
    assert!(silent.parse::<usize>().unwrap() > 0);
}

/// More than may wait at once: the oldest of whoever has most make place, and no others.
#[tokio::test(flavor = "multi_thread")]
async fn silence_without_end_keeps_nobody_out() {
    let rig = Rig::start(BOOK, &["--first-byte-timeout", "60s"]).await;
    let fresh = Fresh::callers(&rig.service);
    let mut held = Vec::new();
    for _ in 0..1_500 {
        held.push(connect(rig.service.address()).await);
    }
    let (p99, calls) = fresh.p99().await;
    println!("1500 that never speak, one after the other: {calls} fresh callers, 99 % within {p99:.1?}");
    assert!(p99 < A_SECOND, "{p99:?}");
    // The last of them may still wait to be accepted.
    eventually("the oldest make place", async || {
        let crowded = rig.metric(r#"rater_connections_refused_total{reason="crowded_out"}"#).await.unwrap();
        crowded.parse::<usize>().unwrap() >= 900
    })
    .await;
    assert_no_panic(&rig.service);
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_frame_or_headers_byte_by_byte_are_closed_and_keep_nobody_out() {
    let rig = Rig::start(BOOK, &[]).await;
    let fresh = Fresh::callers(&rig.service);
    let half = async |mut stream: TcpStream, began| {
        let headers = frame(HEADERS, END_HEADERS | END_STREAM, 1, &headers(PATH));
        stream.write_all(&[&beginning()[..], &headers[..20]].concat()).await.unwrap();
        closed(&mut stream, began).await
    };
    let drip = async |mut stream: TcpStream, began| {
        let headers = frame(HEADERS, END_HEADERS | END_STREAM, 1, &headers(PATH));
        stream.write_all(&beginning()).await.unwrap();
        let mut bytes = headers.into_iter();
        closed_while_sending(stream, began, || vec![bytes.next().unwrap()], Duration::from_millis(400)).await
    };
    let quiet = async |mut stream: TcpStream, began| {
        stream.write_all(&beginning()).await.unwrap();
        closed(&mut stream, began).await
    };
    let (half, drip, quiet) = tokio::join!(
        attacked(&rig.service, many() / 3, half),
        attacked(&rig.service, many() / 3, drip),
        attacked(&rig.service, many() / 3, quiet),
    );
    let closed = [half, drip, quiet].concat();
    holds("of slow headers, half frames and nothing more", &rig.service, fresh, closed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_reset_at_once_end_their_connection_and_keep_nobody_out() {
    let rig = Rig::start(BOOK, &[]).await;
    let fresh = Fresh::callers(&rig.service);
    let attack = async |mut stream: TcpStream, began| {
        stream.write_all(&beginning()).await.unwrap();
        let block = headers(PATH);
        let mut next = 1;
        let more = move || {
            let mut bytes = Vec::new();
            for _ in 0..100 {
                bytes.extend(frame(HEADERS, END_HEADERS, next, &block));
                bytes.extend(frame(RST_STREAM, 0, next, &8_u32.to_be_bytes()));
                next += 2;
            }
            bytes
        };
        closed_while_sending(stream, began, more, Duration::ZERO).await
    };
    let closed = attacked(&rig.service, many(), attack).await;
    holds("of rapid resets", &rig.service, fresh, closed).await;
}

/// One at a time, each begun before it is reset, as no count of pending resets sees.
#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_reset_one_by_one_end_their_connection_too() {
    let rig = Rig::start(BOOK, &["--max-calls-per-second", "0"]).await;
    let fresh = Fresh::callers(&rig.service);
    let attack = async |mut stream: TcpStream, began| {
        stream.write_all(&beginning()).await.unwrap();
        let block = headers(PATH);
        let (mut next, mut open) = (1, false);
        let more = move || {
            open = !open;
            if open {
                return frame(HEADERS, END_HEADERS, next, &block);
            }
            next += 2;
            frame(RST_STREAM, 0, next - 2, &8_u32.to_be_bytes())
        };
        closed_while_sending(stream, began, more, Duration::from_millis(1)).await
    };
    let closed = attacked(&rig.service, 20, attack).await;
    holds("of resets one by one", &rig.service, fresh, closed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_without_end_are_closed_and_take_no_memory() {
    let rig = Rig::start(BOOK, &[]).await;
    let fresh = Fresh::callers(&rig.service);
    let attack = async |mut stream: TcpStream, began| {
        stream.write_all(&beginning()).await.unwrap();
        stream.write_all(&frame(HEADERS, 0, 1, &headers(PATH))).await.unwrap();
        let field = [&[0, 1, b'x', 100][..], &[b'y'; 100]].concat();
        let more = move || frame(CONTINUATION, 0, 1, &field.repeat(100));
        closed_while_sending(stream, began, more, Duration::ZERO).await
    };
    let closed = attacked(&rig.service, many() / 4, attack).await;
    holds("of headers without end", &rig.service, fresh, closed).await;
}

/// Who asks and never reads what it is answered.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_takes_nothing_is_closed() {
    let rig = Rig::start(BOOK, &[]).await;
    let fresh = Fresh::callers(&rig.service);
    let attack = async |mut stream: TcpStream, began: Instant| {
        stream.write_all(&beginning()).await.unwrap();
        // Pings, whose answers are not read: as many as the connection takes.
        let pings = frame(6, 0, 0, b"whatever").repeat(4_000);
        let sent = async { while stream.write_all(&pings).await.is_ok() {} };
        tokio::time::timeout(Duration::from_secs(60), sent).await.expect("closed within a minute");
        began.elapsed()
    };
    let mut attacks = JoinSet::new();
    for _ in 0..3 {
        let stream = connect_with(rig.service.address(), Some(4096)).await;
        attacks.spawn(attack(stream, Instant::now()));
    }
    let closed = attacks.join_all().await;
    holds("that take nothing", &rig.service, fresh, closed).await;
}

/// It answers when it is asked whether it is there, and is left alone.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_client_of_good_manners_stays() {
    let rig = Rig::start(BOOK, &[]).await;
    let mut health = HealthClient::new(rig.service.channel().await);
    health.check(HealthCheckRequest::default()).await.unwrap();
    let before = rig.metric("rater_connections").await.unwrap();
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(rig.metric("rater_connections").await.unwrap(), before);
    health.check(HealthCheckRequest::default()).await.unwrap();
}

/// Past the places a connection is closed at once, and one address never has all of them.
#[tokio::test(flavor = "multi_thread")]
async fn one_address_takes_half_of_the_places_and_leaves_the_others() {
    let rig = Rig::start(BOOK, &["--max-connections", "40"]).await;
    let mut theirs = Vec::new();
    for _ in 0..30 {
        let mut stream = connect(rig.service.address()).await;
        stream.write_all(&beginning()).await.unwrap();
        theirs.push(stream);
    }
    eventually("half of the places are taken, and no more", async || {
        let refused = rig.metric(r#"rater_connections_refused_total{reason="full"}"#).await;
        refused.is_some_and(|count| count == "10")
    })
    .await;
    for _ in 0..10 {
        rig.service.channel().await;
    }
    drop(theirs);
    eventually("the places are given back", async || {
        rig.metric("rater_connections").await.unwrap().parse::<u32>().unwrap() < 12
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_open_tls_handshakes_are_closed_and_keep_nobody_out() {
    let dir = temp_dir();
    let made = rcgen::generate_simple_self_signed(["localhost".to_string()]).unwrap();
    let (cert, key) = (dir.path().join("tls.crt"), dir.path().join("tls.key"));
    fs::write(&cert, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let book = dir.path().join("book.yaml");
    fs::write(&book, BOOK).unwrap();
    let db = crate::harness::database().await;
    let [cert, key, book] = [&cert, &key, &book].map(|path| path.to_str().unwrap());
    let arguments = ["--pricebook", book, "--tls-cert", cert, "--tls-key", key];
    let service = Service::start(&db.url, &arguments).await;
    let pem = made.cert.pem();
    let url = format!("https://{}", service.address());
    let fresh = Fresh::come(move || {
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&pem)).domain_name("localhost");
        let endpoint = Endpoint::from_shared(url.clone()).unwrap().tls_config(tls).unwrap();
        async move { endpoint.connect().await.unwrap() }
    });
    let attack = async |mut stream: TcpStream, began| {
        // A record's header, and the beginning of a ClientHello that never ends.
        stream.write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3]).await.unwrap();
        closed(&mut stream, began).await
    };
    let closed = attacked(&service, many(), attack).await;
    holds("of half a TLS handshake", &service, fresh, closed).await;
}
