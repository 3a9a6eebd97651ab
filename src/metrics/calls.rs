//! Calls: how they ended and how long they took, and how many go on. OpenTelemetry's own name for
//! the times is `rpc.server.call.duration`.

use std::time::Duration;

use opentelemetry::{KeyValue, global, metrics};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::Metrics;

/// Seconds: from a read of one row to a run that is waited for.
const BUCKETS: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Handled {
    method: &'static str,
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Called {
    method: &'static str,
}

#[derive(Debug)]
pub(super) struct Calls {
    handled: Family<Handled, Counter>,
    duration: Family<Called, Histogram>,
    in_flight: Gauge,
    exported_duration: metrics::Histogram<f64>,
}

impl Calls {
    pub(super) fn registered(registry: &mut Registry) -> Calls {
        let calls = Calls {
            handled: Family::default(),
            duration: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            in_flight: Gauge::default(),
            exported_duration: global::meter("rater")
                .f64_histogram("rpc.server.call.duration")
                .with_description("How long calls took, a stream to its end")
                .with_unit("s")
                .with_boundaries(BUCKETS.to_vec())
                .build(),
        };
        let help = "Calls that ended, by method and gRPC code; a method that is none of ours is _OTHER";
        registry.register("grpc_server_handled", help, calls.handled.clone());
        let help = "How long calls took, a stream to its end";
        registry.register_with_unit("grpc_server_duration", help, Unit::Seconds, calls.duration.clone());
        registry.register("calls_in_flight", "Calls that go on", calls.in_flight.clone());
        calls
    }
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndedCall {
    /// `rating.v1.RatingService/GetRun`.
    pub method: &'static str,
    /// As the protocol writes it: `UNAVAILABLE`.
    pub code: &'static str,
    /// Whether it is the service's failure, and not its caller's.
    pub failed: bool,
    /// A stream's to its end.
    pub took: Duration,
}

impl Metrics {
    /// There may be calls of this method, which end with one of these codes: the series begin at 0.
    pub fn call_expected(&self, method: &'static str, codes: &[&'static str]) {
        for code in codes {
            drop(self.calls.handled.get_or_create(&Handled { method, code }));
        }
        drop(self.calls.duration.get_or_create(&Called { method }));
    }

    /// A call begins. Each one ends.
    pub fn call_began(&self) {
        self.calls.in_flight.inc();
    }

    /// A call ended, in whatever way.
    pub fn call_ended(&self, call: EndedCall) {
        let EndedCall { method, code, failed, took } = call;
        self.calls.in_flight.dec();
        self.calls.handled.get_or_create(&Handled { method, code }).inc();
        self.calls.duration.get_or_create(&Called { method }).observe(took.as_secs_f64());
        let attributes = [
            KeyValue::new("rpc.system.name", "grpc"),
            KeyValue::new("rpc.method", method),
            KeyValue::new("rpc.response.status_code", code),
            KeyValue::new("error.type", code),
        ];
        let known = if failed { &attributes[..] } else { &attributes[..3] };
        self.calls.exported_duration.record(took.as_secs_f64(), known);
    }
}

#[cfg(test)]
mod tests {
    use super::super::has;
    use super::*;

    #[test]
    fn calls_are_counted_by_method_and_code() {
        let metrics = Metrics::new();
        metrics.call_expected("S/Get", &["OK", "INTERNAL"]);
        has(&metrics, r#"rater_grpc_server_handled_total{method="S/Get",code="INTERNAL"} 0"#);
        has(&metrics, r#"rater_grpc_server_duration_seconds_count{method="S/Get"} 0"#);
        metrics.call_began();
        metrics.call_began();
        let took = Duration::from_millis(200);
        metrics.call_ended(EndedCall { method: "S/Get", code: "INTERNAL", failed: true, took });
        has(&metrics, r#"rater_grpc_server_handled_total{method="S/Get",code="INTERNAL"} 1"#);
        has(&metrics, r#"rater_grpc_server_handled_total{method="S/Get",code="OK"} 0"#);
        has(&metrics, r#"rater_grpc_server_duration_seconds_sum{method="S/Get"} 0.2"#);
        has(&metrics, "rater_calls_in_flight 1");
    }
}
