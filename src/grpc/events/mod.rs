//! EventService on the wire. A batch gets its place before a byte of it is read, so that what
//! calls hold in memory is bounded however many come at once: past that the answer is OVERLOADED,
//! at once. A place is not held for ever by a batch that crawls in ([`body`]), and what arrives is
//! read event by event ([`batch`]), so that one which is no event at all is named like any other.
//!
//! It takes the place of the generated server, which reads and decodes first and asks afterwards.

mod batch;
mod body;

use std::convert::Infallible;
use std::task::{Context, Poll};
use std::time::Duration;

use tonic::body::Body;
use tonic::codegen::http::{self, HeaderMap};
use tonic::codegen::{BoxFuture, Service};
use tonic::metadata::MetadataMap;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status};

use super::convert::events::record_events_response;
use super::deadline::patience;
use super::status::{batch_deadline_passed, status, unknown_method};
use crate::proto::RecordEventsResponse;
use crate::service::record_events::{EventIntake, Place};
use batch::{Batch, BatchCodec};
use body::Arriving;

const RECORD_EVENTS: &str = "/rating.v1.EventService/RecordEvents";

/// How long a batch may take to arrive: 4 MiB at over a megabit a second.
const ARRIVES_WITHIN: Duration = Duration::from_secs(30);

/// EventService, over the intake that it was given.
#[derive(Debug, Clone)]
pub struct EventServer {
    intake: EventIntake,
    arrives_within: Duration,
}

impl EventServer {
    /// Serves `intake`.
    pub fn new(intake: EventIntake) -> EventServer {
        EventServer { intake, arrives_within: ARRIVES_WITHIN }
    }

    /// The same with another limit on how long a batch may take to arrive.
    pub fn arriving_within(self, arrives_within: Duration) -> EventServer {
        EventServer { arrives_within, ..self }
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
        let EventServer { intake, arrives_within } = self.clone();
        Box::pin(async move {
            Ok(match request.uri().path() {
                RECORD_EVENTS => record_events(&intake, arrives_within, request).await,
                _ => unknown_method().into_http(),
            })
        })
    }
}

async fn record_events(
    intake: &EventIntake,
    arrives_within: Duration,
    request: http::Request<Body>,
) -> http::Response<Body> {
    let place = match intake.admit() {
        Ok(place) => place,
        Err(error) => return status(error).into_http(),
    };
    let patience = patience(&metadata(request.headers()));
    let request = request.map(|body| Body::new(Arriving::new(body, arrives_within)));
    let mut grpc = Grpc::new(BatchCodec);
    let answer = grpc.unary(Record(Some(place)), request);
    match patience {
        None => answer.await,
        Some(patience) => tokio::time::timeout(patience, answer)
            .await
            .unwrap_or_else(|_| batch_deadline_passed().into_http()),
    }
}

fn metadata(headers: &HeaderMap) -> MetadataMap {
    MetadataMap::from_headers(headers.clone())
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
            let Some(place) = place else { return Err(status(crate::service::Error::Internal)) };
            let recorded = place.record(events, skip_invalid).await.map_err(status)?;
            Ok(Response::new(record_events_response(recorded)))
        })
    }
}
