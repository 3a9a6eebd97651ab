//! EventService on the wire.

use tonic::{Request, Response, Status};

use super::convert::events::{raw_event, record_events_response};
use super::status::status;
use crate::proto::event_service_server::EventService;
use crate::proto::{RecordEventsRequest, RecordEventsResponse};
use crate::service::record_events::EventIntake;

/// EventService, over the intake that it was given.
#[derive(Debug, Clone)]
pub struct Events {
    intake: EventIntake,
}

impl Events {
    /// Serves `intake`.
    pub fn new(intake: EventIntake) -> Events {
        Events { intake }
    }
}

#[tonic::async_trait]
impl EventService for Events {
    async fn record_events(
        &self,
        request: Request<RecordEventsRequest>,
    ) -> Result<Response<RecordEventsResponse>, Status> {
        let RecordEventsRequest { events, skip_invalid } = request.into_inner();
        let events = events.into_iter().map(raw_event).collect();
        let recorded = self.intake.record(events, skip_invalid).await.map_err(status)?;
        Ok(Response::new(record_events_response(recorded)))
    }
}
