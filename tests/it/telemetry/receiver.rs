//! A collector: OTLP over gRPC on loopback, which keeps what it is sent.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

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
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::metrics::v1::{metric, number_data_point};
use opentelemetry_proto::tonic::resource::v1::Resource;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use crate::stage::until;

/// What a span, a point or a record says of itself.
pub type Attributes = BTreeMap<String, String>;

#[derive(Debug, Clone)]
pub struct Span {
    pub name: String,
    pub kind: i32,
    pub trace: String,
    pub id: String,
    pub parent: String,
    pub failed: bool,
    pub nanoseconds: u64,
    pub attributes: Attributes,
}

impl Span {
    #[track_caller]
    pub fn attribute(&self, name: &str) -> &str {
        self.attributes.get(name).unwrap_or_else(|| panic!("no {name} in {self:#?}"))
    }
}

#[derive(Debug, Clone)]
pub struct Record {
    pub severity: String,
    pub body: String,
    pub trace: String,
    pub span: String,
    pub attributes: Attributes,
}

#[derive(Debug, Default)]
struct Kept {
    /// Everything, as it came.
    raw: Vec<String>,
    resources: Vec<Attributes>,
    spans: Vec<Span>,
    records: Vec<Record>,
    /// The latest value of each series; of a histogram its count.
    series: BTreeMap<String, f64>,
    headers: Vec<tonic::metadata::MetadataMap>,
}

#[derive(Clone)]
pub struct Receiver {
    address: SocketAddr,
    kept: Arc<Mutex<Kept>>,
}

impl Receiver {
    pub async fn start() -> Receiver {
        Receiver::start_at("127.0.0.1:0", Server::builder()).await
    }

    /// Where it is awaited, or with TLS.
    pub async fn start_at(address: &str, mut server: Server) -> Receiver {
        let listener = TcpListener::bind(address).await.unwrap();
        let receiver = Receiver { address: listener.local_addr().unwrap(), kept: Arc::default() };
        let server = server
            .add_service(TraceServiceServer::new(receiver.clone()))
            .add_service(MetricsServiceServer::new(receiver.clone()))
            .add_service(LogsServiceServer::new(receiver.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        receiver
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn spans(&self) -> Vec<Span> {
        self.kept.lock().unwrap().spans.clone()
    }

    /// Those of a name.
    pub fn named(&self, name: &str) -> Vec<Span> {
        self.spans().into_iter().filter(|span| span.name == name).collect()
    }

    pub fn records(&self) -> Vec<Record> {
        self.kept.lock().unwrap().records.clone()
    }

    pub fn series(&self) -> BTreeMap<String, f64> {
        self.kept.lock().unwrap().series.clone()
    }

    pub fn resources(&self) -> Vec<Attributes> {
        self.kept.lock().unwrap().resources.clone()
    }

    /// Everything that was sent, headers included.
    pub fn everything(&self) -> String {
        let kept = self.kept.lock().unwrap();
        format!("{:?} {:?}", kept.raw, kept.headers)
    }

    /// Waits for so many spans of a name.
    pub async fn wait_for(&self, name: &str, count: usize) -> Vec<Span> {
        let what = format!("{count} spans {name:?}");
        until(&what, Duration::from_secs(30), async || self.named(name).len() >= count).await;
        self.named(name)
    }

    fn keep<M: std::fmt::Debug>(
        &self,
        request: Request<M>,
        take: impl FnOnce(&mut Kept, M),
    ) -> Result<(), Status> {
        let mut kept = self.kept.lock().unwrap();
        kept.headers.push(request.metadata().clone());
        kept.raw.push(format!("{:?}", request.get_ref()));
        take(&mut kept, request.into_inner());
        Ok(())
    }
}

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.keep(request, |kept, message| {
            for resource in message.resource_spans {
                kept.resources.extend(resource.resource.map(who));
                for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                    kept.spans.push(Span {
                        kind: span.kind,
                        trace: hex::encode(span.trace_id),
                        id: hex::encode(span.span_id),
                        parent: hex::encode(span.parent_span_id),
                        failed: span.status.is_some_and(|status| status.code == 2),
                        nanoseconds: span.end_time_unix_nano - span.start_time_unix_nano,
                        attributes: attributes(span.attributes),
                        name: span.name,
                    });
                }
            }
        })?;
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl LogsService for Receiver {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        self.keep(request, |kept, message| {
            for resource in message.resource_logs {
                kept.resources.extend(resource.resource.map(who));
                for record in resource.scope_logs.into_iter().flat_map(|scope| scope.log_records) {
                    kept.records.push(Record {
                        severity: record.severity_text,
                        body: record.body.map(text).unwrap_or_default(),
                        trace: hex::encode(record.trace_id),
                        span: hex::encode(record.span_id),
                        attributes: attributes(record.attributes),
                    });
                }
            }
        })?;
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Receiver {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.keep(request, |kept, message| {
            for resource in message.resource_metrics {
                kept.resources.extend(resource.resource.map(who));
                for metric in resource.scope_metrics.into_iter().flat_map(|scope| scope.metrics) {
                    let name = metric.name;
                    for (labels, value) in metric.data.into_iter().flat_map(points) {
                        kept.series.insert(format!("{name}{labels:?}"), value);
                    }
                }
            }
        })?;
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

fn points(data: metric::Data) -> Vec<(Attributes, f64)> {
    let numbers = match data {
        metric::Data::Gauge(gauge) => gauge.data_points,
        metric::Data::Sum(sum) => sum.data_points,
        metric::Data::Histogram(histogram) => {
            let points = histogram.data_points.into_iter();
            return points.map(|point| (attributes(point.attributes), point.count as f64)).collect();
        }
        other => panic!("{other:?}"),
    };
    let number = |value| match value {
        Some(number_data_point::Value::AsDouble(value)) => value,
        Some(number_data_point::Value::AsInt(value)) => value as f64,
        None => f64::NAN,
    };
    numbers.into_iter().map(|point| (attributes(point.attributes), number(point.value))).collect()
}

fn who(resource: Resource) -> Attributes {
    attributes(resource.attributes)
}

fn attributes(all: Vec<KeyValue>) -> Attributes {
    all.into_iter().map(|pair| (pair.key, pair.value.map(text).unwrap_or_default())).collect()
}

fn text(value: AnyValue) -> String {
    match value.value {
        Some(Value::StringValue(text)) => text,
        Some(Value::BoolValue(value)) => value.to_string(),
        Some(Value::IntValue(value)) => value.to_string(),
        Some(Value::DoubleValue(value)) => value.to_string(),
        other => format!("{other:?}"),
    }
}
