//! A call that comes too late begins nothing.

use std::time::Duration;

use prost::Message;
use rater::proto::RateWindowRequest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::event;
use crate::limits::raw::{END_HEADERS, END_STREAM, HEADERS, beginning, connect, frame, headers};
use crate::rig::{Rig, backfill};

const DATA: u8 = 0;

/// Makes a call with each of these timeouts, by hand: our own client would not even send it. Returns
/// when all were answered.
async fn rate_within(rig: &Rig, timeouts: &[&str]) {
    let mut socket = connect(rig.service.address()).await;
    let mut sent = beginning();
    for (n, timeout) in timeouts.iter().enumerate() {
        let stream = u32::try_from(2 * n + 1).unwrap();
        let mut fields = headers("/rating.v1.RatingService/RateWindow");
        for text in ["grpc-timeout", timeout] {
            if text == "grpc-timeout" {
                fields.push(0);
            }
            fields.push(u8::try_from(text.len()).unwrap());
            fields.extend(text.as_bytes());
        }
        sent.extend(frame(HEADERS, END_HEADERS, stream, &fields));
        let request = RateWindowRequest { request_id: format!("late {n}"), ..backfill(10, 11) };
        let message = request.encode_to_vec();
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        sent.extend(frame(DATA, END_STREAM, stream, &[&[0], &length[..], &message].concat()));
    }
    socket.write_all(&sent).await.unwrap();
    let answered = async {
        let mut ends = 0;
        while ends < timeouts.len() {
            let mut head = [0; 9];
            socket.read_exact(&mut head).await.unwrap();
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            socket.read_exact(&mut payload).await.unwrap();
            ends += usize::from(head[3] == HEADERS && head[4] & END_STREAM != 0);
        }
    };
    tokio::time::timeout(Duration::from_secs(20), answered).await.expect("answers");
}

#[tokio::test]
async fn a_deadline_that_is_over_when_its_call_comes_begins_no_run() {
    let rig = Rig::with_events([event("a")]).await;
    rate_within(&rig, &["0n", "1n", "1u", "0S", "0H", "2u"].repeat(5)).await;
    assert_eq!(rig.count("rating_run").await, 0);
    rate_within(&rig, &["20S"]).await;
    assert_eq!(rig.count("rating_run").await, 1);
}
