//! A call's message on its way in: at most one, of at most 4 MiB, whole, and within a time. What it
//! says of its own length is looked at before anything of it is kept, and what is kept of all that
//! are on their way is bounded: a call that crawls holds no more room than the bytes that it sent.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::Frame;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Body as HttpBody, Bytes};

use super::shares::{Share, Shares};
use super::who::Who;
use crate::domain::violation::Violation;
use crate::grpc::status::{incomplete, status, too_slow};
use crate::service::Error;
use crate::service::record_events::MALFORMED;

/// The most bytes of a message: what a gRPC message has unless both sides agree on more.
pub(super) const MAX_BYTES: usize = 4 * 1024 * 1024;

/// The most bytes of a question to health or reflection.
pub(super) const MAX_QUESTION: usize = 16 * 1024;

/// The most bytes that all messages on their way take together.
const ALL_BYTES: usize = 64 * 1024 * 1024;

/// The most messages on their way: as many crawling ones leave the bytes to others.
const MAX_ARRIVING: usize = 1024;

/// The least room for a message; it is doubled as bytes come.
const LEAST: usize = 1024;

/// A batch or a request has begun with so many bytes when it is whole or as long as that.
const BEGUN: usize = LEAST;

/// How long what is on its way when the service stops has to arrive.
const LAST: Duration = Duration::from_secs(1);

/// How long a message may take to arrive.
#[derive(Debug, Clone, Copy)]
pub(super) struct Within {
    /// Its first KiB.
    pub(super) begun: Duration,
    /// All of it.
    pub(super) whole: Duration,
}

impl Within {
    /// 4 MiB at over a megabit a second, for whoever begins at once.
    pub(super) const MESSAGE: Within =
        Within { begun: Duration::from_secs(5), whole: Duration::from_secs(30) };
    /// A question to health.
    pub(super) const QUESTION: Within =
        Within { begun: Duration::from_secs(2), whole: Duration::from_secs(2) };
}

/// What precedes a message: a flag and its length.
const HEADER: usize = 5;

/// What comes, in the words of its refusals.
#[derive(Debug, Clone, Copy)]
pub(super) enum What {
    /// RecordEvents'.
    Batch,
    /// Any other call's.
    Request,
    /// That of whoever need not be known: few bytes, and few of one network.
    Question,
}

impl What {
    /// As a sentence goes on with it.
    pub(super) fn noun(self) -> &'static str {
        match self {
            What::Batch => "batch",
            What::Request | What::Question => "request",
        }
    }

    fn field(self) -> &'static str {
        match self {
            What::Batch => "events",
            What::Request | What::Question => "request",
        }
    }

    /// The most bytes of one.
    fn most(self) -> usize {
        match self {
            What::Batch | What::Request => MAX_BYTES,
            What::Question => MAX_QUESTION,
        }
    }

    /// The most on their way of the same caller, of so many in all.
    fn share(self, who: &Who, most: usize) -> usize {
        match self {
            What::Batch | What::Request => who.share(most),
            What::Question => most / 8,
        }
    }

    fn too_large(self, length: usize) -> Status {
        let most = self.most();
        let message = match self {
            What::Batch => {
                format!("are {length} bytes; send at most {most} at once, in several batches")
            }
            What::Request | What::Question => format!("is {length} bytes; send at most {most}"),
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
    calls: Shares<Who>,
    bytes: Shares<Who>,
    stop: CancellationToken,
}

impl Room {
    pub(super) fn of(what: What) -> Room {
        let (calls, bytes) = (Shares::of(MAX_ARRIVING), Shares::of(ALL_BYTES));
        Room { what, calls, bytes, stop: CancellationToken::new() }
    }

    /// Until `stop`: what is not whole soon after it is not waited for.
    pub(super) fn until(self, stop: CancellationToken) -> Room {
        Room { stop, ..self }
    }

    /// Reads a call's one message, whole.
    pub(super) async fn receive(&self, body: Body, who: &Who, within: Within) -> Result<Arrived, Status> {
        let share = self.what.share(who, MAX_ARRIVING);
        let _call = self.calls.take(who, 1, share).ok_or_else(|| status(Error::Overloaded))?;
        let stopped = async {
            self.stop.cancelled().await;
            sleep(LAST).await;
        };
        tokio::select! {
            biased;
            arrived = Arriving::new(self, who).within(body, within) => arrived,
            () = stopped => Err(status(Error::ShuttingDown)),
        }
    }
}

struct Arriving<'a> {
    room: &'a Room,
    who: &'a Who,
    data: Vec<u8>,
    held: Option<Share<Who>>,
}

impl Arriving<'_> {
    fn new<'a>(room: &'a Room, who: &'a Who) -> Arriving<'a> {
        Arriving { room, who, data: Vec::new(), held: None }
    }

    async fn within(mut self, mut body: Body, within: Within) -> Result<Arrived, Status> {
        let came = Instant::now();
        for (upto, wait) in [(BEGUN, within.begun), (usize::MAX, within.whole)] {
            let read = timeout_at(came + wait, self.read(&mut body, upto)).await;
            if read.unwrap_or_else(|_| Err(too_slow(self.room.what.noun(), wait)))? {
                break;
            }
        }
        self.whole()
    }

    /// Until there are so many bytes, or no more: whether that is so.
    async fn read(&mut self, body: &mut Body, upto: usize) -> Result<bool, Status> {
        while self.data.len() < upto {
            let frame = std::future::poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await;
            let Some(frame) = frame else { return Ok(true) };
            if let Some(data) = frame?.data_ref() {
                self.take(data)?;
            }
        }
        Ok(false)
    }

    fn whole(self) -> Result<Arrived, Status> {
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
        if length > self.room.what.most() {
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
            let share = || self.room.what.share(self.who, ALL_BYTES);
            let taken = match &mut self.held {
                Some(held) => held.more(room - had),
                None => {
                    self.held = self.room.bytes.take(self.who, room - had, share());
                    self.held.is_some()
                }
            };
            if !taken {
                return Err(status(Error::Overloaded));
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
    held: Option<Share<Who>>,
}

impl Arrived {
    /// The room, to be kept for longer: for what is made of the message.
    pub(super) fn take_room(&mut self) -> Option<Share<Who>> {
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
        let within = Within { begun: Duration::from_millis(50), whole: Duration::from_millis(50) };
        let status = room.receive(body, &Who::Crowd, within).await.err().expect("refused");
        assert_eq!(room.bytes.taken(), 0, "its room is given back");
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
        let crawling = room.receive(body, &Who::Crowd, Within::MESSAGE);
        drop(tokio::time::timeout(Duration::from_millis(20), crawling).await);
        let body = Body::new(Says(Some(Bytes::from_static(b"\0\0\0\0\x03abc")), true));
        let mut whole = room.receive(body, &Who::Crowd, Within::MESSAGE).await.expect("whole");
        assert_eq!(room.bytes.taken(), LEAST);
        let kept = whole.take_room();
        drop(whole);
        assert_eq!(room.bytes.taken(), LEAST, "kept for longer");
        drop(kept);
        assert_eq!(room.bytes.taken(), 0);
    }

    #[tokio::test]
    async fn what_does_not_begin_soon_or_is_on_its_way_at_a_stop_is_not_waited_for() {
        let room = Room::of(What::Request);
        let within = Within { begun: Duration::from_millis(50), whole: Duration::from_millis(500) };
        let refused = async |bytes: Vec<u8>, within| {
            let (came, body) = (Instant::now(), Body::new(Says(Some(bytes.into()), false)));
            let status = room.receive(body, &Who::Crowd, within).await.err();
            (status.expect("refused").code(), came.elapsed())
        };
        let (code, took) = refused(b"\0".to_vec(), within).await;
        assert!(code == Code::DeadlineExceeded && took < within.whole, "{code} {took:?}");
        let long = [&b"\0\0\x30\0\0"[..], &[0; LEAST]].concat();
        let (code, took) = refused(long.clone(), within).await;
        assert!(code == Code::DeadlineExceeded && took >= within.whole, "{code} {took:?}");
        room.stop.cancel();
        let (code, took) = refused(long, Within::MESSAGE).await;
        assert!(code == Code::Unavailable && took < Within::MESSAGE.begun, "{code} {took:?}");
    }

    #[tokio::test]
    async fn one_caller_leaves_half_of_the_room_to_others() {
        let room = Room::of(What::Request);
        let [busy, quiet] = ["busy", "quiet"].map(|name| Who::Name(name.into()));
        let mut crawling = tokio::task::JoinSet::new();
        for _ in 0..MAX_ARRIVING {
            let (room, busy) = (room.clone(), busy.clone());
            let body = Body::new(Says(None, false));
            crawling.spawn(async move { room.receive(body, &busy, Within::MESSAGE).await.map(drop) });
        }
        for _ in 0..MAX_ARRIVING / 2 {
            let refused = crawling.join_next().await.expect("one").expect("no panic").expect_err("refused");
            assert_eq!(refused.code(), Code::ResourceExhausted);
        }
        let body = Body::new(Says(Some(Bytes::from_static(b"\0\0\0\0\x03abc")), true));
        assert!(room.receive(body, &quiet, Within::MESSAGE).await.is_ok());
    }
}
