//! EventService on the wire. What calls hold in memory is bounded however many come at once, and at
//! whatever pace: those on their way by the bytes that they have sent ([`super::message`]), and those that are
//! whole by their places. Past either the answer is OVERLOADED, at once, and with nothing read where
//! all places are taken. A batch gets its place when it is whole, so one that crawls in takes none.
//! It is read event by event ([`batch`]), so that one which is no event at all is named like any
//! other.
//!
//! It takes the place of the generated server, which reads and decodes first and asks afterwards.

mod batch;

use std::convert::Infallible;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::codegen::{BoxFuture, Service};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status};

use super::convert::events::record_events_response;
use super::deadline::Deadline;
use super::message::{Room, What, Within};
use super::status::{batch_deadline_passed, status, unknown_method};
use super::who::Who;
use crate::proto::RecordEventsResponse;
use crate::service::Error;
use crate::service::record_events::{EventIntake, Place};
use batch::{Batch, BatchCodec};

const RECORD_EVENTS: &str = "/rating.v1.EventService/RecordEvents";

/// EventService, over the intake that it was given.
#[derive(Debug, Clone)]
pub struct EventServer {
    intake: EventIntake,
    room: Room,
    within: Within,
}

impl EventServer {
    /// Serves `intake`.
    pub fn new(intake: EventIntake) -> EventServer {
        EventServer { intake, room: Room::of(What::Batch), within: Within::MESSAGE }
    }

    /// The same with another limit on how long a batch may take to arrive.
    pub fn arriving_within(self, arrives_within: Duration) -> EventServer {
        EventServer { within: Within { begun: arrives_within, whole: arrives_within }, ..self }
    }

    /// The same until `stop`, when what is on its way is not waited for.
    pub fn until(self, stop: CancellationToken) -> EventServer {
        EventServer { room: self.room.until(stop), ..self }
    }
}

impl NamedService for EventServer {
    const NAME: &'static str = "rating.v1.EventService";
}

impl Service<http::Request<Body>> for EventServer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let server = self.clone();
        Box::pin(async move {
            Ok(match request.uri().path() {
                RECORD_EVENTS => server.record_events(request).await,
                _ => unknown_method().into_http(),
            })
        })
    }
}

impl EventServer {
    async fn record_events(&self, request: http::Request<Body>) -> http::Response<Body> {
        match Deadline::known(request.extensions(), request.headers()) {
            None => self.answer(request).await,
            Some(deadline) => tokio::time::timeout_at(deadline.at(), self.answer(request))
                .await
                .unwrap_or_else(|_| batch_deadline_passed().into_http()),
        }
    }

    async fn answer(&self, request: http::Request<Body>) -> http::Response<Body> {
        let (head, body) = request.into_parts();
        if self.intake.is_full() {
            return status(Error::Overloaded).into_http();
        }
        let arrived = match self.room.receive(body, &Who::of(&head.extensions), self.within).await {
            Ok(arrived) => arrived,
            Err(status) => return status.into_http(),
        };
        let place = match self.intake.admit() {
            Ok(place) => place,
            Err(error) => return status(error).into_http(),
        };
        let request = http::Request::from_parts(head, Body::new(arrived));
        Grpc::new(BatchCodec).unary(Record(Some(place)), request).await
    }
}

/// The one call that a place is for.
struct Record(Option<Place>);

impl UnaryService<Batch> for Record {
    type Response = RecordEventsResponse;
    type Future = BoxFuture<Response<RecordEventsResponse>, Status>;

    fn call(&mut self, request: Request<Batch>) -> Self::Future {
        let place = self.0.take();
        let Batch { events, skip_invalid } = request.into_inner();
        Box::pin(async move {
            let Some(place) = place else { return Err(status(Error::Internal)) };
            let recorded = place.record(events, skip_invalid).await.map_err(status)?;
            Ok(Response::new(record_events_response(recorded)))
        })
    }
}
