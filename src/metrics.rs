//! What the service counts, for Prometheus. Names begin with `rater_`, units are in them.
//!
//! Labels are words of the program (`&'static str`), so that no request and no pricebook can
//! make series without end; the one exception is the digest of the loaded pricebook, of which
//! there is one at a time. Series whose labels are known are there at 0 from the start:
//! `increase()` does not see a series that begins with its first count.
//!
//! Nothing here decides what is loud; that comes in with the arguments (R9).

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// The media type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const TRIGGERS: [&str; 2] = ["routine", "backfill"];
const STATES: [&str; 3] = ["succeeded", "failed", "cancelled"];
/// Seconds: from a re-run of one hour to a backfill of a year.
const RUN_BUCKETS: [f64; 12] = [0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14400.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Run {
    trigger: &'static str,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Triggered {
    trigger: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Found {
    code: &'static str,
    severity: &'static str,
    trigger: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Read {
    outcome: &'static str,
    trigger: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Recorded {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Book {
    digest: String,
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

/// Everything that is counted. Share it in an `Arc`.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    runs: Family<Run, Counter>,
    run_duration: Family<Run, Histogram>,
    last_success: Family<Triggered, Gauge>,
    findings: Family<Found, Counter>,
    run_events: Family<Read, Counter>,
    recorded_events: Family<Recorded, Counter>,
    lease_conflicts: Counter,
    pricebook_info: Family<Book, Gauge>,
    pricebook_loaded: Gauge,
    pricebook_refused: Gauge,
    /// Held while the info series is exchanged and while all are read: never none, never two.
    exchange: Mutex<()>,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl Metrics {
    /// All of them, at 0.
    pub fn new() -> Metrics {
        let mut metrics = Metrics {
            registry: Registry::with_prefix("rater"),
            runs: Family::default(),
            run_duration: Family::new_with_constructor(|| Histogram::new(RUN_BUCKETS)),
            last_success: Family::default(),
            findings: Family::default(),
            run_events: Family::default(),
            recorded_events: Family::default(),
            lease_conflicts: Counter::default(),
            pricebook_info: Family::default(),
            pricebook_loaded: Gauge::default(),
            pricebook_refused: Gauge::default(),
            exchange: Mutex::default(),
        };
        metrics.register();
        metrics.begin();
        metrics
    }

    fn register(&mut self) {
        let Metrics { registry, .. } = self;
        registry.register("runs", "Runs that ended, dry runs aside", self.runs.clone());
        let help = "How long runs took, from their acceptance to their end";
        registry.register_with_unit("run_duration", help, Unit::Seconds, self.run_duration.clone());
        let help = "When a run last succeeded, as far as this process knows";
        registry.register_with_unit(
            "run_last_success_timestamp",
            help,
            Unit::Seconds,
            self.last_success.clone(),
        );
        let help = "What the findings of runs counted: events or rollups, by the finding's code";
        registry.register("findings", help, self.findings.clone());
        let help = "Events that runs read, by what became of them; every run over an hour counts it anew";
        registry.register("run_events", help, self.run_events.clone());
        let help = "Events taken in, by what became of them";
        registry.register("recorded_events", help, self.recorded_events.clone());
        let help = "Runs refused because an overlapping one held the lease (WINDOW_BUSY)";
        registry.register("lease_conflicts", help, self.lease_conflicts.clone());
        registry.register("pricebook_info", "The pricebook in force", self.pricebook_info.clone());
        let help = "When the pricebook in force was loaded";
        registry.register_with_unit(
            "pricebook_loaded_timestamp",
            help,
            Unit::Seconds,
            self.pricebook_loaded.clone(),
        );
        let help = "1 while the pricebook file is refused and an older one stays in force";
        registry.register("pricebook_refused", help, self.pricebook_refused.clone());
    }

    /// Brings the series that are known now to life, at 0.
    fn begin(&self) {
        for trigger in TRIGGERS {
            for state in STATES {
                drop(self.runs.get_or_create(&Run { trigger, state }));
                drop(self.run_duration.get_or_create(&Run { trigger, state }));
            }
            self.run_events(trigger, RunEvents::default());
        }
        self.recorded_events(0, 0, 0);
    }

    /// A run ended; `at` is the time in Unix seconds.
    pub fn run_finished(&self, trigger: &'static str, state: &'static str, took: Duration, at: i64) {
        let run = Run { trigger, state };
        self.runs.get_or_create(&run).inc();
        self.run_duration.get_or_create(&run).observe(took.as_secs_f64());
        if state == "succeeded" {
            self.last_success.get_or_create(&Triggered { trigger }).set(at);
        }
    }

    /// A run found `count` of something; the severity is the one that its log and its response
    /// have. A count of 0 brings the series to life.
    pub fn finding(&self, code: &'static str, severity: &'static str, trigger: &'static str, count: i64) {
        self.findings.get_or_create(&Found { code, severity, trigger }).inc_by(counted(count));
    }

    /// A run read these events.
    pub fn run_events(&self, trigger: &'static str, events: RunEvents) {
        let RunEvents { rated, unpriced, unattributable, ambiguous_base, malformed } = events;
        let outcomes = [
            ("rated", rated),
            ("unpriced", unpriced),
            ("unattributable", unattributable),
            ("ambiguous_base", ambiguous_base),
            ("malformed", malformed),
        ];
        for (outcome, count) in outcomes {
            self.run_events.get_or_create(&Read { outcome, trigger }).inc_by(counted(count));
        }
    }

    /// A batch of events was taken in.
    pub fn recorded_events(&self, stored: i64, duplicates: i64, rejected: i64) {
        for (outcome, count) in [("stored", stored), ("duplicate", duplicates), ("rejected", rejected)] {
            self.recorded_events.get_or_create(&Recorded { outcome }).inc_by(counted(count));
        }
    }

    /// A run was refused: an overlapping one holds the lease.
    pub fn lease_conflict(&self) {
        self.lease_conflicts.inc();
    }

    /// The pricebook in force; `at` is when it was loaded, in Unix seconds.
    pub fn pricebook_loaded(&self, digest: &str, at: i64) {
        let _exchange = self.exchange.lock().unwrap_or_else(PoisonError::into_inner);
        self.pricebook_info.clear();
        self.pricebook_info.get_or_create(&Book { digest: digest.to_owned() }).set(1);
        self.pricebook_loaded.set(at);
    }

    /// Whether the pricebook file is refused, so that an older one stays in force.
    pub fn pricebook_refused(&self, refused: bool) {
        self.pricebook_refused.set(i64::from(refused));
    }

    /// Everything in the OpenMetrics text format ([`CONTENT_TYPE`]).
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let _exchange = self.exchange.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// A counter only grows.
fn counted(count: i64) -> u64 {
    debug_assert!(count >= 0, "a count of {count}");
    u64::try_from(count).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn has(metrics: &Metrics, line: &str) {
        let text = metrics.encode().expect("memory");
        assert!(text.lines().any(|l| l == line), "no `{line}` in\n{text}");
    }

    #[test]
    fn known_series_are_there_before_their_first_count() {
        let metrics = Metrics::new();
        has(&metrics, r#"rater_runs_total{trigger="routine",state="failed"} 0"#);
        has(&metrics, r#"rater_run_duration_seconds_count{trigger="backfill",state="succeeded"} 0"#);
        has(&metrics, r#"rater_run_events_total{outcome="unpriced",trigger="routine"} 0"#);
        has(&metrics, r#"rater_recorded_events_total{outcome="rejected"} 0"#);
        has(&metrics, "rater_lease_conflicts_total 0");
        has(&metrics, "rater_pricebook_refused 0");
        assert!(metrics.encode().expect("memory").ends_with("# EOF\n"));
    }

    #[test]
    fn runs_are_counted_by_trigger_and_state() {
        let metrics = Metrics::new();
        metrics.run_finished("routine", "succeeded", Duration::from_millis(3_200), 1_780_000_000);
        metrics.run_finished("routine", "failed", Duration::from_secs(1), 1_780_003_600);
        has(&metrics, r#"rater_runs_total{trigger="routine",state="succeeded"} 1"#);
        has(&metrics, r#"rater_run_duration_seconds_sum{trigger="routine",state="succeeded"} 3.2"#);
        has(&metrics, r#"rater_run_duration_seconds_bucket{le="5.0",trigger="routine",state="succeeded"} 1"#);
        has(&metrics, r#"rater_run_last_success_timestamp_seconds{trigger="routine"} 1780000000"#);
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
    fn events_are_counted_by_what_became_of_them() {
        let metrics = Metrics::new();
        let events = RunEvents { rated: 5, unpriced: 4, unattributable: 3, ambiguous_base: 2, malformed: 1 };
        metrics.run_events("routine", events);
        metrics.recorded_events(10, 2, 1);
        for (outcome, count) in
            [("rated", 5), ("unpriced", 4), ("unattributable", 3), ("ambiguous_base", 2), ("malformed", 1)]
        {
            let labels = format!(r#"outcome="{outcome}",trigger="routine""#);
            has(&metrics, &format!("rater_run_events_total{{{labels}}} {count}"));
        }
        has(&metrics, r#"rater_recorded_events_total{outcome="stored"} 10"#);
        has(&metrics, r#"rater_recorded_events_total{outcome="duplicate"} 2"#);
    }

    #[test]
    fn one_pricebook_is_in_force() {
        let metrics = Metrics::new();
        metrics.pricebook_loaded("aa", 1);
        metrics.pricebook_loaded("bb", 2);
        metrics.pricebook_refused(true);
        has(&metrics, r#"rater_pricebook_info{digest="bb"} 1"#);
        has(&metrics, "rater_pricebook_loaded_timestamp_seconds 2");
        has(&metrics, "rater_pricebook_refused 1");
        assert!(!metrics.encode().expect("memory").contains("aa"));
    }
}
