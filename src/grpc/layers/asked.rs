//! The questions of a conversation, which are over when it is: at its deadline, or when the service
//! stops. Reflection would else listen for more until its client has no more, and so long would a
//! stop wait for the connection.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::Frame;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Body as HttpBody, Bytes};

/// A request's body, until it is over.
pub(super) struct Asked {
    body: Body,
    over: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Asked {
    /// Until `at`, or `stop`.
    pub(super) fn until(body: Body, at: Instant, stop: CancellationToken) -> Body {
        let over = async move { drop(timeout_at(at, stop.cancelled()).await) };
        Body::new(Asked { body, over: Box::pin(over) })
    }
}

impl HttpBody for Asked {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Pending => self.over.as_mut().poll(context).map(|()| None),
            frame => frame,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}
