//! Events that are taken in.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::{Metrics, counted};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Recorded {
    outcome: &'static str,
}

#[derive(Debug, Default)]
pub(super) struct Events {
    recorded: Family<Recorded, Counter>,
}

impl Events {
    pub(super) fn registered(registry: &mut Registry) -> Events {
        let events = Events::default();
        let help = "Events taken in, by what became of them";
        registry.register("recorded_events", help, events.recorded.clone());
        events.count(0, 0, 0);
        events
    }

    fn count(&self, stored: i64, duplicates: i64, rejected: i64) {
        for (outcome, count) in [("stored", stored), ("duplicate", duplicates), ("rejected", rejected)] {
            self.recorded.get_or_create(&Recorded { outcome }).inc_by(counted(count));
        }
    }
}

impl Metrics {
    /// A batch of events was taken in.
    pub fn recorded_events(&self, stored: i64, duplicates: i64, rejected: i64) {
        self.events.count(stored, duplicates, rejected);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Metrics, has};

    #[test]
    fn events_taken_in_are_counted_by_what_became_of_them() {
        let metrics = Metrics::new();
        metrics.recorded_events(10, 2, 1);
        has(&metrics, r#"rater_recorded_events_total{outcome="stored"} 10"#);
        has(&metrics, r#"rater_recorded_events_total{outcome="duplicate"} 2"#);
        has(&metrics, r#"rater_recorded_events_total{outcome="rejected"} 1"#);
    }
}
