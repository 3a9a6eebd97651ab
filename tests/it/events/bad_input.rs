//! Everything that a batch can do wrong, over the wire to the real binary: named by its place, and
//! nothing half-stored.

use prost::Message;
use rater::proto::BillingEvent;
use tonic::Code;
use tonic::codegen::Bytes;
use tonic::transport::Channel;

use super::call::{call, framed, request};
use crate::stage::{Stage, assert_no_panic, event};

/// An event that is wrong, with its field and the reason.
fn wrong() -> Vec<(BillingEvent, &'static str, &'static str)> {
    let e = || event("wrong", 0);
    vec![
        (BillingEvent { prompt_tokens: 1 << 31, ..e() }, "prompt_tokens", "TOO_LARGE"),
        (BillingEvent { cached_tokens: i64::MAX, ..e() }, "cached_tokens", "TOO_LARGE"),
        (BillingEvent { completion_tokens: -1, ..e() }, "completion_tokens", "NEGATIVE"),
        (event(&"é".repeat(256), 0), "request_id", "TOO_LONG"),
        (event("", 0), "request_id", "MISSING"),
        (event("a\0b", 0), "request_id", "NUL_CHARACTER"),
        (BillingEvent { adapter: "\0".into(), ..e() }, "adapter", "NUL_CHARACTER"),
        (
            BillingEvent { event_time: Some(prost_types::Timestamp { seconds: i64::MAX, nanos: 0 }), ..e() },
            "event_time",
            "OUT_OF_RANGE",
        ),
    ]
}

/// Messages that are no events, each in place of one.
fn garbage() -> Vec<Vec<u8>> {
    let good = event("broken", 0).encode_to_vec();
    let mut not_utf8 = good.clone();
    // The first byte of the id, after a tag and a length.
    not_utf8[2] = 0xFF;
    vec![not_utf8, good[..good.len() - 1].to_vec(), vec![0xFF; 40], vec![0x0A, 0x7F], vec![0]]
}

/// A request of these events, and of others that are fine around each.
fn message(events: &[Vec<u8>], skip_invalid: bool) -> Vec<u8> {
    let mut message = Vec::new();
    let mut put = |event: &[u8]| {
        message.push(0x0A);
        prost::encoding::encode_varint(event.len() as u64, &mut message);
        message.extend(event);
    };
    put(&event("good-0", 0).encode_to_vec());
    for (n, event_) in events.iter().enumerate() {
        put(event_);
        put(&event(&format!("good-{}", n + 1), 0).encode_to_vec());
    }
    message.extend([0x10, u8::from(skip_invalid)]);
    message
}

async fn refused(channel: &Channel, bytes: Bytes) -> (Code, Vec<(String, String)>) {
    let refused = call(channel, bytes).await.unwrap_err();
    println!("{:?}: {}", refused.code, refused.message);
    assert!(!refused.message.contains('\n'), "{refused:?}");
    (refused.code, refused.violations)
}

#[tokio::test]
async fn each_bad_event_is_named_by_its_index_and_nothing_is_half_stored() {
    let stage = Stage::new().await;
    // A place that a refusal kept would be missed at once.
    let service = stage.service(&["--max-batches", "1"]).await;
    let channel = service.channel().await;
    let stored = async || stage.number("SELECT count(*) FROM billing_event").await;
    let (mut bad, mut expected) = (Vec::new(), Vec::new());
    for (event, field, reason) in wrong() {
        expected.push((format!("events[{}].{field}", 2 * bad.len() + 1), field, reason));
        bad.push(event.encode_to_vec());
    }
    for event in garbage() {
        expected.push((format!("events[{}]", 2 * bad.len() + 1), "", "MALFORMED"));
        bad.push(event);
    }
    let listed: Vec<_> = expected.iter().map(|(at, _, reason)| (at.clone(), reason.to_string())).collect();
    for (event, (_, field, reason)) in bad.iter().zip(&expected) {
        let dot = if field.is_empty() { "" } else { "." };
        let told = (format!("events[1]{dot}{field}"), reason.to_string());
        let alone = framed(&message(std::slice::from_ref(event), false));
        assert_eq!(refused(&channel, alone).await, (Code::InvalidArgument, vec![told]));
    }
    assert_eq!(refused(&channel, framed(&message(&bad, false))).await, (Code::InvalidArgument, listed));
    assert_eq!(stored().await, 0);

    let answer = call(&channel, framed(&message(&bad, true))).await.unwrap();
    assert_eq!((answer.stored, answer.duplicates), (bad.len() as i64 + 1, 0));
    let rejected: Vec<_> = answer
        .rejected
        .iter()
        .map(|r| (format!("events[{}]", r.index), r.field.as_str(), r.reason.as_str()))
        .collect();
    let named = expected
        .iter()
        .enumerate()
        .map(|(n, (_, field, reason))| (format!("events[{}]", 2 * n + 1), *field, *reason));
    assert_eq!(rejected, named.collect::<Vec<_>>());
    assert_eq!(stored().await, bad.len() as i64 + 1);
    let all_good = stage.number("SELECT count(*) FROM billing_event WHERE request_id LIKE 'good-%'").await;
    assert_eq!(all_good, bad.len() as i64 + 1);
    assert_no_panic(&service);
}

#[tokio::test]
async fn a_batch_that_is_too_large_or_broken_is_refused_whole() {
    let stage = Stage::new().await;
    let service = stage.service(&["--max-batches", "1"]).await;
    let channel = service.channel().await;
    let many = |count: usize| (0..count).map(|n| event(&format!("e-{n}"), 0)).collect::<Vec<_>>();
    let padding = |bytes: usize| [vec![0x9A, 0x06], varint(bytes), vec![b'x'; bytes]].concat();
    let invalid =
        |field: &str, reason: &str| (Code::InvalidArgument, vec![(field.to_owned(), reason.to_owned())]);
    for skip_invalid in [false, true] {
        let too_many = refused(&channel, request(many(10_001), skip_invalid)).await;
        assert_eq!(too_many, invalid("events", "TOO_MANY"));
        // Two bytes each on the wire.
        let empty = refused(&channel, framed(&[0x0A, 0].repeat(2 << 20))).await;
        assert_eq!(empty, invalid("events", "TOO_MANY"));
        let mut message = message(&[], skip_invalid);
        message.extend(padding(4 << 20));
        assert_eq!(refused(&channel, framed(&message)).await, invalid("events", "TOO_LARGE"));
    }
    // Told by what the message says of itself, whatever follows.
    let gigabytes = Bytes::from_static(&[0, 0xFF, 0xFF, 0xFF, 0xFF, 1, 2, 3]);
    assert_eq!(refused(&channel, gigabytes).await, invalid("events", "TOO_LARGE"));
    let good = request(many(3), false);
    // Not their fault: what was cut off on the way may end as if it were whole.
    for cut in [0, 3, good.len() - 1] {
        let incomplete = call(&channel, good.slice(..cut)).await.unwrap_err();
        let told = (incomplete.code, incomplete.reason.as_str(), incomplete.violations.len());
        assert_eq!(told, (Code::Unavailable, "INCOMPLETE", 0), "{incomplete:?}");
        assert!(incomplete.retry.is_some());
    }
    let cases = [
        ([&good[..], &good[..]].concat().into(), "events"),
        (framed(b"\xFF\xFF\xFF"), "events[0]"),
        (framed(&message(&[], false)[..20]), "events[0]"),
        (framed(&[&message(&[], false)[..], &[0x0A, 0x05, 1]].concat()), "events[1]"),
        // A field of another kind.
        (framed(&[0x08, 1]), "events[0]"),
    ];
    for (bytes, field) in cases {
        assert_eq!(refused(&channel, bytes).await, invalid(field, "MALFORMED"));
    }
    assert_eq!(stage.number("SELECT count(*) FROM billing_event").await, 0);
    // What just fits, and a field that we do not know.
    let mut message = message(&[], false);
    message.extend(padding((4 << 20) - message.len() - 6));
    assert_eq!(message.len(), 4 << 20);
    assert_eq!(call(&channel, framed(&message)).await.unwrap().stored, 1);
    assert_no_panic(&service);
}

fn varint(value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    prost::encoding::encode_varint(value as u64, &mut bytes);
    bytes
}
