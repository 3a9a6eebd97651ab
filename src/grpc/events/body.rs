//! A batch on its way in: at most one message of at most 4 MiB, whole, and within a time. What it
//! says of its own length is looked at before anything of it is kept.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body::Frame;
use tokio::time::Sleep;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Body as HttpBody, Bytes};

use crate::domain::violation::Violation;
use crate::grpc::status::{batch_too_slow, status};
use crate::service::Error;
use crate::service::record_events::MALFORMED;

/// The most bytes of a batch: what a gRPC message has unless both sides agree on more.
pub(super) const MAX_BYTES: usize = 4 * 1024 * 1024;

/// What precedes a message: a flag and its length.
const HEADER: usize = 5;

/// The body of a call, bounded.
pub(super) struct Arriving {
    body: Body,
    within: Duration,
    late: Pin<Box<Sleep>>,
    header: [u8; HEADER],
    read: usize,
}

impl Arriving {
    pub(super) fn new(body: Body, within: Duration) -> Arriving {
        let late = Box::pin(tokio::time::sleep(within));
        Arriving { body, within, late, header: [0; HEADER], read: 0 }
    }

    fn take(&mut self, data: &[u8]) -> Result<(), Status> {
        for (to, from) in self.header.iter_mut().skip(self.read).zip(data) {
            *to = *from;
        }
        self.read = self.read.saturating_add(data.len());
        let length = self.length();
        if self.read >= HEADER && length > MAX_BYTES {
            return Err(too_large(length));
        }
        // Not more than it says: another message would be read, and thrown away.
        if self.read >= HEADER && self.read > HEADER + length {
            return Err(malformed("more than one message"));
        }
        Ok(())
    }

    fn end(&self) -> Result<(), Status> {
        match self.read {
            0 => Err(malformed("no message")),
            read if read < HEADER || read < HEADER + self.length() => Err(malformed("a part of a message")),
            _ => Ok(()),
        }
    }

    fn length(&self) -> usize {
        let [_, a, b, c, d] = self.header;
        usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX)
    }
}

impl HttpBody for Arriving {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.late.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Err(batch_too_slow(self.within))));
        }
        let frame = match ready!(Pin::new(&mut self.body).poll_frame(context)) {
            None => return Poll::Ready(self.end().err().map(Err)),
            Some(frame) => frame?,
        };
        let taken = frame.data_ref().map_or(Ok(()), |data| self.take(data));
        Poll::Ready(Some(taken.map(|()| frame)))
    }
}

fn too_large(length: usize) -> Status {
    let message = format!("are {length} bytes; send at most {MAX_BYTES} at once, in several batches");
    status(Error::Invalid(vec![Violation::new("events", "TOO_LARGE", message)]))
}

fn malformed(what: &str) -> Status {
    let message = format!("came as {what}; send one whole message");
    status(Error::Invalid(vec![Violation::new("events", MALFORMED, message)]))
}
