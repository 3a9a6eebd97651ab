//! A collector that takes everything and keeps nothing but how much came.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{LogsService, LogsServiceServer};
use opentelemetry_proto::tonic::collector::logs::v1::*;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::*;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::*;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use super::super::Outcome;

pub struct Sink {
    address: std::net::SocketAddr,
    spans: Arc<AtomicUsize>,
}

#[derive(Clone)]
struct Taking(Arc<AtomicUsize>);

impl Sink {
    pub async fn start() -> Outcome<Sink> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let sink = Sink { address: listener.local_addr()?, spans: Arc::default() };
        let taking = Taking(sink.spans.clone());
        let server = Server::builder()
            .add_service(TraceServiceServer::new(taking.clone()))
            .add_service(MetricsServiceServer::new(taking.clone()))
            .add_service(LogsServiceServer::new(taking))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        Ok(sink)
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Without spans, nobody has sent telemetry, and its columns mean nothing.
    pub fn check(&self) -> Outcome<()> {
        match self.spans.load(Ordering::Relaxed) {
            0 => Err("no span came to the collector".into()),
            spans => {
                println!("the collector took {spans} spans");
                Ok(())
            }
        }
    }
}

#[tonic::async_trait]
impl TraceService for Taking {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let scopes = request.get_ref().resource_spans.iter().flat_map(|resource| &resource.scope_spans);
        self.0.fetch_add(scopes.map(|scope| scope.spans.len()).sum(), Ordering::Relaxed);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Taking {
    async fn export(
        &self,
        _: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl LogsService for Taking {
    async fn export(
        &self,
        _: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}
