//! An answer's body, which keeps what its call holds until it has ended: by itself, at its deadline,
//! or because nobody takes it. It ends between two messages and with a status, never broken off.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use http_body::Frame;
use tokio::task::AbortHandle;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::HeaderMap;
use tonic::codegen::{Body as HttpBody, Bytes};

use super::panics::words;
use crate::grpc::status::{status, stream_deadline_passed};
use crate::service::Error;

/// When a body ends that has not ended by itself.
pub(super) struct Ends {
    /// With DEADLINE_EXCEEDED, after the message in hand.
    pub(super) at: Instant,
    /// The same for one that nobody asks for more; what it holds is given back.
    pub(super) untaken_at: Instant,
    /// With SHUTTING_DOWN, after all that it has to say by then; for whatever doesn't do so itself.
    pub(super) stop: Option<CancellationToken>,
}

/// The body, and what is kept for as long as it goes on.
type Kept<H> = Arc<Mutex<Option<(Body, H)>>>;

/// The answer's body.
pub(super) struct Held<H> {
    kept: Kept<H>,
    deadline: Pin<Box<Sleep>>,
    stop: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    ended: bool,
    /// Of the task that ends what nobody takes: hyper polls no body that its client has no room for.
    untaken: AbortHandle,
}

impl<H: Send + 'static> Held<H> {
    /// `body`, with `held` until its end.
    pub(super) fn wrap(body: Body, held: H, ends: Ends) -> Body {
        if body.is_end_stream() {
            return body;
        }
        let Ends { at, untaken_at, stop } = ends;
        let kept: Kept<H> = Arc::new(Mutex::new(Some((body, held))));
        let other = kept.clone();
        let untaken = tokio::spawn(async move {
            sleep_until(untaken_at).await;
            let given_up = lock(&other).take();
            drop(given_up);
        });
        Body::new(Held {
            kept,
            deadline: Box::pin(sleep_until(at)),
            stop: stop.map(|stop| Box::pin(stop.cancelled_owned())),
            ended: false,
            untaken: untaken.abort_handle(),
        })
    }

    fn end(&mut self, status: &Status) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.ended = true;
        drop(lock(&self.kept).take());
        let mut trailers = HeaderMap::new();
        Poll::Ready(Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
    }
}

fn lock<H>(kept: &Kept<H>) -> MutexGuard<'_, Option<(Body, H)>> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<H> Drop for Held<H> {
    fn drop(&mut self) {
        self.untaken.abort();
    }
}

impl<H: Send + 'static> HttpBody for Held<H> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        // First: a body that always has something to say would never end.
        if self.deadline.as_mut().poll(context).is_ready() {
            return self.end(&stream_deadline_passed());
        }
        let kept = self.kept.clone();
        let polled = lock(&kept)
            .as_mut()
            .map(|(body, _)| catch_unwind(AssertUnwindSafe(|| Pin::new(body).poll_frame(context))));
        match polled {
            None => self.end(&stream_deadline_passed()),
            Some(Err(panic)) => {
                tracing::error!(panic = words(&*panic), "an answer panicked");
                self.end(&status(Error::Internal))
            }
            Some(Ok(Poll::Pending)) => {
                let stopped = self.stop.as_mut().is_some_and(|stop| stop.as_mut().poll(context).is_ready());
                if stopped { self.end(&status(Error::ShuttingDown)) } else { Poll::Pending }
            }
            Some(Ok(Poll::Ready(None))) => {
                self.ended = true;
                drop(lock(&kept).take());
                Poll::Ready(None)
            }
            Some(Ok(frame)) => frame,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::{OwnedSemaphorePermit, Semaphore};
    use tonic::Code;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// Says `left` words, then nothing, or a defect.
    struct Says {
        left: u32,
        well: bool,
    }

    impl HttpBody for Says {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            assert!(self.well || self.left > 0, "a defect");
            let Some(left) = self.left.checked_sub(1) else { return Poll::Pending };
            self.left = left;
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"word")))))
        }
    }

    fn place() -> (Arc<Semaphore>, OwnedSemaphorePermit) {
        let places = Arc::new(Semaphore::new(1));
        let place = places.clone().try_acquire_owned().expect("free");
        (places, place)
    }

    async fn next(body: &mut Body) -> Option<Result<&'static str, Code>> {
        let frame = std::future::poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await?;
        Some(match frame.expect("no error").into_data() {
            Ok(_) => Ok("word"),
            Err(end) => {
                let trailers = end.into_trailers().expect("trailers");
                Err(Status::from_header_map(&trailers).expect("a status").code())
            }
        })
    }

    fn body(says: Says, in_ms: u64, stop: Option<CancellationToken>) -> (Arc<Semaphore>, Body) {
        let (places, place) = place();
        let at = Instant::now() + Duration::from_millis(in_ms);
        (places, Held::wrap(Body::new(says), place, Ends { at, untaken_at: Instant::now() + LONG, stop }))
    }

    #[tokio::test]
    async fn a_stream_ends_at_its_deadline_with_a_status_after_what_it_said() {
        let (places, mut body) = body(Says { left: 1, well: true }, 100, None);
        assert_eq!(next(&mut body).await, Some(Ok("word")));
        assert_eq!(places.available_permits(), 0);
        assert_eq!(next(&mut body).await, Some(Err(Code::DeadlineExceeded)));
        assert_eq!((next(&mut body).await, places.available_permits()), (None, 1));
        // Also where there would always be more.
        let (_, mut body) = self::body(Says { left: u32::MAX, well: true }, 50, None);
        let end = loop {
            match next(&mut body).await {
                Some(Ok(_)) => tokio::task::yield_now().await,
                end => break end,
            }
        };
        assert_eq!(end, Some(Err(Code::DeadlineExceeded)));
    }

    #[tokio::test]
    async fn a_stop_ends_what_has_nothing_left_to_say() {
        let stop = CancellationToken::new();
        stop.cancel();
        let (places, mut body) = body(Says { left: 2, well: true }, 60_000, Some(stop));
        assert_eq!((next(&mut body).await, next(&mut body).await), (Some(Ok("word")), Some(Ok("word"))));
        assert_eq!(next(&mut body).await, Some(Err(Code::Unavailable)));
        assert_eq!(places.available_permits(), 1);
    }

    #[tokio::test]
    async fn a_defect_on_the_way_is_no_good_end() {
        let (places, mut body) = body(Says { left: 1, well: false }, 60_000, None);
        assert_eq!(next(&mut body).await, Some(Ok("word")));
        assert_eq!(next(&mut body).await, Some(Err(Code::Internal)));
        assert_eq!(places.available_permits(), 1);
    }

    #[tokio::test]
    async fn an_answer_that_nobody_takes_keeps_no_place() {
        let (places, place) = place();
        let soon = Instant::now() + Duration::from_millis(50);
        let ends = Ends { at: Instant::now() + LONG, untaken_at: soon, stop: None };
        let mut body = Held::wrap(Body::new(Says { left: 9, well: true }), place, ends);
        let _back = places.acquire().await.expect("open");
        assert_eq!(next(&mut body).await, Some(Err(Code::DeadlineExceeded)));
    }
}
