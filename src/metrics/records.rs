//! What the records say: gauges that every process shows alike, and that a restart does not
//! forget. Alerts look at these (R9): a repeat of a run finds nothing left to delete, and a
//! process's own counters end with it.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::Metrics;
use super::runs::{Found, Run, TRIGGERS, Triggered};

const OPEN_STATES: [&str; 3] = ["pending", "running", "cancelling"];
const ENDED_STATES: [&str; 3] = ["succeeded", "failed", "cancelled"];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: &'static str,
}

/// One series, and none before it is known.
type NoLabels = [(&'static str, &'static str); 0];

#[derive(Debug, Default)]
pub(super) struct Records {
    ready: Gauge,
    looked: Gauge,
    recent_runs: Family<Run, Gauge>,
    recent_findings: Family<Found, Gauge>,
    open_runs: Family<Run, Gauge>,
    still: Family<Triggered, Gauge>,
    leases: Family<State, Gauge>,
    oldest_unrated: Family<NoLabels, Gauge>,
    unbilled: Family<Kind, Gauge>,
    recent_unbilled: Family<Kind, Gauge>,
    last_success: Family<Triggered, Gauge>,
}

impl Records {
    pub(super) fn registered(registry: &mut Registry) -> Records {
        let seen = Records::default();
        registry.register("ready", "1 while /readyz says so", seen.ready.clone());
        let help = "When the records were last looked at without trouble; what is below is as of then";
        registry.register_with_unit("records_looked_at_timestamp", help, Unit::Seconds, seen.looked.clone());
        let help = "Runs that ended in the last 6 hours, by their records";
        registry.register("recent_runs", help, seen.recent_runs.clone());
        let help =
            "What runs that are open, or ended in the last 6 hours, found by their records; each counts anew";
        registry.register("recent_findings", help, seen.recent_findings.clone());
        registry.register("open_runs", "Runs that have not ended, by their records", seen.open_runs.clone());
        let help = "For how long an open run has committed nothing, the longest; 0 where none is open";
        registry.register_with_unit("open_run_still", help, Unit::Seconds, seen.still.clone());
        registry.register("leases", "Leases of windows", seen.leases.clone());
        let help =
            "How long ago the oldest hour closed that has events and was not rated; 0 where none is left";
        registry.register_with_unit(
            "oldest_unrated_hour_age",
            help,
            Unit::Seconds,
            seen.oldest_unrated.clone(),
        );
        let help = "Events that the latest run of their hour could not bill, of the last 31 days, by kind";
        registry.register("unbilled_events", help, seen.unbilled.clone());
        let help = "Events that the latest run of their hour could not bill, of the last 3 days, by kind";
        registry.register("recent_unbilled_events", help, seen.recent_unbilled.clone());
        let help = "When a run last succeeded, in whatever process; of the last 31 days, gap fills aside";
        registry.register_with_unit(
            "run_last_success_timestamp",
            help,
            Unit::Seconds,
            seen.last_success.clone(),
        );
        seen
    }
}

impl Metrics {
    /// Whether the service wants calls.
    pub fn ready(&self, ready: bool) {
        self.records.ready.set(i64::from(ready));
    }

    /// The records were looked at, all that the role may see; `at` is the time in Unix seconds.
    pub fn records_looked_at(&self, at: i64) {
        self.records.looked.set(at);
    }

    /// Runs that ended a short while ago: how many, by trigger and state. All that are not named
    /// are none.
    pub fn recent_runs(&self, runs: &[(&'static str, &'static str, i64)]) {
        fill(&self.records.recent_runs, &ENDED_STATES, runs);
    }

    /// What they found, by code, severity and trigger. Name those that are 0, too.
    pub fn recent_finding(
        &self,
        code: &'static str,
        severity: &'static str,
        trigger: &'static str,
        count: i64,
    ) {
        self.records.recent_findings.get_or_create(&Found { code, severity, trigger }).set(count);
    }

    /// Runs that have not ended: how many, by trigger and state. All that are not named are none.
    pub fn open_runs(&self, runs: &[(&'static str, &'static str, i64)]) {
        fill(&self.records.open_runs, &OPEN_STATES, runs);
    }

    /// For how many seconds an open run with this trigger has committed nothing.
    pub fn open_run_still(&self, trigger: &'static str, seconds: i64) {
        self.records.still.get_or_create(&Triggered { trigger }).set(seconds);
    }

    /// Leases that are there.
    pub fn leases(&self, live: i64, expired: i64) {
        for (state, count) in [("live", live), ("expired", expired)] {
            self.records.leases.get_or_create(&State { state }).set(count);
        }
    }

    /// How many seconds ago the oldest hour closed that nobody has rated; 0 where there is none.
    pub fn oldest_unrated_hour(&self, ago: i64) {
        self.records.oldest_unrated.get_or_create(&[]).set(ago);
    }

    /// Events of this kind that could not be billed.
    pub fn unbilled_events(&self, kind: &'static str, events: i64) {
        self.records.unbilled.get_or_create(&Kind { kind }).set(events);
    }

    /// Those of the last days.
    pub fn recent_unbilled_events(&self, kind: &'static str, events: i64) {
        self.records.recent_unbilled.get_or_create(&Kind { kind }).set(events);
    }

    /// When a run with this trigger last succeeded, in whatever process.
    pub fn last_success(&self, trigger: &'static str, at: i64) {
        self.records.last_success.get_or_create(&Triggered { trigger }).set(at);
    }

    /// What was seen is too old to be shown.
    pub fn forget_records(&self) {
        let seen = &self.records;
        seen.recent_runs.clear();
        seen.recent_findings.clear();
        seen.open_runs.clear();
        seen.still.clear();
        seen.leases.clear();
        seen.oldest_unrated.clear();
        seen.unbilled.clear();
        seen.recent_unbilled.clear();
        seen.last_success.clear();
    }
}

fn fill(family: &Family<Run, Gauge>, states: &[&'static str], runs: &[(&'static str, &'static str, i64)]) {
    for trigger in TRIGGERS {
        for &state in states {
            let named = runs.iter().find(|(t, s, _)| (*t, *s) == (trigger, state));
            family.get_or_create(&Run { trigger, state }).set(named.map_or(0, |(.., count)| *count));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Metrics, has};

    #[test]
    fn what_nobody_has_looked_at_is_not_there() {
        let text = Metrics::new().encode().expect("memory");
        for name in [
            "rater_run_last_",
            "rater_recent_",
            "rater_open_",
            "rater_leases{",
            "rater_oldest_",
            "rater_unbilled_",
        ] {
            assert!(!text.lines().any(|line| line.starts_with(name)), "{name} in\n{text}");
        }
        has(&Metrics::new(), "rater_ready 0");
    }

    #[test]
    fn a_run_that_is_gone_is_counted_no_more() {
        let metrics = Metrics::new();
        metrics.open_runs(&[("backfill", "running", 2)]);
        has(&metrics, r#"rater_open_runs{trigger="backfill",state="running"} 2"#);
        has(&metrics, r#"rater_open_runs{trigger="routine",state="pending"} 0"#);
        metrics.open_runs(&[]);
        has(&metrics, r#"rater_open_runs{trigger="backfill",state="running"} 0"#);
    }
}
