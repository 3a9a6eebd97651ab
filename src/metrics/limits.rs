//! What came in, and what was past a limit.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::Metrics;

/// Why a connection was closed before it began: no more file descriptors, another one needed its
/// place, what it sent first was wrong, it sent nothing, all places were taken.
const CONNECTIONS: [&str; 5] = ["accept", "crowded_out", "handshake", "silent", "full"];
/// Why a call was refused unheard.
const CALLS: [&str; 2] = ["overloaded", "rate_limited"];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Why {
    reason: &'static str,
}

#[derive(Debug, Default)]
pub(super) struct Limits {
    connections: Gauge,
    connections_refused: Family<Why, Counter>,
    calls: Gauge,
    calls_refused: Family<Why, Counter>,
}

impl Limits {
    pub(super) fn registered(registry: &mut Registry) -> Limits {
        let limits = Limits::default();
        registry.register("connections", "Open connections of clients", limits.connections.clone());
        let help = "Connections that were closed before they began, by why";
        registry.register("connections_refused", help, limits.connections_refused.clone());
        let help = "Calls that hold one of the places of --max-calls";
        registry.register("calls", help, limits.calls.clone());
        let help = "Calls that were past a limit and not heard, by which";
        registry.register("calls_refused", help, limits.calls_refused.clone());
        for reason in CONNECTIONS {
            drop(limits.connections_refused.get_or_create(&Why { reason }));
        }
        for reason in CALLS {
            drop(limits.calls_refused.get_or_create(&Why { reason }));
        }
        limits
    }
}

impl Metrics {
    /// So many connections are open.
    pub fn connections(&self, open: usize) {
        self.limits.connections.set(i64::try_from(open).unwrap_or(i64::MAX));
    }

    /// A connection was closed before it began.
    pub fn connection_refused(&self, reason: &'static str) {
        self.limits.connections_refused.get_or_create(&Why { reason }).inc();
    }

    /// A call begins, or with -1 ends.
    pub fn calls(&self, change: i64) {
        self.limits.calls.inc_by(change);
    }

    /// A call was refused unheard.
    pub fn call_refused(&self, reason: &'static str) {
        self.limits.calls_refused.get_or_create(&Why { reason }).inc();
    }
}

#[cfg(test)]
mod tests {
    use crate::metrics::{Metrics, has};

    #[test]
    fn what_is_past_a_limit_is_counted_by_which() {
        let metrics = Metrics::new();
        has(&metrics, r#"rater_connections_refused_total{reason="silent"} 0"#);
        has(&metrics, r#"rater_calls_refused_total{reason="rate_limited"} 0"#);
        metrics.connections(3);
        metrics.calls(2);
        metrics.calls(-1);
        metrics.call_refused("overloaded");
        metrics.connection_refused("full");
        has(&metrics, "rater_connections 3");
        has(&metrics, "rater_calls 1");
        has(&metrics, r#"rater_calls_refused_total{reason="overloaded"} 1"#);
        has(&metrics, r#"rater_connections_refused_total{reason="full"} 1"#);
    }
}
