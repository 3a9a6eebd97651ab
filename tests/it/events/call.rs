//! RecordEvents without a client's help: a body of any bytes, at any pace, and its answer.

use std::time::Duration;

use axum::http::Request;
use prost::Message;
use rater::proto::{RecordEventsRequest, RecordEventsResponse};
use tokio::sync::watch;
use tokio_stream::StreamExt;
use tonic::codegen::{Body as _, Bytes, Service as _};
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::stage::assert_clean;

/// Bytes on their way; the last of them wait for a sign.
pub struct Sent {
    pub bytes: Bytes,
    pub timeout: Option<&'static str>,
    pub held: Option<watch::Receiver<bool>>,
}

/// An answer, and what a refusal lists.
#[derive(Debug)]
#[allow(dead_code, reason = "the message is there to be printed")]
pub struct Refused {
    pub code: Code,
    pub reason: String,
    pub message: String,
    pub retry: Option<Duration>,
    /// Field, and the reason before the words.
    pub violations: Vec<(String, String)>,
}

/// One whole message of a call.
pub fn framed(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0][..], &length, message].concat().into()
}

pub fn request(events: Vec<rater::proto::BillingEvent>, skip_invalid: bool) -> Bytes {
    framed(&RecordEventsRequest { events, skip_invalid }.encode_to_vec())
}

pub async fn call(channel: &Channel, bytes: Bytes) -> Result<RecordEventsResponse, Refused> {
    send(channel, Sent { bytes, timeout: None, held: None }).await
}

pub async fn send(channel: &Channel, sent: Sent) -> Result<RecordEventsResponse, Refused> {
    let mut channel = channel.clone();
    let mut request = Request::post("/rating.v1.EventService/RecordEvents")
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if let Some(timeout) = sent.timeout {
        request = request.header("grpc-timeout", timeout);
    }
    let request = request.body(tonic::body::Body::new(body(sent))).unwrap();
    std::future::poll_fn(|context| channel.poll_ready(context)).await.unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(60), channel.call(request));
    let (head, mut body) = answer.await.expect("an answer within a minute").unwrap().into_parts();
    let (mut headers, mut data) = (head.headers, Vec::new());
    loop {
        let next = std::future::poll_fn(|context| std::pin::Pin::new(&mut body).poll_frame(context)).await;
        match next.transpose().unwrap().map(|frame| frame.into_data().map_err(|frame| frame.into_trailers()))
        {
            None => break,
            Some(Ok(bytes)) => data.extend(bytes),
            Some(Err(trailers)) => headers.extend(trailers.unwrap()),
        }
    }
    let status = Status::from_header_map(&headers).unwrap();
    if status.code() == Code::Ok {
        return Ok(RecordEventsResponse::decode(&data[5..]).unwrap());
    }
    Err(status.into())
}

fn body(sent: Sent) -> axum::body::Body {
    const PIECE: usize = 64 * 1024;
    let Sent { bytes, held, .. } = sent;
    let Some(mut held) = held else { return bytes.into() };
    let last = bytes.len() - 1;
    let starts = (0..last).step_by(PIECE).chain([last]);
    let pieces: Vec<_> = starts
        .clone()
        .zip(starts.skip(1).chain([last + 1]))
        .map(|(from, to)| bytes.slice(from..to))
        .collect();
    let (last, others) = pieces.split_last().unwrap();
    let (last, others) = (last.clone(), others.to_vec());
    let end = async_stream(async move {
        drop(held.wait_for(|held| !held).await);
        last
    });
    axum::body::Body::from_stream(tokio_stream::iter(others).chain(end).map(Ok::<_, std::io::Error>))
}

/// A stream of what a future gives.
fn async_stream(
    future: impl Future<Output = Bytes> + Send + 'static,
) -> impl tokio_stream::Stream<Item = Bytes> {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        let bytes = future.await;
        drop(sender.send(bytes).await);
    });
    tokio_stream::wrappers::ReceiverStream::new(receiver)
}

impl From<Status> for Refused {
    fn from(status: Status) -> Refused {
        assert_clean(status.message());
        assert_clean(&String::from_utf8_lossy(status.details()));
        let bad = status.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
        let reason = |text: &str| text.split(':').next().unwrap_or_default().to_owned();
        Refused {
            code: status.code(),
            reason: status.get_details_error_info().map(|info| info.reason).unwrap_or_default(),
            message: status.message().into(),
            retry: status.get_details_retry_info().and_then(|info| info.retry_delay),
            violations: bad.into_iter().map(|v| (v.field, reason(&v.description))).collect(),
        }
    }
}
