//! A stream outlives the look at its caller that began it. The caller is looked at again when the
//! identities or the authorities change, and when what was shown ends. Who would not be let in any
//! more gets nothing more: after its last message the stream ends with what a new call would get.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use chrono::Utc;
use http_body::Frame;
use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::sleep;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::HeaderMap;
use tonic::codegen::{Body as HttpBody, Bytes};

use super::{Guard, Shown};
use crate::grpc::status::status;
use crate::service::Error;
use crate::service::caller::Role;

/// It is looked again so often in any case: a clock may be set.
const AT_LEAST_EVERY: i64 = 60;

/// What a caller is looked at again by.
pub(super) struct Again {
    pub(super) guard: Arc<Guard>,
    pub(super) changes: Changes,
    pub(super) shown: Shown,
    /// Roles, of which it needs one.
    pub(super) needed: Option<&'static [Role]>,
    /// Of the call.
    pub(super) path: String,
}

/// Tells when somebody may be known or allowed no more. Made before a caller is known: no change
/// falls between.
pub(super) struct Changes {
    pub(super) identities: watch::Receiver<()>,
    pub(super) authorities: Option<watch::Receiver<()>>,
}

impl Changes {
    /// Waits for the next, or until a moment, in Unix seconds.
    async fn wait(&mut self, until: i64) {
        let left = until.saturating_sub(Utc::now().timestamp()).clamp(1, AT_LEAST_EVERY);
        let authorities = async {
            match &mut self.authorities {
                Some(authorities) => authorities.changed().await.is_ok(),
                None => std::future::pending().await,
            }
        };
        // The guard, which tells, is kept by who waits.
        tokio::select! {
            _ = self.identities.changed() => {}
            _ = authorities => {}
            () = sleep(Duration::from_secs(left.unsigned_abs())) => {}
        }
    }
}

impl Again {
    /// `body`, for as long as its caller would be let in; what was shown is good until then.
    pub(super) fn while_let_in(self, body: Body, until: i64) -> Body {
        if body.is_end_stream() {
            return body;
        }
        let (sender, no_more) = oneshot::channel();
        // Apart from the body, which nobody polls while its client has no room for more.
        let looking = tokio::spawn(async move {
            // An error: the stream has ended.
            drop(sender.send(self.look(until).await));
        });
        Body::new(LetIn { body, no_more: Some(no_more), looking: looking.abort_handle() })
    }

    /// Looks again and again; why the caller would not be let in any more.
    async fn look(mut self, mut until: i64) -> Status {
        loop {
            self.changes.wait(until).await;
            until = match self.guard.admit(&self.shown, self.needed, &self.path) {
                Ok((_, until)) => until,
                Err(refused) => return refused,
            };
        }
    }
}

/// The answer's body.
struct LetIn {
    body: Body,
    /// None: it was said.
    no_more: Option<oneshot::Receiver<Status>>,
    looking: AbortHandle,
}

impl HttpBody for LetIn {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(no_more) = &mut self.no_more else { return Poll::Ready(None) };
        // First: a body that always has something to say would never end.
        let Poll::Ready(refused) = Pin::new(no_more).poll(context) else {
            return Pin::new(&mut self.body).poll_frame(context);
        };
        self.no_more = None;
        // What it holds is given back.
        self.body = Body::empty();
        // Nobody looks any more: a defect must let nobody in.
        let refused = refused.unwrap_or_else(|_| status(Error::Internal));
        let mut trailers = HeaderMap::new();
        Poll::Ready(Some(refused.add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.no_more.is_none() || self.body.is_end_stream()
    }
}

impl Drop for LetIn {
    fn drop(&mut self) {
        self.looking.abort();
    }
}
