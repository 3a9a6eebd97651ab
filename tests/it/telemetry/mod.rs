//! What is seen from outside: a collector gets the spans, metrics and logs of everything that goes
//! on, in its caller's trace; and nothing of it costs anybody anything, or tells a secret.

mod calls;
mod collector;
mod metrics;
mod receiver;
mod runs;
mod secrets;

use tonic::{IntoRequest, Request};

use crate::harness::Service;
use crate::stage::Stage;
use receiver::Receiver;

/// The caller's trace and span.
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

/// Sent soon, so that no test waits for long.
const SOON: [(&str, &str); 4] = [
    ("OTEL_BSP_SCHEDULE_DELAY", "100"),
    ("OTEL_BLRP_SCHEDULE_DELAY", "100"),
    ("OTEL_METRIC_EXPORT_INTERVAL", "200"),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", "2000"),
];

/// A service whose telemetry goes to `endpoint`.
async fn service(stage: &Stage, endpoint: &str, environment: &[(&str, &str)], arguments: &[&str]) -> Service {
    let pricebook = stage.pricebook();
    let arguments = [&["--pricebook", &pricebook], arguments].concat();
    let exported = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)];
    let environment = [&SOON[..], &exported, environment].concat();
    Service::start_in(&environment, &stage.url, &arguments).await
}

/// A request inside of the caller's trace.
fn traced<M>(message: M) -> Request<M> {
    let mut request = message.into_request();
    request.metadata_mut().insert("traceparent", format!("00-{TRACE}-{CALLER}-01").parse().unwrap());
    request
}
