//! Calls of RatingService; those of runs are in [`super::runs`], and summaries and changes in
//! [`super::usage`]. A RateWindow that begins a run
//! carries a request id, so that it finds its run again after a broken connection, and never
//! starts a second one.

use std::time::{Duration, Instant};

use tonic::Response;

use super::{Channel, Failure};
use crate::proto::rating_service_client::RatingServiceClient;
use crate::proto::{GetRatedUsageRequest, GetRatedUsageResponse, RateWindowRequest, RateWindowResponse};

/// Between two tries, unless the service asks for another pause.
pub(super) const PAUSE: Duration = Duration::from_secs(1);
/// A call that lasted longer than any attempt to connect had been taken by a service.
const WAS_TAKEN: Duration = Duration::from_secs(10);
/// Pages are below 2 MiB; this is room for a server of another version.
const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// Calls a rating service. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RatingClient {
    pub(super) client: RatingServiceClient<Channel>,
}

impl RatingClient {
    /// Calls over `channel`.
    pub fn new(channel: Channel) -> RatingClient {
        RatingClient {
            client: RatingServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES),
        }
    }

    /// Rates a window, and waits for the run's end unless it is detached. The same request is
    /// made again while the connection is broken or the service is away, for `retry_for` at a
    /// time; `notice` is told once.
    pub async fn rate(
        &mut self,
        request: RateWindowRequest,
        retry_for: Duration,
        mut notice: impl FnMut(&Failure),
    ) -> Result<RateWindowResponse, Failure> {
        let repeatable = request.dry_run || !request.request_id.is_empty();
        debug_assert!(repeatable, "without an id a retry would be another run");
        let mut deadline = Instant::now() + retry_for;
        let mut noticed = false;
        loop {
            let began = Instant::now();
            let failure = match self.client.rate_window(request.clone()).await {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) => Failure::from(status),
            };
            // The service was there until now.
            if failure.reason == "RUN_CONTINUES" || began.elapsed() > WAS_TAKEN {
                deadline = Instant::now() + retry_for;
            }
            let pause = failure.retry_after.unwrap_or(PAUSE);
            if !finds_its_run_again(&failure) || Instant::now() + pause > deadline {
                return Err(failure);
            }
            if !std::mem::replace(&mut noticed, true) {
                notice(&failure);
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// One page of rated usage.
    pub async fn rated_usage(
        &mut self,
        request: GetRatedUsageRequest,
    ) -> Result<GetRatedUsageResponse, Failure> {
        Ok(self.client.get_rated_usage(request).await.map(Response::into_inner)?)
    }
}

/// A run that has failed is recorded: asking again gives the same answer. So does a window that
/// another run holds, for as long as that takes. A run that goes on without its process says when
/// to ask again.
fn finds_its_run_again(failure: &Failure) -> bool {
    let goes_on = failure.reason == "RUN_CONTINUES" || failure.retry_after.is_some();
    let recorded = failure.metadata.contains_key("run") && !goes_on;
    failure.may_pass && !recorded && failure.reason != "WINDOW_BUSY"
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::super::scripted::Answer;
    use super::super::scripted::rating::{Script, serve};
    use super::*;
    use crate::proto::RunState;
    use crate::service::{Error, FailureReason, RunFailure};

    fn failed(reason: FailureReason) -> Error {
        let (run_id, message) = ("r1".into(), "gone".into());
        let goes_on = reason == FailureReason::ShuttingDown;
        Error::RunFailed(RunFailure { run_id, reason, message, hours_committed: 3, left: None, goes_on })
    }

    fn succeeded() -> Answer<RateWindowResponse> {
        let state = RunState::Succeeded.into();
        Answer::Is(RateWindowResponse { run_id: "r1".into(), state, result: None })
    }

    /// What rating came to, the ids that it was asked under, and how often it was noticed.
    async fn rate(
        script: Vec<Answer<RateWindowResponse>>,
        request: RateWindowRequest,
        retry_for: Duration,
    ) -> (Result<String, Failure>, Vec<String>, usize) {
        let service = serve(Script { rate: script.into(), ..Script::default() }).await;
        let channel = super::super::connect(&service.server()).await.expect("it listens");
        let mut notices = 0;
        let rated = RatingClient::new(channel).rate(request, retry_for, |_| notices += 1).await;
        let ids = service.rated().into_iter().map(|request| request.request_id).collect();
        (rated.map(|response| response.run_id), ids, notices)
    }

    fn request() -> RateWindowRequest {
        RateWindowRequest { request_id: "id".into(), ..RateWindowRequest::default() }
    }

    #[tokio::test]
    async fn a_run_that_is_handed_over_is_asked_for_again_under_its_id() {
        let script =
            vec![Answer::Refuses(failed(FailureReason::ShuttingDown)), Answer::Refuses(Error::ShuttingDown)];
        let script = script.into_iter().chain([succeeded()]).collect();
        let (rated, ids, notices) = rate(script, request(), Duration::from_secs(60)).await;
        assert_eq!((rated.as_deref(), notices), (Ok("r1"), 1));
        assert_eq!(ids, ["id"; 3]);
    }

    #[tokio::test]
    async fn a_recorded_failure_and_a_busy_window_are_not_asked_for_again() {
        let busy = Error::WindowBusy { run_id: "r2".into(), until: chrono::Utc::now() };
        for refusal in [failed(FailureReason::OutcomeUnknown), failed(FailureReason::LeaseLost), busy] {
            let (rated, ids, notices) =
                rate(vec![Answer::Refuses(refusal)], request(), Duration::from_secs(60)).await;
            assert!(rated.is_err());
            assert_eq!((ids.len(), notices), (1, 0));
        }
    }

    #[tokio::test]
    async fn a_dry_run_is_repeated_without_an_id() {
        let script = vec![Answer::Fails(ErrorKind::ConnectionRefused), succeeded()];
        let request = RateWindowRequest { dry_run: true, ..RateWindowRequest::default() };
        let (rated, ids, notices) = rate(script, request, Duration::from_secs(60)).await;
        assert_eq!((rated.as_deref(), notices), (Ok("r1"), 1));
        assert_eq!(ids, [""; 2]);
    }

    #[tokio::test]
    async fn a_service_that_stays_away_ends_it_in_bounded_time() {
        let script = (0..100).map(|_| Answer::Fails(ErrorKind::ConnectionRefused)).collect();
        let (rated, ids, _) = rate(script, request(), Duration::from_millis(1_500)).await;
        assert_eq!(rated.expect_err("given up").code, "UNAVAILABLE");
        assert_eq!(ids.len(), 2);
    }
}
