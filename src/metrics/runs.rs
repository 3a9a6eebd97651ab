//! Runs, what they read and what they found, and those that the lease kept out.

use std::time::Duration;

use opentelemetry::{KeyValue, global, metrics};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::{Metrics, counted};

pub(super) const TRIGGERS: [&str; 2] = ["routine", "backfill"];
const STATES: [&str; 3] = ["succeeded", "failed", "cancelled"];
/// Seconds: from a re-run of one hour to a backfill of a year.
const RUN_BUCKETS: [f64; 12] = [0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14400.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Run {
    pub trigger: &'static str,
    pub state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Triggered {
    pub trigger: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Found {
    pub code: &'static str,
    pub severity: &'static str,
    pub trigger: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Read {
    outcome: &'static str,
    trigger: &'static str,
}

/// What a run made of the events in its window; they add up to them (R4).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RunEvents {
    /// Billed.
    pub rated: i64,
    /// Without a rate.
    pub unpriced: i64,
    /// Without an identity or a model.
    pub unattributable: i64,
    /// Of a rollup with more than one base model.
    pub ambiguous_base: i64,
    /// With a negative token count.
    pub malformed: i64,
}

#[derive(Debug)]
pub(super) struct Runs {
    ended: Family<Run, Counter>,
    duration: Family<Run, Histogram>,
    findings: Family<Found, Counter>,
    events: Family<Read, Counter>,
    lease_conflicts: Counter,
    /// The same times for OpenTelemetry, which can't read them back.
    exported_duration: metrics::Histogram<f64>,
}

impl Runs {
    pub(super) fn registered(registry: &mut Registry) -> Runs {
        let runs = Runs {
            ended: Family::default(),
            duration: Family::new_with_constructor(|| Histogram::new(RUN_BUCKETS)),
            findings: Family::default(),
            events: Family::default(),
            lease_conflicts: Counter::default(),
            exported_duration: global::meter("rater")
                .f64_histogram("rater_run_duration_seconds")
                .with_description("How long runs took, from their acceptance to their end")
                .with_unit("s")
                .with_boundaries(RUN_BUCKETS.to_vec())
                .build(),
        };
        registry.register("runs", "Runs that ended, dry runs aside", runs.ended.clone());
        let help = "How long runs took, from their acceptance to their end";
        registry.register_with_unit("run_duration", help, Unit::Seconds, runs.duration.clone());
        let help = "What the findings of runs counted: events or rollups, by the finding's code";
        registry.register("findings", help, runs.findings.clone());
        let help = "Events that runs read, by what became of them; every run over an hour counts it anew";
        registry.register("run_events", help, runs.events.clone());
        let help = "Runs refused because an overlapping one held the lease (WINDOW_BUSY)";
        registry.register("lease_conflicts", help, runs.lease_conflicts.clone());
        runs.begin();
        runs
    }

    /// Brings the series that are known now to life, at 0.
    fn begin(&self) {
        for trigger in TRIGGERS {
            for state in STATES {
                drop(self.ended.get_or_create(&Run { trigger, state }));
                drop(self.duration.get_or_create(&Run { trigger, state }));
            }
            self.read(trigger, RunEvents::default());
        }
    }

    fn read(&self, trigger: &'static str, events: RunEvents) {
        let RunEvents { rated, unpriced, unattributable, ambiguous_base, malformed } = events;
        let outcomes = [
            ("rated", rated),
            ("unpriced", unpriced),
            ("unattributable", unattributable),
            ("ambiguous_base", ambiguous_base),
            ("malformed", malformed),
        ];
        for (outcome, count) in outcomes {
            self.events.get_or_create(&Read { outcome, trigger }).inc_by(counted(count));
        }
    }
}

impl Metrics {
    /// A run ended.
    pub fn run_finished(&self, trigger: &'static str, state: &'static str, took: Duration) {
        let run = Run { trigger, state };
        self.runs.ended.get_or_create(&run).inc();
        self.runs.duration.get_or_create(&run).observe(took.as_secs_f64());
        let labels = [KeyValue::new("trigger", trigger), KeyValue::new("state", state)];
        self.runs.exported_duration.record(took.as_secs_f64(), &labels);
    }

    /// A run found `count` of something; the severity is the one that its log and its response
    /// have. A count of 0 brings the series to life.
    pub fn finding(&self, code: &'static str, severity: &'static str, trigger: &'static str, count: i64) {
        self.runs.findings.get_or_create(&Found { code, severity, trigger }).inc_by(counted(count));
    }

    /// A run read these events.
    pub fn run_events(&self, trigger: &'static str, events: RunEvents) {
        self.runs.read(trigger, events);
    }

    /// A run was refused: an overlapping one holds the lease.
    pub fn lease_conflict(&self) {
        self.runs.lease_conflicts.inc();
    }
}

#[cfg(test)]
mod tests {
    use super::super::has;
    use super::*;

    #[test]
    fn runs_are_counted_by_trigger_and_state() {
        let metrics = Metrics::new();
        metrics.run_finished("routine", "succeeded", Duration::from_millis(3_200));
        metrics.run_finished("routine", "failed", Duration::from_secs(1));
        has(&metrics, r#"rater_runs_total{trigger="routine",state="succeeded"} 1"#);
        has(&metrics, r#"rater_run_duration_seconds_sum{trigger="routine",state="succeeded"} 3.2"#);
        has(&metrics, r#"rater_run_duration_seconds_bucket{le="5.0",trigger="routine",state="succeeded"} 1"#);
    }

    #[test]
    fn a_finding_keeps_the_severity_that_it_was_given() {
        let metrics = Metrics::new();
        metrics.finding("reconciled_deletions", "error", "routine", 0);
        let series =
            r#"rater_findings_total{code="reconciled_deletions",severity="error",trigger="routine"}"#;
        has(&metrics, &format!("{series} 0"));
        metrics.finding("reconciled_deletions", "error", "routine", 7);
        metrics.finding("reconciled_deletions", "info", "backfill", 5);
        has(&metrics, &format!("{series} 7"));
        has(
            &metrics,
            r#"rater_findings_total{code="reconciled_deletions",severity="info",trigger="backfill"} 5"#,
        );
    }

    #[test]
    fn events_that_runs_read_are_counted_by_what_became_of_them() {
        let metrics = Metrics::new();
        let events = RunEvents { rated: 5, unpriced: 4, unattributable: 3, ambiguous_base: 2, malformed: 1 };
        metrics.run_events("routine", events);
        for (outcome, count) in
            [("rated", 5), ("unpriced", 4), ("unattributable", 3), ("ambiguous_base", 2), ("malformed", 1)]
        {
            let labels = format!(r#"outcome="{outcome}",trigger="routine""#);
            has(&metrics, &format!("rater_run_events_total{{{labels}}} {count}"));
        }
    }
}
