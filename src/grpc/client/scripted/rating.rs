//! For tests: a RatingService that answers from a script, and keeps what it was asked. What
//! the script has no answer for is not served.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};

use super::super::Server;
use super::Answer;
use crate::grpc::status::{status, unimplemented};
use crate::proto::rating_service_server::{RatingService, RatingServiceServer};
use crate::proto::*;

type Queue<T> = VecDeque<Answer<T>>;

/// The answers to each RPC, in turn.
#[derive(Debug, Default)]
pub(crate) struct Script {
    pub(crate) rate: Queue<RateWindowResponse>,
    pub(crate) get: Queue<GetRunResponse>,
    pub(crate) list: Queue<ListRunsResponse>,
    pub(crate) watch: Queue<Streams>,
    pub(crate) cancel: Queue<CancelRunResponse>,
    pub(crate) anomalies: Queue<ListAnomaliesResponse>,
}

/// What a stream sends, and how it ends.
#[derive(Debug)]
pub(crate) struct Streams {
    runs: Vec<Run>,
    end: End,
}

#[derive(Debug)]
enum End {
    Ends,
    Breaks,
    Hangs,
}

impl Streams {
    /// These, and then its end.
    pub(crate) fn ends(runs: impl Into<Vec<Run>>) -> Streams {
        Streams { runs: runs.into(), end: End::Ends }
    }

    /// These, and then UNAVAILABLE.
    pub(crate) fn breaks(runs: impl Into<Vec<Run>>) -> Streams {
        Streams { runs: runs.into(), end: End::Breaks }
    }

    /// These, and then nothing more.
    pub(crate) fn hangs(runs: impl Into<Vec<Run>>) -> Streams {
        Streams { runs: runs.into(), end: End::Hangs }
    }
}

/// A run with so many of 24 hours done.
pub(crate) fn run(run_id: &str, state: RunState, hours_done: i64) -> Run {
    let progress =
        RunProgress { hours_total: 24, hours_done, events_done: hours_done * 100, ..RunProgress::default() };
    Run { run_id: run_id.into(), state: state.into(), progress: Some(progress), ..Run::default() }
}

/// What the service was asked.
#[derive(Debug, Default)]
struct Asked {
    rate: Vec<RateWindowRequest>,
    list: Vec<ListRunsRequest>,
    anomalies: Vec<ListAnomaliesRequest>,
    watch: usize,
}

/// A running service.
#[derive(Clone)]
pub(crate) struct ScriptedRating {
    url: String,
    script: Arc<Mutex<Script>>,
    asked: Arc<Mutex<Asked>>,
}

impl ScriptedRating {
    /// Where it is.
    pub(crate) fn server(&self) -> Server {
        Server { url: self.url.clone(), tls_ca: None }
    }

    /// Every RateWindow that it got.
    pub(crate) fn rated(&self) -> Vec<RateWindowRequest> {
        self.asked.lock().expect("asked").rate.clone()
    }

    /// Every ListRuns that it got.
    pub(crate) fn listed(&self) -> Vec<ListRunsRequest> {
        self.asked.lock().expect("asked").list.clone()
    }

    /// Every ListAnomalies that it got.
    pub(crate) fn anomalies(&self) -> Vec<ListAnomaliesRequest> {
        self.asked.lock().expect("asked").anomalies.clone()
    }

    /// How many WatchRuns it got.
    pub(crate) fn watched(&self) -> usize {
        self.asked.lock().expect("asked").watch
    }

    async fn answer<T>(&self, queue: impl FnOnce(&mut Script) -> &mut Queue<T>) -> Result<T, Status> {
        let answer = queue(&mut self.script.lock().expect("script")).pop_front();
        match answer {
            Some(Answer::Is(answer)) => Ok(answer),
            Some(Answer::Fails(kind)) => Err(io::Error::new(kind, "later").into()),
            Some(Answer::Refuses(error)) => Err(status(error)),
            Some(Answer::Hangs) => std::future::pending().await,
            None => Err(unimplemented("this")),
        }
    }
}

#[tonic::async_trait]
impl RatingService for ScriptedRating {
    async fn rate_window(
        &self,
        request: Request<RateWindowRequest>,
    ) -> Result<Response<RateWindowResponse>, Status> {
        self.asked.lock().expect("asked").rate.push(request.into_inner());
        self.answer(|script| &mut script.rate).await.map(Response::new)
    }

    async fn get_run(&self, _: Request<GetRunRequest>) -> Result<Response<GetRunResponse>, Status> {
        self.answer(|script| &mut script.get).await.map(Response::new)
    }

    async fn list_runs(
        &self,
        request: Request<ListRunsRequest>,
    ) -> Result<Response<ListRunsResponse>, Status> {
        self.asked.lock().expect("asked").list.push(request.into_inner());
        self.answer(|script| &mut script.list).await.map(Response::new)
    }

    type WatchRunStream = Pin<Box<dyn Stream<Item = Result<WatchRunResponse, Status>> + Send>>;
    async fn watch_run(&self, _: Request<WatchRunRequest>) -> Result<Response<Self::WatchRunStream>, Status> {
        self.asked.lock().expect("asked").watch += 1;
        let Streams { runs, end } = self.answer(|script| &mut script.watch).await?;
        let runs = tokio_stream::iter(runs).map(|run| Ok(WatchRunResponse { run: Some(run) }));
        let broken = || Status::from(io::Error::new(ErrorKind::ConnectionRefused, "later"));
        Ok(Response::new(match end {
            End::Ends => Box::pin(runs),
            End::Breaks => Box::pin(runs.chain(tokio_stream::once(Err(broken())))),
            End::Hangs => Box::pin(runs.chain(tokio_stream::pending())),
        }))
    }

    async fn cancel_run(&self, _: Request<CancelRunRequest>) -> Result<Response<CancelRunResponse>, Status> {
        self.answer(|script| &mut script.cancel).await.map(Response::new)
    }

    async fn list_anomalies(
        &self,
        request: Request<ListAnomaliesRequest>,
    ) -> Result<Response<ListAnomaliesResponse>, Status> {
        self.asked.lock().expect("asked").anomalies.push(request.into_inner());
        self.answer(|script| &mut script.anomalies).await.map(Response::new)
    }

    async fn validate_pricebook(
        &self,
        _: Request<ValidatePricebookRequest>,
    ) -> Result<Response<ValidatePricebookResponse>, Status> {
        Err(unimplemented("ValidatePricebook"))
    }

    async fn get_pricebook(
        &self,
        _: Request<GetPricebookRequest>,
    ) -> Result<Response<GetPricebookResponse>, Status> {
        Err(unimplemented("GetPricebook"))
    }

    async fn get_rated_usage(
        &self,
        _: Request<GetRatedUsageRequest>,
    ) -> Result<Response<GetRatedUsageResponse>, Status> {
        Err(unimplemented("GetRatedUsage"))
    }

    async fn summarize_rated_usage(
        &self,
        _: Request<SummarizeRatedUsageRequest>,
    ) -> Result<Response<SummarizeRatedUsageResponse>, Status> {
        Err(unimplemented("SummarizeRatedUsage"))
    }

    type StreamRatedUsageChangesStream = tokio_stream::Empty<Result<StreamRatedUsageChangesResponse, Status>>;
    async fn stream_rated_usage_changes(
        &self,
        _: Request<StreamRatedUsageChangesRequest>,
    ) -> Result<Response<Self::StreamRatedUsageChangesStream>, Status> {
        Err(unimplemented("StreamRatedUsageChanges"))
    }
}

/// Starts one.
pub(crate) async fn serve(script: Script) -> ScriptedRating {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let scripted = ScriptedRating { url, script: Arc::new(Mutex::new(script)), asked: Arc::default() };
    let server = tonic::transport::Server::builder().add_service(RatingServiceServer::new(scripted.clone()));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    scripted
}
