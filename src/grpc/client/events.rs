//! Batches of events to the service, each tried once, or again until it is answered: repeating
//! one is safe, what was stored counts as a duplicate.

use std::time::{Duration, Instant};

use tonic::{Request, Response};

use super::{Channel, Failure};
use crate::proto::event_service_client::EventServiceClient;
use crate::proto::{RecordEventsRequest, RecordEventsResponse};

/// How long one try waits for an answer.
pub const TRY_TIMEOUT: Duration = Duration::from_secs(30);

/// The pause after the first try; each next one is twice as long, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Sends batches.
#[derive(Debug)]
pub struct EventSender {
    client: EventServiceClient<Channel>,
    retry_for: Duration,
}

impl EventSender {
    /// Sends over `channel`; a batch that gets no answer is tried again for `retry_for`.
    pub fn new(channel: Channel, retry_for: Duration) -> EventSender {
        EventSender { client: EventServiceClient::new(channel), retry_for }
    }

    /// Sends one batch. `notice` is told once, before it is tried again for the first time.
    pub async fn send(
        &mut self,
        batch: RecordEventsRequest,
        mut notice: impl FnMut(&Failure),
    ) -> Result<RecordEventsResponse, Failure> {
        let deadline = Instant::now() + self.retry_for;
        let mut pause = FIRST_PAUSE;
        loop {
            // A try that begins late ends soon after the deadline.
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = TRY_TIMEOUT.min(left.max(Duration::from_secs(1)));
            let failure = match self.send_once(batch.clone(), timeout).await {
                Ok(response) => return Ok(response),
                Err(failure) => failure,
            };
            let wait = jittered(pause).max(failure.retry_after.unwrap_or_default().min(LONGEST_PAUSE));
            if !failure.may_pass || Instant::now() + wait >= deadline {
                return Err(failure);
            }
            if pause == FIRST_PAUSE {
                notice(&failure);
            }
            tokio::time::sleep(wait).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Sends one batch once, and waits for its answer for about `timeout`. A failure leaves open
    /// whether the batch was stored, unless the service refused it.
    pub async fn send_once(
        &mut self,
        batch: RecordEventsRequest,
        timeout: Duration,
    ) -> Result<RecordEventsResponse, Failure> {
        let mut request = Request::new(batch);
        request.set_timeout(timeout);
        // tonic's own timeout ends with the answer's headers; a server that stops after them
        // must not hold us.
        let patience = timeout + Duration::from_secs(1);
        match tokio::time::timeout(patience, self.client.record_events(request)).await {
            Ok(answer) => Ok(answer.map(Response::into_inner)?),
            Err(_) => Err(Failure::no_answer(patience)),
        }
    }
}

/// Between half of a pause and all of it, so that clients that failed together don't come
/// back together.
pub fn jittered(pause: Duration) -> Duration {
    let (random, _) = uuid::Uuid::new_v4().as_u64_pair();
    let half = pause / 2;
    let millis = u64::try_from(half.as_millis()).unwrap_or_default();
    half + Duration::from_millis(random % millis.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::super::scripted::{Does, Scripted, serve};
    use super::*;
    use crate::domain::violation::Violation;
    use crate::proto::BillingEvent;
    use crate::service;

    /// What sending one batch came to, and how often it was noticed.
    async fn send(
        does: Vec<Does>,
        broken: usize,
        retry_for: &str,
    ) -> (Result<i64, Failure>, usize, Scripted) {
        let service = serve(does, broken).await;
        let channel = super::super::connect(&service.server()).await.expect("it listens");
        let retry_for = Duration::from_millis(retry_for.parse().expect("milliseconds"));
        let mut sender = EventSender::new(channel, retry_for);
        let id = |n: usize| format!("{n}{}", "r".repeat(200));
        let events = (0..10).map(|n| BillingEvent { request_id: id(n), ..BillingEvent::default() }).collect();
        let mut notices = 0;
        let batch = RecordEventsRequest { events, skip_invalid: false };
        let result = sender.send(batch, |_| notices += 1).await;
        (result.map(|response| response.stored), notices, service)
    }

    #[tokio::test]
    async fn a_batch_is_tried_again_until_it_is_answered() {
        // UNAVAILABLE, DEADLINE_EXCEEDED, ABORTED, RESOURCE_EXHAUSTED.
        let does = [ErrorKind::ConnectionRefused, ErrorKind::TimedOut, ErrorKind::ConnectionAborted];
        let does = does.into_iter().map(Does::Fails).chain([Does::Refuses(service::Error::Overloaded)]);
        let (result, notices, service) = send(does.collect(), 0, "60000").await;
        assert_eq!((result, notices), (Ok(10), 1));
        assert_eq!(service.calls(), [10; 5]);
    }

    #[tokio::test]
    async fn a_connection_that_breaks_under_a_call_is_made_again() {
        let (result, notices, service) = send(vec![], 2, "60000").await;
        assert_eq!((result, notices), (Ok(10), 1));
        assert_eq!(service.calls(), [10]);
    }

    #[tokio::test]
    async fn a_service_that_stays_away_ends_it_in_bounded_time() {
        let started = Instant::now();
        let does = (0..100).map(|_| Does::Fails(ErrorKind::ConnectionRefused)).collect();
        let (result, _, service) = send(does, 0, "500").await;
        assert!(started.elapsed() < Duration::from_secs(5));
        assert_eq!(result.expect_err("given up").code, "UNAVAILABLE");
        assert!(service.calls().len() > 1, "tried again");
    }

    #[tokio::test]
    async fn a_service_that_does_not_answer_ends_it_in_bounded_time() {
        let started = Instant::now();
        let (result, _, _) = send(vec![Does::Hangs, Does::Hangs], 0, "1000").await;
        assert!(started.elapsed() < Duration::from_secs(5));
        assert!(result.expect_err("given up").may_pass);
    }

    #[tokio::test]
    async fn a_refusal_is_not_tried_again() {
        let refusals = [
            service::Error::Invalid(vec![Violation::new("events[0].model", "TOO_LONG", "shorten it")]),
            service::Error::EventConflict(vec![Violation::new(
                "events[0].request_id",
                "EVENT_CONFLICT",
                "other",
            )]),
        ];
        for (refusal, code) in refusals.into_iter().zip(["INVALID_ARGUMENT", "ALREADY_EXISTS"]) {
            let (result, notices, service) = send(vec![Does::Refuses(refusal)], 0, "60000").await;
            let failure = result.expect_err("refused");
            assert_eq!((failure.code, failure.violations.len(), notices), (code, 1, 0));
            assert_eq!(service.calls(), [10]);
        }
    }

    #[test]
    fn a_pause_keeps_half_of_its_length() {
        for _ in 0..100 {
            let pause = jittered(Duration::from_millis(100));
            assert!((50..=100).contains(&pause.as_millis()), "{pause:?}");
        }
    }
}
