//! One batch to the service, tried again until it is answered: repeating a batch is safe,
//! what was stored counts as a duplicate.

use std::error::Error;
use std::time::{Duration, Instant};

use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use crate::proto::event_service_client::EventServiceClient;
use crate::proto::{RecordEventsRequest, RecordEventsResponse};

/// How long one try waits for an answer.
const TRY_TIMEOUT: Duration = Duration::from_secs(30);

/// The pause after the first try; each next one is twice as long, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Sends batches.
pub struct Sender {
    client: EventServiceClient<Channel>,
    retry_for: Duration,
}

impl Sender {
    /// Sends over `channel`; a batch that gets no answer is tried again for `retry_for`.
    pub fn new(channel: Channel, retry_for: Duration) -> Sender {
        Sender { client: EventServiceClient::new(channel), retry_for }
    }

    /// Sends one batch. `notice` is told once, before it is tried again for the first time.
    pub async fn send(
        &mut self,
        batch: RecordEventsRequest,
        mut notice: impl FnMut(&Status),
    ) -> Result<RecordEventsResponse, Status> {
        let deadline = Instant::now() + self.retry_for;
        let mut pause = FIRST_PAUSE;
        loop {
            // A try that begins late ends soon after the deadline.
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = TRY_TIMEOUT.min(left.max(Duration::from_secs(1)));
            let status = match self.try_once(batch.clone(), timeout).await {
                Ok(response) => return Ok(response),
                Err(status) => status,
            };
            let asked = status.get_details_retry_info().and_then(|info| info.retry_delay).unwrap_or_default();
            let wait = jittered(pause).max(asked.min(LONGEST_PAUSE));
            if !may_pass(&status) || Instant::now() + wait >= deadline {
                return Err(status);
            }
            if pause == FIRST_PAUSE {
                notice(&status);
            }
            tokio::time::sleep(wait).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn try_once(
        &mut self,
        batch: RecordEventsRequest,
        timeout: Duration,
    ) -> Result<RecordEventsResponse, Status> {
        let mut request = Request::new(batch);
        request.set_timeout(timeout);
        // The client's own timeout ends with the answer's headers; a server that stops after
        // them must not hold us.
        let answer =
            tokio::time::timeout(timeout + Duration::from_secs(1), self.client.record_events(request));
        match answer.await {
            Ok(result) => result.map(tonic::Response::into_inner),
            Err(_) => Err(Status::deadline_exceeded("no answer in time")),
        }
    }
}

/// Whether another try may be answered otherwise. A status with a source was made up here: the
/// connection broke, and the client has no better code for it than UNKNOWN. CANCELLED is how
/// a deadline that passed on the way comes back.
fn may_pass(status: &Status) -> bool {
    status.source().is_some()
        || matches!(
            status.code(),
            Code::Unavailable
                | Code::ResourceExhausted
                | Code::DeadlineExceeded
                | Code::Aborted
                | Code::Cancelled
        )
}

/// Between half of a pause and all of it, so that clients that failed together don't come
/// back together.
fn jittered(pause: Duration) -> Duration {
    let half = pause / 2;
    let random = uuid::Uuid::new_v4().as_u128() as u64;
    half + Duration::from_millis(random % (half.as_millis() as u64 + 1))
}
