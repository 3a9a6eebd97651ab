//! For tests: an EventService that does as it is told, and whose connections break on demand.
//! [`rating`] has a RatingService.

use std::collections::{HashSet, VecDeque};
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use super::Server;
use crate::grpc::status::{scripted, status};
use crate::proto::event_service_server::{EventService, EventServiceServer};
use crate::proto::{BillingEvent, RecordEventsRequest, RecordEventsResponse, RejectedEvent};
/// What a scripted service refuses with.
pub use crate::service;

pub(crate) mod rating;

/// What a call is answered with.
#[derive(Debug)]
pub(crate) enum Answer<T> {
    /// This.
    Is(T),
    /// The status that tonic has for it.
    Fails(ErrorKind),
    /// Ours.
    Refuses(service::Error),
    /// Nothing, ever.
    Hangs,
}

/// What the service does with a call. After the last it stores everything.
pub(crate) enum Does {
    /// Stores all but these.
    Rejects(Vec<RejectedEvent>),
    /// Answers with the status that tonic has for it.
    Fails(ErrorKind),
    /// Answers with ours.
    Refuses(service::Error),
    /// Answers with the code of this name, and RetryInfo where there is one.
    Code(&'static str, Option<Duration>),
    /// Answers with this, whatever it was sent.
    Says(RecordEventsResponse),
    /// Never answers.
    Hangs,
}

/// Decides what is done with a call by what was sent; nothing: it stores everything.
pub(crate) type Judge = Box<dyn FnMut(&RecordEventsRequest) -> Option<Does> + Send>;

/// A running service.
#[derive(Clone)]
pub(crate) struct Scripted {
    url: String,
    judge: Arc<Mutex<Judge>>,
    calls: Arc<Mutex<Vec<usize>>>,
    stored: Arc<Mutex<HashSet<String>>>,
}

impl Scripted {
    /// Where it is.
    pub(crate) fn server(&self) -> Server {
        Server { url: self.url.clone(), ..Server::default() }
    }

    /// The ids of the events that it stored.
    pub(crate) fn stored(&self) -> HashSet<String> {
        self.stored.lock().expect("stored").clone()
    }

    /// From now on it does as this says.
    pub(crate) fn judges(&self, judge: Judge) {
        *self.judge.lock().expect("judge") = judge;
    }

    /// Stores what is not rejected; what is there already counts as a duplicate.
    fn store(&self, events: &[BillingEvent], rejected: Vec<RejectedEvent>) -> RecordEventsResponse {
        let out: HashSet<i32> = rejected.iter().map(|rejected| rejected.index).collect();
        let mut stored = self.stored.lock().expect("stored");
        let mut response = RecordEventsResponse { rejected, ..RecordEventsResponse::default() };
        for (_, event) in (0..).zip(events).filter(|(index, _)| !out.contains(index)) {
            match stored.insert(event.request_id.clone()) {
                true => response.stored += 1,
                false => response.duplicates += 1,
            }
        }
        response
    }

    /// How many events each call had that it got.
    pub(crate) fn calls(&self) -> Vec<usize> {
        self.calls.lock().expect("calls").clone()
    }
}

#[tonic::async_trait]
impl EventService for Scripted {
    async fn record_events(
        &self,
        request: Request<RecordEventsRequest>,
    ) -> Result<Response<RecordEventsResponse>, Status> {
        let request = request.into_inner();
        self.calls.lock().expect("calls").push(request.events.len());
        let does = (self.judge.lock().expect("judge"))(&request);
        let rejected = match does {
            Some(Does::Fails(kind)) => return Err(io::Error::new(kind, "later").into()),
            Some(Does::Refuses(error)) => return Err(status(error)),
            Some(Does::Code(name, retry_after)) => return Err(scripted(code(name), "as told", retry_after)),
            Some(Does::Says(response)) => return Ok(Response::new(response)),
            Some(Does::Hangs) => std::future::pending().await,
            Some(Does::Rejects(rejected)) => rejected,
            None => Vec::new(),
        };
        Ok(Response::new(self.store(&request.events, rejected)))
    }
}

/// The code of a name.
fn code(name: &str) -> Code {
    let codes = (0..17).map(Code::from_i32);
    codes.into_iter().find(|code| super::code(*code) == name).expect("a code's name")
}

/// One that does as its script says, call by call.
pub(crate) async fn serve(script: Vec<Does>, broken: usize) -> Scripted {
    let mut script = VecDeque::from(script);
    serve_judged(Box::new(move |_| script.pop_front()), broken).await
}

/// Starts one. Its first `broken` connections are cut in the middle of their first call.
pub(crate) async fn serve_judged(judge: Judge, broken: usize) -> Scripted {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let (sender, connections) = tokio::sync::mpsc::channel::<io::Result<TcpStream>>(4);
    tokio::spawn(async move {
        for connection in 0.. {
            let Ok((mut stream, _)) = listener.accept().await else { return };
            if connection < broken {
                // The preface, and then some of the call.
                drop(stream.read_exact(&mut [0; 150]).await);
            } else if sender.send(Ok(stream)).await.is_err() {
                return;
            }
        }
    });
    let judge = Arc::new(Mutex::new(judge));
    let scripted = Scripted { url, judge, calls: Arc::default(), stored: Arc::default() };
    let server = tonic::transport::Server::builder().add_service(EventServiceServer::new(scripted.clone()));
    tokio::spawn(server.serve_with_incoming(ReceiverStream::new(connections)));
    scripted
}
