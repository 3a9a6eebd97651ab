//! A call's message on its way in: at most one, of at most 4 MiB, whole, and within a time. What it
//! says of its own length is looked at before anything of it is kept, and what is kept of all that
//! are on their way is bounded: a call that crawls holds no more room than the bytes that it sent.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::Frame;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Body as HttpBody, Bytes};

use crate::domain::violation::Violation;
use crate::grpc::status::{incomplete, status, too_slow};
use crate::service::Error;
use crate::service::record_events::MALFORMED;

/// The most bytes of a message: what a gRPC message has unless both sides agree on more.
pub(super) const MAX_BYTES: usize = 4 * 1024 * 1024;

/// The most bytes that all messages on their way take together.
const ALL_BYTES: usize = 64 * 1024 * 1024;

/// The most messages on their way: as many crawling ones leave the bytes to others.
const MAX_ARRIVING: usize = 1024;

/// The least room for a message; it is doubled as bytes come.
const LEAST: usize = 1024;

/// What precedes a message: a flag and its length.
const HEADER: usize = 5;

/// What comes, in the words of its refusals.
#[derive(Debug, Clone, Copy)]
pub(super) enum What {
    /// RecordEvents'.
    Batch,
    /// Any other call's.
    Request,
}

impl What {
    /// As a sentence goes on with it.
    pub(super) fn noun(self) -> &'static str {
        match self {
            What::Batch => "batch",
            What::Request => "request",
        }
    }

    fn field(self) -> &'static str {
        match self {
            What::Batch => "events",
            What::Request => "request",
        }
    }

    fn too_large(self, length: usize) -> Status {
        let message = match self {
            What::Batch => {
                format!("are {length} bytes; send at most {MAX_BYTES} at once, in several batches")
            }
            What::Request => format!("is {length} bytes; send at most {MAX_BYTES}"),
        };
        status(Error::Invalid(vec![Violation::new(self.field(), "TOO_LARGE", message)]))
    }

    fn malformed(self, what: &str) -> Status {
        let message = format!("came as {what}; send one whole message");
        status(Error::Invalid(vec![Violation::new(self.field(), MALFORMED, message)]))
    }
}

/// Room for what is on its way. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Room {
    what: What,
    calls: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
}

impl Room {
    pub(super) fn of(what: What) -> Room {
        let (calls, bytes) = (Semaphore::new(MAX_ARRIVING), Semaphore::new(ALL_BYTES));
        Room { what, calls: Arc::new(calls), bytes: Arc::new(bytes) }
    }

    /// Reads a call's one message, whole.
    pub(super) async fn receive(&self, body: Body, within: Duration) -> Result<Arrived, Status> {
        let _call = self.calls.try_acquire().map_err(|_| status(Error::Overloaded))?;
        let read = tokio::time::timeout(within, Arriving::new(self).read(body));
        read.await.unwrap_or_else(|_| Err(too_slow(self.what.noun(), within)))
    }
}

struct Arriving<'a> {
    room: &'a Room,
    data: Vec<u8>,
    held: Option<OwnedSemaphorePermit>,
}

impl Arriving<'_> {
    fn new(room: &Room) -> Arriving<'_> {
        Arriving { room, data: Vec::new(), held: None }
    }

    async fn read(mut self, mut body: Body) -> Result<Arrived, Status> {
        while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await
        {
            if let Some(data) = frame?.data_ref() {
                self.take(data)?;
            }
        }
        // Not the caller's fault: something on the way ended it.
        if self.data.len() < HEADER || self.data.len() < HEADER + self.length() {
            return Err(incomplete(self.room.what.noun()));
        }
        Ok(Arrived { data: Some(self.data.into()), held: self.held })
    }

    fn take(&mut self, data: &[u8]) -> Result<(), Status> {
        let (header, rest) = data.split_at(data.len().min(HEADER.saturating_sub(self.data.len())));
        self.keep(header)?;
        if self.data.len() < HEADER {
            return Ok(());
        }
        let length = self.length();
        if length > MAX_BYTES {
            return Err(self.room.what.too_large(length));
        }
        // Not more than it says: another message would be read, and thrown away.
        if self.data.len() + rest.len() > HEADER + length {
            return Err(self.room.what.malformed("more than one message"));
        }
        self.keep(rest)
    }

    fn keep(&mut self, data: &[u8]) -> Result<(), Status> {
        let (length, had) = (self.data.len() + data.len(), self.data.capacity());
        if length > had {
            let room = length.max(2 * had).clamp(LEAST, HEADER + MAX_BYTES);
            let more = u32::try_from(room - had).unwrap_or(u32::MAX);
            let permit = Arc::clone(&self.room.bytes).try_acquire_many_owned(more);
            let permit = permit.map_err(|_| status(Error::Overloaded))?;
            match &mut self.held {
                Some(held) => held.merge(permit),
                None => self.held = Some(permit),
            }
            self.data.reserve_exact(room - self.data.len());
        }
        self.data.extend_from_slice(data);
        Ok(())
    }

    fn length(&self) -> usize {
        let bytes = self.data.get(1..HEADER).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, |bytes| usize::try_from(u32::from_be_bytes(bytes)).unwrap_or(usize::MAX))
    }
}

/// One message, whole, which keeps its room until it is read.
pub(super) struct Arrived {
    data: Option<Bytes>,
    held: Option<OwnedSemaphorePermit>,
}

impl Arrived {
    /// The room, to be kept for longer: for what is made of the message.
    pub(super) fn take_room(&mut self) -> Option<OwnedSemaphorePermit> {
        self.held.take()
    }
}

impl HttpBody for Arrived {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.data.take().map(|data| Ok(Frame::data(data))))
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;
    use tonic_types::StatusExt;

    use super::*;

    /// What is there at once, and then nothing, or the end.
    struct Says(Option<Bytes>, bool);

    impl HttpBody for Says {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            match self.0.take() {
                Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                None if self.1 => Poll::Ready(None),
                None => Poll::Pending,
            }
        }
    }

    async fn refused(bytes: &'static [u8], ends: bool) -> (Code, String) {
        let body = Body::new(Says(Some(Bytes::from_static(bytes)), ends));
        let room = Room::of(What::Request);
        let status = room.receive(body, Duration::from_millis(50)).await.err().expect("refused");
        assert_eq!(room.bytes.available_permits(), ALL_BYTES, "its room is given back");
        let reason = status.get_details_error_info().map(|info| info.reason);
        let field = || status.get_details_bad_request().map(|bad| bad.field_violations[0].field.clone());
        (status.code(), reason.or_else(field).expect("a reason or a field"))
    }

    #[tokio::test]
    async fn a_request_that_does_not_come_whole_is_told_why() {
        let words = |code, word: &str| (code, word.to_owned());
        assert_eq!(
            refused(b"\0\0\0\0\x05abc", false).await,
            words(Code::DeadlineExceeded, "REQUEST_TOO_SLOW")
        );
        assert_eq!(refused(b"\0\0\0\0\x05abc", true).await, words(Code::Unavailable, "INCOMPLETE"));
        assert_eq!(refused(b"\0\0\0\0\x01abc", true).await, words(Code::InvalidArgument, "request"));
        assert_eq!(refused(b"\0\x7f\xff\xff\xff", false).await, words(Code::InvalidArgument, "request"));
    }

    #[tokio::test]
    async fn what_crawls_keeps_only_the_room_of_what_it_sent() {
        let room = Room::of(What::Request);
        let body = Body::new(Says(Some(Bytes::from_static(b"\0\0\x30\0\0abc")), false));
        let crawling = room.receive(body, Duration::from_secs(60));
        drop(tokio::time::timeout(Duration::from_millis(20), crawling).await);
        let body = Body::new(Says(Some(Bytes::from_static(b"\0\0\0\0\x03abc")), true));
        let mut whole = room.receive(body, Duration::from_secs(60)).await.expect("whole");
        assert_eq!(room.bytes.available_permits(), ALL_BYTES - LEAST);
        let kept = whole.take_room();
        drop(whole);
        assert_eq!(room.bytes.available_permits(), ALL_BYTES - LEAST, "kept for longer");
        drop(kept);
        assert_eq!(room.bytes.available_permits(), ALL_BYTES);
    }
}
