//! RatingService on the wire.

use std::sync::Arc;

use tokio::time::Instant;
use tonic::{Extensions, Request, Response, Status};

use super::convert::{anomalies, changes, pricebook, rating, runs, summaries, usage};
use super::deadline::Deadline;
use super::status::{deadline_passed, routine_only, run_continues, status, unauthenticated};
use super::stream::{Messages, stream};
use crate::identity::Refusal;
use crate::proto::rating_service_server::RatingService;
use crate::proto::*;
use crate::service::anomalies::list_anomalies;
use crate::service::caller::{Caller, Role};
use crate::service::change_stream::ChangeFeed;
use crate::service::rate_window::Rater;
use crate::service::read_usage::read_usage;
use crate::service::runs::{get_run, list_runs};
use crate::service::summaries::{SummaryRange, summarize_usage};
use crate::service::watch_run::Watchers;

/// Watches at a time. Each looks at its run twice a second, and events and runs need the
/// database more.
const MAX_WATCHERS: usize = 200;
/// Streams of changes at a time, most of which wait.
const MAX_CHANGE_STREAMS: usize = 200;

/// RatingService, over the rater that it was given.
#[derive(Clone)]
pub struct Rating {
    rater: Arc<Rater>,
    watchers: Watchers,
    feed: ChangeFeed,
}

impl Rating {
    /// Serves `rater`.
    pub fn new(rater: Arc<Rater>) -> Rating {
        let watchers = Watchers::new(rater.db.clone(), rater.stop.clone(), MAX_WATCHERS);
        let feed = ChangeFeed::new(rater.db.clone(), rater.stop.clone(), MAX_CHANGE_STREAMS);
        Rating { rater, watchers, feed }
    }
}

/// Who calls. Where no layer has said so, nobody does.
fn caller(extensions: &Extensions) -> Result<Caller, Status> {
    extensions.get().cloned().ok_or_else(|| unauthenticated(Refusal::Nothing))
}

#[tonic::async_trait]
impl RatingService for Rating {
    async fn rate_window(
        &self,
        request: Request<RateWindowRequest>,
    ) -> Result<Response<RateWindowResponse>, Status> {
        let deadline = request.extensions().get::<Deadline>().copied();
        let caller = caller(request.extensions())?;
        let request = rating::rate_request(request.into_inner(), caller.name.clone()).map_err(status)?;
        if !caller.is(Role::Operator) && !request.is_routine_run() {
            return Err(routine_only());
        }
        // Nobody would get the answer, and a run would go on without them.
        if deadline.is_some_and(|deadline| deadline.at() <= Instant::now()) {
            return Err(deadline_passed());
        }
        let (detach, dry_run) = (request.detach, request.dry_run);
        let mut ticket = self.rater.rate_window(request).map_err(status)?;
        let answer = async {
            match detach {
                true => self.rater.accepted(&mut ticket).await,
                false => ticket.wait().await,
            }
        };
        let result = match deadline {
            None => answer.await,
            Some(deadline) => match tokio::time::timeout_at(deadline.at(), answer).await {
                Ok(result) => result,
                Err(_) if dry_run => return Err(deadline_passed()),
                Err(_) => return Err(run_continues(ticket.run_id())),
            },
        };
        result.map(|report| Response::new(rating::rate_response(report))).map_err(status)
    }

    async fn validate_pricebook(
        &self,
        request: Request<ValidatePricebookRequest>,
    ) -> Result<Response<ValidatePricebookResponse>, Status> {
        let candidate = pricebook::candidate(request.into_inner()).map_err(status)?;
        let validation = self.rater.validate_pricebook(candidate).await;
        validation.map(|found| Response::new(pricebook::validation(&found))).map_err(status)
    }

    async fn get_pricebook(
        &self,
        request: Request<GetPricebookRequest>,
    ) -> Result<Response<GetPricebookResponse>, Status> {
        let digest = request.into_inner().digest;
        let found = self.rater.pricebooks.get(&self.rater.db, &digest).await.map_err(status)?;
        Ok(Response::new(pricebook::found(found)))
    }

    async fn get_rated_usage(
        &self,
        request: Request<GetRatedUsageRequest>,
    ) -> Result<Response<GetRatedUsageResponse>, Status> {
        let request = request.into_inner();
        let filter = usage::usage_filter(request.filter).map_err(status)?;
        let page = read_usage(&self.rater.db, &filter, request.page_size, &request.page_token).await;
        page.map(|page| Response::new(usage::rated_usage_response(page))).map_err(status)
    }

    async fn summarize_rated_usage(
        &self,
        request: Request<SummarizeRatedUsageRequest>,
    ) -> Result<Response<SummarizeRatedUsageResponse>, Status> {
        let SummarizeRatedUsageRequest { filter, group_by, page_size, page_token, top } =
            request.into_inner();
        let query = summaries::summary_query(filter, group_by).map_err(status)?;
        let range = SummaryRange { page_size, page_token: &page_token, top };
        let page = summarize_usage(&self.rater.db, &self.rater.scans, &query, range).await;
        page.map(|page| Response::new(summaries::summarize_response(page))).map_err(status)
    }

    type StreamRatedUsageChangesStream = Messages<StreamRatedUsageChangesResponse>;
    async fn stream_rated_usage_changes(
        &self,
        request: Request<StreamRatedUsageChangesRequest>,
    ) -> Result<Response<Self::StreamRatedUsageChangesStream>, Status> {
        let wanted = changes::wanted(request.into_inner()).map_err(status)?;
        let changes = self.feed.stream(wanted).await.map_err(status)?;
        Ok(Response::new(stream(changes)))
    }

    async fn get_run(&self, request: Request<GetRunRequest>) -> Result<Response<GetRunResponse>, Status> {
        let run = get_run(&self.rater.db, &request.into_inner().run_id).await.map_err(status)?;
        Ok(Response::new(GetRunResponse { run: Some(runs::run(run)) }))
    }

    async fn list_runs(
        &self,
        request: Request<ListRunsRequest>,
    ) -> Result<Response<ListRunsResponse>, Status> {
        let request = request.into_inner();
        let filter = runs::run_filter(request.states, request.triggers).map_err(status)?;
        let page = list_runs(&self.rater.db, &filter, request.page_size, &request.page_token).await;
        page.map(|page| Response::new(runs::list_runs_response(page))).map_err(status)
    }

    type WatchRunStream = Messages<WatchRunResponse>;
    async fn watch_run(
        &self,
        request: Request<WatchRunRequest>,
    ) -> Result<Response<Self::WatchRunStream>, Status> {
        let watch = self.watchers.watch(&request.into_inner().run_id).await.map_err(status)?;
        Ok(Response::new(stream(watch)))
    }

    async fn cancel_run(
        &self,
        request: Request<CancelRunRequest>,
    ) -> Result<Response<CancelRunResponse>, Status> {
        let run = self.rater.cancel_run(&request.into_inner().run_id).await.map_err(status)?;
        Ok(Response::new(CancelRunResponse { run: Some(runs::run(run)) }))
    }

    async fn list_anomalies(
        &self,
        request: Request<ListAnomaliesRequest>,
    ) -> Result<Response<ListAnomaliesResponse>, Status> {
        let ListAnomaliesRequest { filter, kinds, group_by, page_size, page_token } = request.into_inner();
        let query = anomalies::anomaly_query(filter, kinds, group_by).map_err(status)?;
        let page = list_anomalies(&self.rater.db, &self.rater.scans, &query, page_size, &page_token).await;
        page.map(|page| Response::new(anomalies::list_anomalies_response(page))).map_err(status)
    }
}
