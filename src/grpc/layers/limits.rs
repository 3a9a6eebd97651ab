//! How much is taken on at once: calls of one caller in a second, calls in all, what their requests
//! take on their way, and for how long each goes on. Past a limit the answer is there at once, with
//! nothing of the call read.
//!
//! It stands behind [`super::access`]: whoever may not call takes nothing from those who may.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http;

use super::held::{Ends, Held};
use super::rate::Rates;
use super::{Around, Next, Request, Response, pass};
use crate::grpc::connection::Peer;
use crate::grpc::deadline::Deadline;
use crate::grpc::message::{Room, What};
use crate::grpc::status::{deadline_passed, rate_limited, status};
use crate::metrics::Metrics;
use crate::service::Error;

/// Health checks at once, watches of it, and conversations with reflection: each kind has places of
/// its own, so that no load makes a healthy service look dead.
const SIDE_CALLS: usize = 128;

/// How long a request may take to arrive: 4 MiB at over a megabit a second.
const ARRIVES_WITHIN: Duration = Duration::from_secs(30);

/// How long an answer that is no stream may take to be taken, and how long after its deadline a
/// stream.
const TAKEN_WITHIN: Duration = Duration::from_secs(60);

/// What a call is, by its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// One message in, one out.
    Unary,
    /// One message in, many out, which end by themselves when the service stops.
    Stream,
    /// Answers for its own deadline: what goes on has a name that the caller must get.
    OwnWords,
    /// The same, and reads its message by itself.
    Events,
    /// Health and reflection.
    Side(Side),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Check,
    Watch,
    Reflection,
}

impl Kind {
    fn of(path: &str) -> Kind {
        match path {
            "/rating.v1.RatingService/RateWindow" => Kind::OwnWords,
            "/rating.v1.RatingService/WatchRun" | "/rating.v1.RatingService/StreamRatedUsageChanges" => {
                Kind::Stream
            }
            "/rating.v1.EventService/RecordEvents" => Kind::Events,
            "/grpc.health.v1.Health/Check" => Kind::Side(Side::Check),
            _ if path.starts_with("/grpc.health.v1.Health/") => Kind::Side(Side::Watch),
            _ if path.starts_with("/grpc.reflection.") => Kind::Side(Side::Reflection),
            _ => Kind::Unary,
        }
    }
}

/// The layer. Clones share all places.
#[derive(Clone)]
pub struct Limited {
    rates: Rates,
    calls: Arc<Semaphore>,
    sides: Arc<[Arc<Semaphore>; 3]>,
    room: Room,
    max_call_time: Duration,
    stop: CancellationToken,
    metrics: Arc<Metrics>,
}

impl Limited {
    /// Until `stop`, when health and reflection end what they still say.
    pub fn to(
        limits: &crate::grpc::limits::Limits,
        stop: CancellationToken,
        metrics: Arc<Metrics>,
    ) -> Limited {
        let sides = std::array::from_fn(|_| Arc::new(Semaphore::new(SIDE_CALLS)));
        Limited {
            rates: Rates::of(limits.max_calls_per_second),
            calls: Arc::new(Semaphore::new(limits.max_calls)),
            sides: Arc::new(sides),
            room: Room::of(What::Request),
            max_call_time: limits.max_call_time,
            stop,
            metrics,
        }
    }

    /// A place for a call, or why it gets none.
    fn admit(&self, kind: Kind, extensions: &http::Extensions) -> Result<CallPlace, Status> {
        let (places, metrics) = match kind {
            Kind::Side(side) => (&self.sides[side as usize], None),
            Kind::Unary | Kind::Stream | Kind::OwnWords | Kind::Events => {
                self.rates.check(extensions).map_err(|wait| {
                    self.metrics.call_refused("rate_limited");
                    rate_limited(wait)
                })?;
                (&self.calls, Some(self.metrics.clone()))
            }
        };
        let permit = places.clone().try_acquire_owned().map_err(|_| {
            self.metrics.call_refused("overloaded");
            status(Error::Overloaded)
        })?;
        Ok(CallPlace::take(permit, metrics))
    }

    async fn answer<N: Next>(&self, request: Request, next: N) -> Result<Response, Status> {
        let kind = Kind::of(request.uri().path());
        let place = self.admit(kind, request.extensions())?;
        let deadline = Deadline::of(request.headers(), self.max_call_time)?;
        let (mut head, mut body) = request.into_parts();
        head.extensions.insert(deadline);
        let mut room = None;
        if !matches!(kind, Kind::Events | Kind::Side(_)) {
            let arrived = timeout_at(deadline.at(), self.room.receive(body, ARRIVES_WITHIN)).await;
            let mut arrived = arrived.unwrap_or_else(|_| Err(deadline_passed()))?;
            room = arrived.take_room();
            body = Body::new(arrived);
        }
        let answering = pass(next, http::Request::from_parts(head, body));
        let response = match kind {
            Kind::OwnWords | Kind::Events => answering.await,
            Kind::Unary | Kind::Stream | Kind::Side(_) => {
                timeout_at(deadline.at(), answering).await.map_err(|_| deadline_passed())?
            }
        };
        let untaken_at = match kind {
            Kind::Unary | Kind::OwnWords | Kind::Events => Instant::now() + TAKEN_WITHIN,
            Kind::Stream | Kind::Side(_) => deadline.at() + TAKEN_WITHIN,
        };
        let at = match kind {
            Kind::Stream | Kind::Side(_) => deadline.at(),
            // It is made, and goes as it is.
            Kind::Unary | Kind::OwnWords | Kind::Events => untaken_at,
        };
        let stop = matches!(kind, Kind::Side(_)).then(|| self.stop.clone());
        // What is made of a request may take as much as it did, for as long.
        let held = (place, room);
        Ok(response.map(|body| Held::wrap(body, held, Ends { at, untaken_at, stop })))
    }
}

impl Around for Limited {
    async fn around<N: Next>(self, request: Request, next: N) -> Response {
        let peer = request.extensions().get::<Peer>().cloned();
        let given_up = GivenUp(peer);
        let response = self.answer(request, next).await.unwrap_or_else(Status::into_http);
        // Ours has no source: the request broke off on its way.
        let broke_off = response.extensions().get::<Status>().is_some_and(|status| status.source().is_some());
        if !broke_off {
            given_up.no();
        }
        response
    }
}

/// Counts a call against its connection when it is dropped before its answer, or broke off before
/// its request was whole: both are what a reset looks like.
struct GivenUp(Option<Peer>);

impl GivenUp {
    fn no(mut self) {
        self.0 = None;
    }
}

impl Drop for GivenUp {
    fn drop(&mut self) {
        if let Some(peer) = &self.0 {
            peer.resets.another();
        }
    }
}

/// A call's place among all, until it is dropped.
struct CallPlace {
    _permit: OwnedSemaphorePermit,
    metrics: Option<Arc<Metrics>>,
}

impl CallPlace {
    fn take(permit: OwnedSemaphorePermit, metrics: Option<Arc<Metrics>>) -> CallPlace {
        if let Some(metrics) = &metrics {
            metrics.calls(1);
        }
        CallPlace { _permit: permit, metrics }
    }
}

impl Drop for CallPlace {
    fn drop(&mut self) {
        if let Some(metrics) = &self.metrics {
            metrics.calls(-1);
        }
    }
}
