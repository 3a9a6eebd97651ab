//! For tests: an EventService that does as it is told, and whose connections break on demand.
//! [`rating`] has a RatingService.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex};

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::Server;
use crate::grpc::status::status;
use crate::proto::event_service_server::{EventService, EventServiceServer};
use crate::proto::{RecordEventsRequest, RecordEventsResponse, RejectedEvent};
use crate::service;

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
    /// Never answers.
    Hangs,
}

/// A running service.
#[derive(Clone)]
pub(crate) struct Scripted {
    url: String,
    script: Arc<Mutex<VecDeque<Does>>>,
    calls: Arc<Mutex<Vec<usize>>>,
}

impl Scripted {
    /// Where it is.
    pub(crate) fn server(&self) -> Server {
        Server { url: self.url.clone(), tls_ca: None }
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
        let events = request.into_inner().events.len();
        self.calls.lock().expect("calls").push(events);
        let does = self.script.lock().expect("script").pop_front();
        let rejected = match does {
            Some(Does::Fails(kind)) => return Err(io::Error::new(kind, "later").into()),
            Some(Does::Refuses(error)) => return Err(status(error)),
            Some(Does::Hangs) => std::future::pending().await,
            Some(Does::Rejects(rejected)) => rejected,
            None => Vec::new(),
        };
        let stored = i64::try_from(events - rejected.len()).unwrap_or_default();
        Ok(Response::new(RecordEventsResponse { stored, duplicates: 0, rejected }))
    }
}

/// Starts one. Its first `broken` connections are cut in the middle of their first call.
pub(crate) async fn serve(script: Vec<Does>, broken: usize) -> Scripted {
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
    let scripted = Scripted { url, script: Arc::new(Mutex::new(script.into())), calls: Arc::default() };
    let server = tonic::transport::Server::builder().add_service(EventServiceServer::new(scripted.clone()));
    tokio::spawn(server.serve_with_incoming(ReceiverStream::new(connections)));
    scripted
}
