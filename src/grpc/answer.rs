//! An answer that tells how it ended: with its trailers, or a status among its headers, or not at
//! all, because nobody wants the rest of it.

use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::{Frame, SizeHint};
use tonic::codegen::{Body as HttpBody, Bytes, http};
use tonic::{Code, Status, body::Body};

/// Whoever wants to know. What is not told before it is dropped is not told at all.
pub(super) trait Told: Send + Unpin + 'static {
    /// It has this status. Whoever reads it may not be done with it yet.
    fn ended(&mut self, code: Code);
}

/// The same answer, whose end is told.
pub(super) fn telling(response: http::Response<Body>, mut told: impl Told) -> http::Response<Body> {
    // Without a body the status is among the headers.
    if let Some(code) = status(response.headers()) {
        told.ended(code);
    }
    response.map(|body| Body::new(Telling { body, told }))
}

fn status(headers: &http::HeaderMap) -> Option<Code> {
    headers.get("grpc-status").map(|status| Code::from_bytes(status.as_bytes()))
}

struct Telling<T> {
    body: Body,
    told: T,
}

impl<T: Told> HttpBody for Telling<T> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(frame)) = &polled {
            let code = match frame {
                Ok(frame) => frame.trailers_ref().and_then(status),
                Err(broken) => Some(broken.code()),
            };
            code.into_iter().for_each(|code| self.told.ended(code));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
