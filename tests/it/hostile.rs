//! Input that no client of ours would send: random bytes, broken frames, messages that are valid
//! on the wire and nonsense in every field. Nothing panics, nothing of the inside gets out, and
//! the service answers on.

mod call;
mod nonsense;

use std::time::{Duration, SystemTime};

use prost_reflect::{DescriptorPool, MethodDescriptor};
use rater::proto::{DESCRIPTOR_SET, GetRatedUsageRequest};
use tonic::Code;

use call::{Answer, Call};

use crate::events::Random;
use crate::harness::{Service, soak};
use crate::stage::{Refusal, Stage, assert_clean, assert_no_panic, event, record, until};

const GRPC: &str = "application/grpc";
const RATE: &str = "/rating.v1.RatingService/RateWindow";

/// Every method of ours.
fn methods() -> Vec<MethodDescriptor> {
    let pool = DescriptorPool::decode(DESCRIPTOR_SET).unwrap();
    let ours = pool.services().filter(|service| service.full_name().starts_with("rating.v1."));
    ours.flat_map(|service| service.methods().collect::<Vec<_>>()).collect()
}

fn path(method: &MethodDescriptor) -> String {
    format!("/{}/{}", method.parent_service().full_name(), method.name())
}

/// Printed, so that what failed can be had again: `RATER_SEED=… cargo test hostile`.
fn seed() -> u64 {
    let given = std::env::var("RATER_SEED").ok().and_then(|seed| seed.parse().ok());
    let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let seed = given.unwrap_or(if soak() { clock } else { 20_260_601 }) | 1;
    println!("RATER_SEED={seed}");
    seed
}

/// An answer that may be given to nonsense.
fn assert_answer(answer: &Answer, what: &str) {
    assert_clean(&answer.message);
    assert_clean(&answer.details);
    assert!(!answer.message.contains("internal error"), "{what}: {answer:?}");
    assert!(!answer.details.contains("INTERNAL"), "{what}: {answer:?}");
    assert_ne!(answer.code, Some(Code::Unknown), "{what}: {answer:?}");
    assert_ne!(answer.code, Some(Code::DataLoss), "{what}: {answer:?}");
}

async fn still_answers(service: &Service) {
    let mut client = service.client_rating().await;
    let read = client.get_rated_usage(GetRatedUsageRequest::default()).await;
    read.map_err(Refusal::from).expect("it answers");
    let id = format!("{:?}", SystemTime::now());
    assert_eq!(record(service, &[event(&id, 0)]).await.unwrap().stored, 1);
    assert_no_panic(service);
    for line in service.logs() {
        assert!(line.get("unparsed").is_none(), "{line}");
    }
}

async fn service(stage: &Stage) -> Service {
    // Coarse chunks: nonsense may ask for two thousand years.
    stage.service(&["--chunk-hours", "744", "--lease-ttl", "5s"]).await
}

#[tokio::test]
async fn random_bytes_and_random_fields_are_answered_and_never_panic() {
    let stage = Stage::new().await;
    stage.fill("e", 0, 3, 20).await;
    let service = service(&stage).await;
    let mut random = Random(seed());
    // Those that are served more often than those that are not yet.
    let served = [
        "RateWindow",
        "RecordEvents",
        "GetRatedUsage",
        "ValidatePricebook",
        "GetPricebook",
        "ListRuns",
        "ListAnomalies",
    ];
    let mut methods = methods();
    for _ in 0..3 {
        methods.extend(self::methods().into_iter().filter(|method| served.contains(&method.name())));
    }
    let mut connection = service.channel().await;
    let rounds = if soak() { 20_000 } else { 500 };
    let mut codes = std::collections::BTreeMap::<String, u32>::new();
    for round in 0..rounds {
        let method = &methods[random.below(methods.len() as u64) as usize];
        let body = match round % 4 {
            0 => nonsense::bytes(&mut random, 300),
            1 => nonsense::mangled(&mut random, &method.input()),
            _ => nonsense::message(&mut random, &method.input(), 0),
        };
        let call = Call::new(&path(method)).framed(&body).header("grpc-timeout", "700m");
        let answer = call.send(&mut connection).await;
        let what = format!("round {round}, {}, {:02x?}", method.name(), &body[..body.len().min(200)]);
        let answer = answer.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_answer(&answer, &what);
        *codes.entry(format!("{:?}", answer.code)).or_default() += 1;
    }
    println!("{rounds} rounds: {codes:?}");
    assert!(codes.len() > 3, "many ways to answer: {codes:?}");
    // Runs that nonsense began may go on; the service serves beside them.
    still_answers(&service).await;
}

#[tokio::test]
async fn broken_frames_and_headers_are_refused() {
    let stage = Stage::new().await;
    let service = service(&stage).await;
    let mut connection = service.channel().await;
    let frame = |flag: u8, length: u32, bytes: &[u8]| [&[flag][..], &length.to_be_bytes(), bytes].concat();
    let mut calls = vec![
        ("nothing", Call::new(RATE)),
        ("half a header", Call::new(RATE).body(vec![0, 0, 0])),
        ("less than it says", Call::new(RATE).body(frame(0, 100, b"abc"))),
        ("as much as can be said", Call::new(RATE).body(frame(0, u32::MAX, b"abc"))),
        ("compressed with nothing", Call::new(RATE).body(frame(1, 3, b"abc"))),
        ("an unknown flag", Call::new(RATE).body(frame(7, 3, b"abc"))),
        ("two messages", Call::new(RATE).body([frame(0, 0, b""), frame(0, 0, b"")].concat())),
        ("more than it says", Call::new(RATE).body(frame(0, 1, b"abcdef"))),
        ("one more than 4 MiB", Call::new(RATE).framed(&vec![0; (4 << 20) + 1])),
        ("an unknown encoding", Call::new(RATE).framed(b"").header("grpc-encoding", "rot13")),
        ("a wrong deadline", Call::new(RATE).framed(b"").header("grpc-timeout", "soon")),
        ("a deadline that has passed", Call::new(RATE).framed(b"").header("grpc-timeout", "0n")),
        ("metadata that is no base64", Call::new(RATE).framed(b"").header("x-bin", "!!!")),
        ("an unknown method", Call::new("/rating.v1.RatingService/Nothing").framed(b"")),
        ("an unknown service", Call::new("/nothing.v1.Nothing/Nothing").framed(b"")),
        ("no path", Call::new("/").framed(b"")),
        ("a strange path", Call::new("/rating.v1.RatingService/../../etc/passwd").framed(b"")),
        ("another HTTP method", Call::new(RATE).method("GET")),
    ];
    for kind in ["", "text/plain", "application/json", "application/grpc+json", "application/grpc-web"] {
        calls.push(("a content type", Call::new(RATE).framed(b"\x18\x63").header("content-type", kind)));
    }
    for (what, call) in calls {
        let answer = call.send(&mut connection).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_answer(&answer, what);
        assert!(answer.http != 200 || answer.code.is_some(), "{what}: {answer:?}");
        println!("{what}: HTTP {}, {:?} {}", answer.http, answer.code, answer.message);
    }
    // Past what a connection may carry: refused, or the connection is ended, and no more.
    for size in [8_000, 20_000, 60_000, 1_000_000] {
        let mut connection = service.channel().await;
        let long = "x".repeat(size);
        let answer = Call::new(RATE).framed(b"").header("x-long", &long).send(&mut connection).await;
        if let Ok(answer) = answer {
            assert_answer(&answer, &format!("a header of {size} bytes"));
        }
    }
    still_answers(&service).await;
}

/// PostgreSQL has no text with a NUL in it, nor one of any length.
#[tokio::test]
async fn a_nul_or_an_endless_text_in_any_field_is_no_internal_error() {
    let stage = Stage::new().await;
    let service = service(&stage).await;
    let mut connection = service.channel().await;
    for text in ["a\0b", "\0", &"x".repeat(70_000), "\u{10FFFF}\u{202E}"] {
        for method in methods() {
            for (field, message) in nonsense::with_text(&method.input(), text) {
                let call = Call::new(&path(&method)).framed(&message);
                let answer = call.send(&mut connection).await.unwrap();
                assert_answer(&answer, &field);
                assert_ne!(answer.code, Some(Code::Internal), "{field}: {answer:?}");
            }
        }
    }
    still_answers(&service).await;
}

/// Past gRPC: bytes that are no HTTP/2, cut off and dropped.
#[tokio::test]
async fn bytes_that_are_no_http_are_refused() {
    use tokio::io::AsyncWriteExt;
    let stage = Stage::new().await;
    let service = service(&stage).await;
    let mut random = Random(seed());
    for round in 0..if soak() { 1_000 } else { 60 } {
        for address in [service.address(), service.admin_address()] {
            let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
            if round % 2 == 0 {
                drop(stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await);
            }
            drop(stream.write_all(&nonsense::bytes(&mut random, 400)).await);
        }
    }
    until("it answers", Duration::from_secs(10), async || {
        still_answers(&service).await;
        true
    })
    .await;
}

/// A page token is the client's to keep and not to make: whatever is in it, it is a token or
/// it is refused.
#[tokio::test]
async fn page_tokens_that_someone_made_up_are_refused() {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let stage = Stage::new().await;
    stage.fill("e", 0, 1, 5).await;
    let service = service(&stage).await;
    crate::stage::rate(&service, crate::stage::window(0, 1)).await.unwrap();
    let mut client = service.client_rating().await;
    let request = GetRatedUsageRequest { page_size: 2, ..Default::default() };
    let first = client.get_rated_usage(request.clone()).await.unwrap().into_inner();
    let token = URL_SAFE_NO_PAD.decode(&first.next_page_token).unwrap();
    let token: serde_json::Value = serde_json::from_slice(&token).unwrap();
    for (field, value) in [
        ("window_start", "+262142-12-31T23:59:59Z"),
        ("window_start", "-262142-01-01T00:00:00Z"),
        ("window_start", "-4800-01-01T00:00:00Z"),
        ("window_start", "0000-01-01T00:00:00Z"),
        ("auth_id", "a\0b"),
        ("price_class", &"x".repeat(100_000)),
    ] {
        let mut made_up = token.clone();
        made_up["k"][field] = value.into();
        let page_token = URL_SAFE_NO_PAD.encode(made_up.to_string());
        let answer = client.get_rated_usage(GetRatedUsageRequest { page_token, ..request.clone() }).await;
        if let Err(refused) = answer.map_err(Refusal::from) {
            assert_eq!(refused.code, Code::InvalidArgument, "{field} {refused:?}");
        }
    }
    still_answers(&service).await;
}
