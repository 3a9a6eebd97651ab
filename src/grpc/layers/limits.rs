//! How much is taken on at once: calls of one caller in a second, calls in all, what their requests
//! take on their way, and for how long each goes on. Past a limit the answer is there at once, with
//! nothing of the call read.
//!
//! It stands behind [`super::access`]: whoever may not call takes nothing from those who may.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http;

use super::access::is_stream;
use super::held::{Ends, Held};
use super::rate::Rates;
use super::sides::Sides;
use super::{Around, Next, Request, Response, pass};
use crate::grpc::activity::Going;
use crate::grpc::connection::Peer;
use crate::grpc::deadline::Deadline;
use crate::grpc::message::{Room, What, Within};
use crate::grpc::shares::{Share, Shares};
use crate::grpc::status::{deadline_passed, rate_limited, status};
use crate::grpc::who::Who;
use crate::metrics::Metrics;
use crate::service::Error;

/// How long an answer that is no stream may take to be taken, and how long after its deadline a
/// stream.
pub(super) const TAKEN_WITHIN: Duration = Duration::from_secs(60);

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
}

impl Kind {
    fn of(path: &str) -> Kind {
        match path {
            "/rating.v1.RatingService/RateWindow" => Kind::OwnWords,
            "/rating.v1.EventService/RecordEvents" => Kind::Events,
            _ if is_stream(path) => Kind::Stream,
            _ => Kind::Unary,
        }
    }
}

/// The layer. Clones share all places.
#[derive(Clone)]
pub struct Limited {
    rates: Rates,
    calls: Shares<Who>,
    max_calls: usize,
    sides: Sides,
    room: Room,
    max_call_time: Duration,
    metrics: Arc<Metrics>,
}

impl Limited {
    /// Until `stop`, when health and reflection end what they still say, and nothing is waited for
    /// that is on its way.
    pub fn to(
        limits: &crate::grpc::limits::Limits,
        stop: CancellationToken,
        metrics: Arc<Metrics>,
    ) -> Limited {
        Limited {
            rates: Rates::of(limits.max_calls_per_second),
            calls: Shares::of(limits.max_calls),
            max_calls: limits.max_calls,
            room: Room::of(What::Request).until(stop.clone()),
            max_call_time: limits.max_call_time,
            sides: Sides::new(limits.max_call_time, stop, metrics.clone()),
            metrics,
        }
    }

    /// A place for a call, or why it gets none.
    fn admit(&self, who: &Who) -> Result<CallPlace, Status> {
        self.rates.check(who.clone()).map_err(|wait| {
            self.metrics.call_refused("rate_limited");
            rate_limited(wait)
        })?;
        let share = self.calls.take(who, 1, who.share(self.max_calls)).ok_or_else(|| {
            self.metrics.call_refused("overloaded");
            status(Error::Overloaded)
        })?;
        Ok(CallPlace::take(share, self.metrics.clone()))
    }

    async fn answer<N: Next>(&self, request: Request, next: N) -> Result<Response, Status> {
        let kind = Kind::of(request.uri().path());
        let who = Who::of(request.extensions());
        let place = self.admit(&who)?;
        let deadline = Deadline::of(request.headers(), self.max_call_time)?;
        let (mut head, mut body) = request.into_parts();
        let going = head.extensions.get::<Peer>().map(|peer| peer.activity.call());
        head.extensions.insert(deadline);
        let mut room = None;
        if kind != Kind::Events {
            let arrived = timeout_at(deadline.at(), self.room.receive(body, &who, Within::MESSAGE)).await;
            let mut arrived = arrived.unwrap_or_else(|_| Err(deadline_passed()))?;
            room = arrived.take_room();
            body = Body::new(arrived);
        }
        let answering = pass(next, http::Request::from_parts(head, body));
        let response = match kind {
            Kind::OwnWords | Kind::Events => answering.await,
            Kind::Unary | Kind::Stream => {
                timeout_at(deadline.at(), answering).await.map_err(|_| deadline_passed())?
            }
        };
        let untaken_at = match kind {
            Kind::Unary | Kind::OwnWords | Kind::Events => Instant::now() + TAKEN_WITHIN,
            Kind::Stream => deadline.at() + TAKEN_WITHIN,
        };
        let at = match kind {
            Kind::Stream => deadline.at(),
            // It is made, and goes as it is.
            Kind::Unary | Kind::OwnWords | Kind::Events => untaken_at,
        };
        // What is made of a request may take as much as it did, for as long.
        let held = (place, room, going.map(Going::answered));
        Ok(response.map(|body| Held::wrap(body, held, Ends { at, untaken_at, stop: None })))
    }
}

impl Around for Limited {
    async fn around<N: Next>(self, request: Request, next: N) -> Response {
        let peer = request.extensions().get::<Peer>().cloned();
        let given_up = GivenUp(peer);
        let answered = match self.sides.of(request.uri().path()) {
            Some(side) => self.sides.answer(side, request, next).await,
            None => self.answer(request, next).await,
        };
        let response = answered.unwrap_or_else(Status::into_http);
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
        if let Some(peer) = self.0.take() {
            peer.activity.answered();
        }
    }
}

impl Drop for GivenUp {
    fn drop(&mut self) {
        if let Some(peer) = &self.0 {
            peer.activity.given_up();
        }
    }
}

/// A call's place among all, until it is dropped.
struct CallPlace {
    _share: Share<Who>,
    metrics: Arc<Metrics>,
}

impl CallPlace {
    fn take(share: Share<Who>, metrics: Arc<Metrics>) -> CallPlace {
        metrics.calls(1);
        CallPlace { _share: share, metrics }
    }
}

impl Drop for CallPlace {
    fn drop(&mut self) {
        self.metrics.calls(-1);
    }
}
