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
    pub(crate) usage: Queue<GetRatedUsageResponse>,
    pub(crate) summary: Queue<SummarizeRatedUsageResponse>,
    pub(crate) changes: Queue<Streams<StreamRatedUsageChangesResponse>>,
}

/// What a stream sends, and how it ends.
#[derive(Debug)]
pub(crate) struct Streams<T = Run> {
    messages: Vec<T>,
    end: End,
}

#[derive(Debug)]
enum End {
    Ends,
    Breaks,
    Hangs,
    Refuses(Status),
}

impl<T: Send + 'static> Streams<T> {
    /// These, and then its end.
    pub(crate) fn ends(messages: impl Into<Vec<T>>) -> Streams<T> {
        Streams { messages: messages.into(), end: End::Ends }
    }

    /// These, and then UNAVAILABLE.
    pub(crate) fn breaks(messages: impl Into<Vec<T>>) -> Streams<T> {
        Streams { messages: messages.into(), end: End::Breaks }
    }

    /// These, and then what a service says.
    pub(crate) fn refuses(messages: impl Into<Vec<T>>, status: Status) -> Streams<T> {
        Streams { messages: messages.into(), end: End::Refuses(status) }
    }

    /// These, and then nothing more.
    pub(crate) fn hangs(messages: impl Into<Vec<T>>) -> Streams<T> {
        Streams { messages: messages.into(), end: End::Hangs }
    }
}

impl<T: Send + 'static> Streams<T> {
    fn stream<R: Send + 'static>(self, response: impl Fn(T) -> R + Send + 'static) -> Answers<R> {
        let messages = tokio_stream::iter(self.messages).map(move |message| Ok(response(message)));
        let broken = || Status::from(io::Error::new(ErrorKind::ConnectionRefused, "later"));
        match self.end {
            End::Ends => Box::pin(messages),
            End::Breaks => Box::pin(messages.chain(tokio_stream::once(Err(broken())))),
            End::Refuses(status) => Box::pin(messages.chain(tokio_stream::once(Err(status)))),
            End::Hangs => Box::pin(messages.chain(tokio_stream::pending())),
        }
    }
}

type Answers<R> = Pin<Box<dyn Stream<Item = Result<R, Status>> + Send>>;

/// A change that says nothing but its id.
pub(crate) fn change(change_id: &str) -> RatedUsageChange {
    RatedUsageChange { change_id: change_id.into(), ..RatedUsageChange::default() }
}

/// Changes, and the cursor after them.
pub(crate) fn changes(
    cursor: &str,
    changes: impl Into<Vec<RatedUsageChange>>,
) -> StreamRatedUsageChangesResponse {
    StreamRatedUsageChangesResponse { changes: changes.into(), cursor: cursor.into() }
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
    usage: Vec<GetRatedUsageRequest>,
    summary: Vec<SummarizeRatedUsageRequest>,
    changes: Vec<StreamRatedUsageChangesRequest>,
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
        Server { url: self.url.clone(), ..Server::default() }
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

    /// Every GetRatedUsage that it got.
    pub(crate) fn usage(&self) -> Vec<GetRatedUsageRequest> {
        self.asked.lock().expect("asked").usage.clone()
    }

    /// Every SummarizeRatedUsage that it got.
    pub(crate) fn summarized(&self) -> Vec<SummarizeRatedUsageRequest> {
        self.asked.lock().expect("asked").summary.clone()
    }

    /// Every StreamRatedUsageChanges that it got.
    pub(crate) fn followed(&self) -> Vec<StreamRatedUsageChangesRequest> {
        self.asked.lock().expect("asked").changes.clone()
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

    type WatchRunStream = Answers<WatchRunResponse>;
    async fn watch_run(&self, _: Request<WatchRunRequest>) -> Result<Response<Self::WatchRunStream>, Status> {
        self.asked.lock().expect("asked").watch += 1;
        let streams = self.answer(|script| &mut script.watch).await?;
        Ok(Response::new(streams.stream(|run| WatchRunResponse { run: Some(run) })))
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
        request: Request<GetRatedUsageRequest>,
    ) -> Result<Response<GetRatedUsageResponse>, Status> {
        self.asked.lock().expect("asked").usage.push(request.into_inner());
        self.answer(|script| &mut script.usage).await.map(Response::new)
    }

    async fn summarize_rated_usage(
        &self,
        request: Request<SummarizeRatedUsageRequest>,
    ) -> Result<Response<SummarizeRatedUsageResponse>, Status> {
        self.asked.lock().expect("asked").summary.push(request.into_inner());
        self.answer(|script| &mut script.summary).await.map(Response::new)
    }

    type StreamRatedUsageChangesStream = Answers<StreamRatedUsageChangesResponse>;
    async fn stream_rated_usage_changes(
        &self,
        request: Request<StreamRatedUsageChangesRequest>,
    ) -> Result<Response<Self::StreamRatedUsageChangesStream>, Status> {
        self.asked.lock().expect("asked").changes.push(request.into_inner());
        let streams = self.answer(|script| &mut script.changes).await?;
        Ok(Response::new(streams.stream(|message| message)))
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
