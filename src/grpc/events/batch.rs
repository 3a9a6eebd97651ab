//! Reads a batch, event by event: what is no event is told from the others instead of refusing the
//! message with them, and past the most events nothing more is kept, since an empty one takes two
//! bytes on the wire and hundreds here.

use prost::Message;
use prost::bytes::Buf;
use prost::encoding::{DecodeContext, WireType, check_wire_type, decode_key, decode_varint, skip_field};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic::codegen::Bytes;
use tonic_prost::ProstEncoder;

use crate::domain::violation::Violation;
use crate::grpc::convert::events::raw_event;
use crate::grpc::status::status;
use crate::proto::{BillingEvent, RecordEventsResponse};
use crate::service::Error;
use crate::service::record_events::{MALFORMED, MAX_EVENTS, Malformed, Sent, too_many};

/// `RecordEventsRequest`, with each event by itself.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) events: Vec<Sent>,
    pub(super) skip_invalid: bool,
}

/// `RecordEventsRequest`'s fields.
const EVENTS: u32 = 1;
const SKIP_INVALID: u32 = 2;

/// A batch in, its answer out.
pub(super) struct BatchCodec;

impl Codec for BatchCodec {
    type Encode = RecordEventsResponse;
    type Decode = Batch;
    type Encoder = ProstEncoder<RecordEventsResponse>;
    type Decoder = BatchDecoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::default()
    }

    fn decoder(&mut self) -> Self::Decoder {
        BatchDecoder
    }
}

pub(super) struct BatchDecoder;

impl Decoder for BatchDecoder {
    type Item = Batch;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Batch>, Status> {
        let message = from.copy_to_bytes(from.remaining());
        read(message).map(Some).map_err(status)
    }
}

fn read(mut message: Bytes) -> Result<Batch, Error> {
    let mut batch = Batch::default();
    let mut events = 0;
    while message.has_remaining() {
        next(&mut batch, &mut events, &mut message).map_err(|error| broken(events, &error))?;
    }
    if events > MAX_EVENTS { Err(too_many(events)) } else { Ok(batch) }
}

fn next(batch: &mut Batch, events: &mut usize, message: &mut Bytes) -> Result<(), String> {
    let (tag, kind) = decode_key(message).map_err(said)?;
    match tag {
        EVENTS => {
            check_wire_type(WireType::LengthDelimited, kind).map_err(said)?;
            let length = usize::try_from(decode_varint(message).map_err(said)?).unwrap_or(usize::MAX);
            if length > message.remaining() {
                return Err("the event is longer than the message".into());
            }
            let event = message.split_to(length);
            *events += 1;
            if *events <= MAX_EVENTS {
                batch.events.push(sent(event));
            }
        }
        SKIP_INVALID => {
            check_wire_type(WireType::Varint, kind).map_err(said)?;
            batch.skip_invalid = decode_varint(message).map_err(said)? != 0;
        }
        _ => skip_field(kind, tag, message, DecodeContext::default()).map_err(said)?,
    }
    Ok(())
}

fn sent(bytes: Bytes) -> Sent {
    let mut event = BillingEvent::default();
    match event.merge(bytes) {
        Ok(()) => Ok(raw_event(event)),
        Err(error) => Err(Malformed {
            request_id: event.request_id,
            message: format!("is no BillingEvent: {}", said(error)),
        }),
    }
}

/// The message breaks after that many events.
fn broken(events: usize, what: &str) -> Error {
    let message = format!("is where the message breaks: {what}");
    Error::Invalid(vec![Violation::new(format!("events[{events}]"), MALFORMED, message)])
}

/// Without prost's own beginning; it is about bytes that the caller sent.
fn said(error: prost::DecodeError) -> String {
    let text = error.to_string();
    text.strip_prefix("failed to decode Protobuf message: ").unwrap_or(&text).to_owned()
}
