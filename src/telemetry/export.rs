//! What leaves the process: a batch of spans and of log records every few seconds, and the metrics
//! every minute (`OTEL_BSP_*`, `OTEL_BLRP_*`, `OTEL_METRIC_EXPORT_INTERVAL`), each from a thread of
//! its own and a bounded queue: nobody waits for a collector.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use opentelemetry::{Key, KeyValue};
use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig, Identity};
use opentelemetry_otlp::{LogExporter, MetricExporter, SpanExporter, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::logs::{self, LogBatch, SdkLoggerProvider};
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::metrics::{SdkMeterProvider, Temporality};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{self, SdkTracerProvider, SpanData};

use super::settings::{Collector, Settings};

/// What is exported.
#[derive(Debug)]
pub(super) struct Exported {
    pub traces: Option<SdkTracerProvider>,
    pub metrics: Option<SdkMeterProvider>,
    pub logs: Option<SdkLoggerProvider>,
    propagated: bool,
}

/// An exporter that can't be built. The builder's own words hold the endpoint as it was given, and a
/// secret with it.
fn wrong<E>(collector: &Collector) -> impl Fn(E) -> String {
    move |_| {
        let named_by = &collector.named_by;
        format!("{named_by}: can't be followed, or the timeout, compression or headers beside it can't")
    }
}

/// Prepares what the settings ask for. Connects when there is something to send.
pub(super) fn build(settings: &Settings) -> Result<Exported, String> {
    let resource = resource();
    let traces = settings.traces.as_ref().map(|collector| -> Result<_, String> {
        let exporter = SpanExporter::builder().with_tonic().with_tls_config(tls(collector)).build();
        let provider = SdkTracerProvider::builder().with_resource(resource.clone());
        Ok(provider.with_batch_exporter(Watched::new("traces", exporter.map_err(wrong(collector))?)).build())
    });
    let metrics = settings.metrics.as_ref().map(|collector| -> Result<_, String> {
        let exporter = MetricExporter::builder().with_tonic().with_tls_config(tls(collector)).build();
        let provider = SdkMeterProvider::builder().with_resource(resource.clone());
        Ok(provider
            .with_periodic_exporter(Watched::new("metrics", exporter.map_err(wrong(collector))?))
            .build())
    });
    let logs = settings.logs.as_ref().map(|collector| -> Result<_, String> {
        let exporter = LogExporter::builder().with_tonic().with_tls_config(tls(collector)).build();
        let provider = SdkLoggerProvider::builder().with_resource(resource.clone());
        Ok(provider.with_batch_exporter(Watched::new("logs", exporter.map_err(wrong(collector))?)).build())
    });
    Ok(Exported {
        traces: traces.transpose()?,
        metrics: metrics.transpose()?,
        logs: logs.transpose()?,
        propagated: settings.propagated,
    })
}

impl Exported {
    pub fn is_empty(&self) -> bool {
        self.traces.is_none() && self.metrics.is_none() && self.logs.is_none()
    }

    /// From now on instruments and contexts are these.
    pub fn make_global(&self) {
        if let Some(metrics) = &self.metrics {
            opentelemetry::global::set_meter_provider(metrics.clone());
        }
        if self.traces.is_some() && self.propagated {
            opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
        }
    }

    /// Sends what is there, and stops. Blocks. What could not be sent is told already.
    pub fn shutdown(&self, within: Duration) {
        let until = Instant::now() + within;
        let left = || until.saturating_duration_since(Instant::now());
        // Side by side: none waits for another one's collector.
        std::thread::scope(|scope| {
            if let Some(traces) = &self.traces {
                scope.spawn(move || traces.shutdown_with_timeout(left()));
            }
            if let Some(metrics) = &self.metrics {
                scope.spawn(move || metrics.shutdown_with_timeout(left()));
            }
            if let Some(logs) = &self.logs {
                scope.spawn(move || logs.shutdown_with_timeout(left()));
            }
        });
    }
}

/// The roots of the system where no authority is named; plain http has no use for it.
fn tls(collector: &Collector) -> ClientTlsConfig {
    let tls = match &collector.ca {
        Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
        None => ClientTlsConfig::new().with_enabled_roots(),
    };
    match &collector.identity {
        Some((certificate, key)) => tls.identity(Identity::from_pem(certificate, key)),
        None => tls,
    }
}

/// Who we are: what `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` say, and for the rest this.
fn resource() -> Resource {
    let asked = Resource::builder().build();
    let name = asked.get(&Key::new("service.name")).map(|name| name.to_string()).unwrap_or_default();
    let instance = uuid::Uuid::new_v4().to_string();
    let ours = [
        ("service.name", "rater".to_owned(), name.is_empty() || name.starts_with("unknown_service")),
        ("service.version", env!("CARGO_PKG_VERSION").to_owned(), false),
        ("service.instance.id", instance, false),
    ];
    let absent = |key: &'static str| asked.get(&Key::new(key)).is_none();
    let added = ours.into_iter().filter(|(key, _, unknown)| *unknown || absent(key));
    Resource::builder().with_attributes(added.map(|(key, value, _)| KeyValue::new(key, value))).build()
}

/// An exporter that says once that it fails, and once that it works again.
#[derive(Debug)]
struct Watched<E> {
    signal: &'static str,
    failing: AtomicBool,
    exporter: E,
}

impl<E> Watched<E> {
    fn new(signal: &'static str, exporter: E) -> Watched<E> {
        Watched { signal, failing: AtomicBool::new(false), exporter }
    }

    fn watch(&self, sent: OTelSdkResult) -> OTelSdkResult {
        let failing = matches!(sent, Err(OTelSdkError::Timeout(_) | OTelSdkError::InternalFailure(_)));
        if self.failing.swap(failing, Ordering::Relaxed) == failing {
            return sent;
        }
        let signal = self.signal;
        match &sent {
            Ok(()) => tracing::info!(signal, "the collector takes telemetry again"),
            Err(error) => {
                tracing::warn!(signal, error = %error, "telemetry does not reach its collector; what is over is dropped");
            }
        }
        sent
    }
}

impl<E: trace::SpanExporter> trace::SpanExporter for Watched<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.watch(self.exporter.export(batch).await)
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

impl<E: logs::LogExporter> logs::LogExporter for Watched<E> {
    async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
        self.watch(self.exporter.export(batch).await)
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

impl<E: PushMetricExporter> PushMetricExporter for Watched<E> {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        self.watch(self.exporter.export(metrics).await)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn temporality(&self) -> Temporality {
        self.exporter.temporality()
    }
}
