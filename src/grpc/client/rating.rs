//! Calls of RatingService. A RateWindow always carries a request id, so that it finds its run
//! again after a broken connection, and never starts a second one.

use std::time::{Duration, Instant};

use tonic::Response;

use super::{Channel, Failure};
use crate::proto::rating_service_client::RatingServiceClient;
use crate::proto::{GetRatedUsageRequest, GetRatedUsageResponse, RateWindowRequest, RateWindowResponse};

const PAUSE: Duration = Duration::from_secs(1);
/// Pages are below 2 MiB; this is room for a server of another version.
const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// Calls a rating service.
#[derive(Debug)]
pub struct RatingClient {
    client: RatingServiceClient<Channel>,
}

impl RatingClient {
    /// Calls over `channel`.
    pub fn new(channel: Channel) -> RatingClient {
        RatingClient {
            client: RatingServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES),
        }
    }

    /// Rates a window, and waits for the run's end. The same request is made again for
    /// `retry_for` while the connection is broken or the service is away; `notice` is told once.
    pub async fn rate(
        &mut self,
        request: RateWindowRequest,
        retry_for: Duration,
        mut notice: impl FnMut(&Failure),
    ) -> Result<RateWindowResponse, Failure> {
        debug_assert!(!request.request_id.is_empty(), "without it a retry would be another run");
        let mut deadline = Instant::now() + retry_for;
        let mut noticed = false;
        loop {
            let failure = match self.client.rate_window(request.clone()).await {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) => Failure::from(status),
            };
            if failure.reason == "RUN_CONTINUES" {
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
/// another run holds, for as long as that takes.
fn finds_its_run_again(failure: &Failure) -> bool {
    let recorded = failure.metadata.contains_key("run") && failure.reason != "RUN_CONTINUES";
    failure.may_pass && !recorded && failure.reason != "WINDOW_BUSY"
}
