//! The questions of a conversation, which are over when it is: at its deadline, when the service
//! stops, or when the first does not come soon. Reflection would else listen for more until its client
//! has no more, and so long would a stop wait for the connection.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::Frame;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Body as HttpBody, Bytes};

/// A request's body, until it is over.
pub(super) struct Asked {
    body: Body,
    /// Until the first comes.
    silent: Option<Pin<Box<Sleep>>>,
    over: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Asked {
    /// Until `at`, or `stop`; the first begins by `begun`.
    pub(super) fn until(body: Body, begun: Instant, at: Instant, stop: CancellationToken) -> Body {
        let silent = Some(Box::pin(sleep_until(begun)));
        let over = async move { drop(timeout_at(at, stop.cancelled()).await) };
        Body::new(Asked { body, silent, over: Box::pin(over) })
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
            Poll::Pending => {
                let silent =
                    self.silent.as_mut().is_some_and(|silent| silent.as_mut().poll(context).is_ready());
                if silent {
                    return Poll::Ready(None);
                }
                self.over.as_mut().poll(context).map(|()| None)
            }
            frame => {
                self.silent = None;
                frame
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}
