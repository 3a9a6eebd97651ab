//! Jobs as everybody sees them: in the metrics and on the page of readiness, from the record, in
//! whichever process the work is done.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch::Sender;
use tokio_util::sync::CancellationToken;

use crate::metrics::{JobGauges, Metrics};
use crate::store::{Db, JobRecord};

/// From one look to the next.
const EVERY: Duration = Duration::from_secs(5);

/// Where a job stands, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobReport {
    /// Which one.
    pub job: String,
    /// `never`, `running`, `stopped` (not done, and nobody is at it), `succeeded`, `failed` or `cancelled`.
    pub state: &'static str,
    /// The record.
    pub record: JobRecord,
}

impl From<JobRecord> for JobReport {
    fn from(record: JobRecord) -> JobReport {
        let state = match (record.state.as_str(), record.owned) {
            ("never", _) => "never",
            ("running", true) => "running",
            ("running", false) => "stopped",
            ("succeeded", _) => "succeeded",
            ("cancelled", _) => "cancelled",
            _ => "failed",
        };
        JobReport { job: record.job.clone(), state, record }
    }
}

impl JobReport {
    /// Whether it goes on, or should.
    pub fn is_open(&self) -> bool {
        matches!(self.state, "running" | "stopped" | "failed")
    }

    fn gauges(&self) -> JobGauges {
        let seconds = |time: Option<chrono::DateTime<chrono::Utc>>| time.map_or(0, |time| time.timestamp());
        JobGauges {
            rows_done: self.record.rows_done,
            rows: self.record.rows_all,
            rows_passed_over: self.record.rows_passed_over,
            eta_seconds: self.record.eta_seconds.unwrap_or(0),
            last_update: seconds(self.record.updated_at),
            running: matches!(self.state, "running" | "stopped"),
            failed: self.state == "failed",
        }
    }
}

/// One line: how far it is, and what is wrong if anything is.
impl fmt::Display for JobReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let JobRecord { rows_done, rows_all, rows_passed_over, rows_per_second, .. } = &self.record;
        write!(f, "{}, {rows_done} of {rows_all} rows", self.state)?;
        if let (Some(rate), "running") = (rows_per_second, self.state) {
            write!(f, ", {rate} a second")?;
        }
        if let (Some(seconds), "running") = (self.record.eta_seconds, self.state) {
            write!(f, ", done in {seconds} s")?;
        }
        if *rows_passed_over > 0 {
            write!(f, ", {rows_passed_over} passed over")?;
        }
        if let Some(at) = self.record.updated_at.filter(|_| self.state != "succeeded") {
            write!(f, ", last update {}", crate::service::rfc3339(at))?;
        }
        match &self.record.error {
            Some(error) if self.state == "failed" => write!(f, ": {error}"),
            _ => Ok(()),
        }
    }
}

/// Publishes where jobs stand until it is told to stop. A role that may not look sees none.
pub async fn watch(
    db: Db,
    metrics: Arc<Metrics>,
    published: Sender<Vec<JobReport>>,
    stop: CancellationToken,
) {
    let mut may = false;
    while !stop.is_cancelled() {
        may = may || matches!(db.may_see_jobs().await, Ok(true));
        // Where the database is away, the last that was seen stays; readiness tells.
        if may && let Ok(records) = db.jobs().await {
            let reports: Vec<JobReport> = records.into_iter().map(JobReport::from).collect();
            for report in &reports {
                metrics.job(&report.job, report.gauges());
            }
            published.send_replace(reports);
        }
        stop.run_until_cancelled(tokio::time::sleep(EVERY)).await;
    }
}
