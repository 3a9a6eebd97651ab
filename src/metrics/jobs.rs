//! Work that goes row by row over whole tables, as its record says, whoever does it.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::Metrics;

/// Every job there is.
const JOBS: [&str; 2] = ["audit", "change_retention"];

/// Not `job`, which is the scraper's own.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Job {
    table_job: &'static str,
}

/// How far a job is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JobGauges {
    /// Rows that are done.
    pub rows_done: i64,
    /// Rows in all.
    pub rows: i64,
    /// Rows that could not be read or changed.
    pub rows_passed_over: i64,
    /// Until it is done; 0 where nobody knows.
    pub eta_seconds: i64,
    /// When its last batch was committed, in Unix seconds.
    pub last_update: i64,
    /// It is not done, whether or not someone is at it.
    pub running: bool,
    /// It ended with an error.
    pub failed: bool,
}

#[derive(Debug, Default)]
pub(super) struct Jobs {
    rows_done: Family<Job, Gauge>,
    rows: Family<Job, Gauge>,
    rows_passed_over: Family<Job, Gauge>,
    eta: Family<Job, Gauge>,
    last_update: Family<Job, Gauge>,
    running: Family<Job, Gauge>,
    failed: Family<Job, Gauge>,
}

impl Jobs {
    pub fn registered(registry: &mut Registry) -> Jobs {
        let jobs = Jobs::default();
        let help = "Rows of tables that a job has worked off, by its record";
        registry.register("job_rows_done", help, jobs.rows_done.clone());
        registry.register("job_rows", "Rows that a job has to work off in all", jobs.rows.clone());
        let help = "Rows that a job could not read or change, and passed over";
        registry.register("job_rows_passed_over", help, jobs.rows_passed_over.clone());
        let help = "How long a job still takes, at its rate so far; 0 where none is going on";
        registry.register_with_unit("job_eta", help, Unit::Seconds, jobs.eta.clone());
        let help = "When a job's last batch was committed; 0 where it never began";
        registry.register_with_unit(
            "job_last_update_timestamp",
            help,
            Unit::Seconds,
            jobs.last_update.clone(),
        );
        let help = "1 while a job is not done, whether or not a process is at it";
        registry.register("job_running", help, jobs.running.clone());
        registry.register("job_failed", "1 after a job failed, until it is run again", jobs.failed.clone());
        for job in JOBS {
            jobs.set(job, JobGauges::default());
        }
        jobs
    }

    fn set(&self, job: &'static str, gauges: JobGauges) {
        let set = |family: &Family<Job, Gauge>, value: i64| {
            family.get_or_create(&Job { table_job: job }).set(value);
        };
        set(&self.rows_done, gauges.rows_done);
        set(&self.rows, gauges.rows);
        set(&self.rows_passed_over, gauges.rows_passed_over);
        set(&self.eta, gauges.eta_seconds);
        set(&self.last_update, gauges.last_update);
        set(&self.running, i64::from(gauges.running));
        set(&self.failed, i64::from(gauges.failed));
    }
}

impl Metrics {
    /// Where a job stands. One of a newer build's is not shown.
    pub fn job(&self, job: &str, gauges: JobGauges) {
        if let Some(known) = JOBS.into_iter().find(|known| *known == job) {
            self.jobs.set(known, gauges);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::has;
    use super::*;

    #[test]
    fn a_job_is_there_before_it_begins_and_shows_how_far_it_is() {
        let metrics = Metrics::new();
        has(&metrics, r#"rater_job_failed{table_job="audit"} 0"#);
        has(&metrics, r#"rater_job_last_update_timestamp_seconds{table_job="change_retention"} 0"#);
        let gauges =
            JobGauges { rows_done: 3, rows: 10, eta_seconds: 7, running: true, ..Default::default() };
        metrics.job("audit", gauges);
        metrics.job("of a newer build", gauges);
        has(&metrics, r#"rater_job_rows_done{table_job="audit"} 3"#);
        has(&metrics, r#"rater_job_rows{table_job="audit"} 10"#);
        has(&metrics, r#"rater_job_eta_seconds{table_job="audit"} 7"#);
        has(&metrics, r#"rater_job_running{table_job="audit"} 1"#);
        assert!(!metrics.encode().expect("memory").contains("newer"));
    }
}
