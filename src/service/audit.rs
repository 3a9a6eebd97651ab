//! The audit: every rated row against what it says itself (R13), and, where asked, every closed hour
//! against a fresh rating of its events at the rows' own rates. It writes down what does not agree,
//! and changes no row. A job like any other: batch by batch, and gone on with after a kill.

use std::time::Duration;

use chrono::{DateTime, NaiveDate, NaiveTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::rfc3339;
use super::table_jobs::{self, Claimed, Ended, JobBatch, JobReport, JobStart, JobStep, TableJob};
use crate::domain::pricebook::Pricebook;
use crate::domain::window::{Window, closing_limit};
use crate::store::{AuditKey, Db, Error};
pub use crate::store::{AuditTotal, Disagreement, LISTED};

/// The job's name.
pub const JOB: &str = "audit";
/// What is told and is no disagreement: adopted rows keep their ids, and may lack columns that R13
/// does without; rates are frozen; and of events that nobody bills there is no row to disagree.
pub const NOTES: [&str; 9] = [
    "currencies",
    "foreign_id",
    "not_compared",
    "rate_drift",
    "unbilled_ambiguous_base",
    "unbilled_malformed",
    "unbilled_unattributable",
    "unbilled_unpriced",
    "unstated",
];

/// What an audit looks at.
#[derive(Debug, Default)]
pub struct AuditRequest {
    /// Rows of hours from here on; all where none is given.
    pub since: Option<DateTime<Utc>>,
    /// Rows of hours before this.
    pub until: Option<DateTime<Utc>>,
    /// Rate the events, too; rows that are missing are priced by this.
    pub book: Option<Pricebook>,
    /// How long an hour must have been over to be held against its events.
    pub rated_within: Duration,
    /// Begin anew, whatever another audit has left.
    pub anew: bool,
}

/// How an audit ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Audited {
    /// It looked at everything.
    Done,
    /// It was told to stop; the same call goes on.
    Stopped,
    /// Another process is at it.
    Busy,
    /// One of another request is not done.
    Other,
}

/// What the latest audit says.
#[derive(Debug, Clone)]
pub struct AuditStatus {
    /// How far it is.
    pub job: JobReport,
    /// What it found, so far.
    pub totals: Vec<AuditTotal>,
}

impl AuditStatus {
    /// Whether all of it agrees. An audit that is not done knows only that something does not.
    pub fn agrees(&self) -> Option<bool> {
        let found = self.totals.iter().any(|total| !NOTES.contains(&total.finding.as_str()));
        (found || self.job.state == "succeeded").then_some(!found)
    }
}

/// Where the next batch begins: at the beginning, after a row, or at an hour.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Cursor {
    after: Option<AuditKey>,
    hours_from: Option<DateTime<Utc>>,
    /// Where hours that are held against events end: as it was when the audit began.
    hours_until: Option<DateTime<Utc>>,
}

struct Audit<'a> {
    request: &'a AuditRequest,
    /// Where hours are held against events, if they are; it may be empty.
    hours: Option<Window>,
}

impl TableJob for Audit<'_> {
    const MOST: i64 = 5_000;
    const TIMEOUT: Duration = Duration::from_secs(900);
    /// What can't be read is an audit's finding, however much it is.
    const MOST_PASSED_OVER: Option<u32> = None;

    async fn batch(&self, batch: &mut JobBatch, most: i64) -> Result<JobStep, Error> {
        let cursor = self.cursor(batch)?;
        match cursor.hours_from {
            Some(from) => self.hour(batch, cursor, from).await,
            None => self.rows(batch, cursor, most).await,
        }
    }

    async fn pass_over(&self, batch: &mut JobBatch, why: &Error) -> Result<JobStep, Error> {
        let cursor = self.cursor(batch)?;
        if let Some(from) = cursor.hours_from {
            let Some(hour) = self.next_hour(batch, &cursor, from).await? else {
                return Ok(done());
            };
            batch.pass_over_hour(hour.start, &why.explained()).await?;
            return Ok(step(1, 1, Cursor { hours_from: Some(hour.end), ..cursor }));
        }
        let after = self.after(&cursor);
        match batch.pass_over_row(&after, self.request.until, &why.explained()).await? {
            Some(passed) => Ok(step(1, 1, Cursor { after: Some(passed), ..cursor })),
            None => Ok(self.rows_are_done(0, cursor)),
        }
    }

    /// An hour is rated in one piece (R7).
    fn divides(&self, cursor: &Value) -> bool {
        cursor.get("hours_from").is_none_or(Value::is_null)
    }
}

impl Audit<'_> {
    fn cursor(&self, batch: &JobBatch) -> Result<Cursor, Error> {
        let wrong = |_| Error::Inconsistent("an audit's cursor has another form");
        let cursor: Cursor = serde_json::from_value(batch.cursor.clone()).map_err(wrong)?;
        let end = self.hours.map(|hours| hours.end);
        Ok(Cursor { hours_until: cursor.hours_until.or(end), ..cursor })
    }

    async fn rows(&self, batch: &mut JobBatch, cursor: Cursor, most: i64) -> Result<JobStep, Error> {
        let after = self.after(&cursor);
        let (rows, last) = batch.audit_rows(&after, self.request.until, cursor.hours_until, most).await?;
        match last.filter(|_| rows == most) {
            Some(last) => Ok(step(rows, 0, Cursor { after: Some(last), ..cursor })),
            None => Ok(self.rows_are_done(rows, cursor)),
        }
    }

    fn after(&self, cursor: &Cursor) -> AuditKey {
        cursor.after.clone().unwrap_or_else(|| AuditKey::before(self.request.since))
    }

    fn rows_are_done(&self, rows: i64, cursor: Cursor) -> JobStep {
        match self.hours {
            Some(hours) => step(rows, 0, Cursor { hours_from: Some(hours.start), ..cursor }),
            None => JobStep { rows, ..done() },
        }
    }

    async fn hour(
        &self,
        batch: &mut JobBatch,
        cursor: Cursor,
        from: DateTime<Utc>,
    ) -> Result<JobStep, Error> {
        let book =
            self.request.book.as_ref().ok_or(Error::Inconsistent("an audit of events has no pricebook"))?;
        let Some(hour) = self.next_hour(batch, &cursor, from).await? else { return Ok(done()) };
        let rows = batch.audit_hour(hour, book, Self::TIMEOUT).await?;
        Ok(step(rows, 0, Cursor { hours_from: Some(hour.end), ..cursor }))
    }

    async fn next_hour(
        &self,
        batch: &mut JobBatch,
        cursor: &Cursor,
        from: DateTime<Utc>,
    ) -> Result<Option<Window>, Error> {
        let Some(until) = cursor.hours_until.filter(|until| from < *until) else { return Ok(None) };
        let hour = batch.next_hour(Window { start: from, end: until }).await?;
        Ok(hour.map(|start| Window { start, end: start + TimeDelta::hours(1) }))
    }
}

fn step(rows: i64, passed_over: i64, cursor: Cursor) -> JobStep {
    JobStep { rows, passed_over, cursor: json!(cursor), ..JobStep::default() }
}

fn done() -> JobStep {
    JobStep { done: true, cursor: json!({}), ..JobStep::default() }
}

/// Audits, going on with the same audit that was left half-way, until it is done or told to stop.
pub async fn audit(db: &Db, request: &AuditRequest, stop: &CancellationToken) -> Result<Audited, Error> {
    let hours = match &request.book {
        Some(_) => Some(hours(db, request).await?),
        None => None,
    };
    let parameters = json!({
        "since": request.since.map(rfc3339),
        "until": request.until.map(rfc3339),
        "pricebook_digest": request.book.as_ref().map(Pricebook::digest),
        "rated_within_seconds": request.book.as_ref().map(|_| request.rated_within.as_secs()),
    });
    let open =
        db.jobs().await?.iter().any(|job| job.job == JOB && ["running", "failed"].contains(&&*job.state));
    let rows_all = match open && !request.anew {
        true => 0,
        false => db.rows_to_audit(request.since, request.until, hours).await?,
    };
    let start = JobStart {
        job: JOB,
        parameters: &parameters,
        adapts: false,
        rows_all,
        anew: request.anew,
        audits: true,
    };
    let claim = match db.claim_job(&start).await? {
        Claimed::Begun(claim) | Claimed::Resumed(claim) => claim,
        Claimed::Busy => return Ok(Audited::Busy),
        Claimed::Other => return Ok(Audited::Other),
    };
    Ok(match table_jobs::work(db, claim, &Audit { request, hours }, stop).await? {
        Ended::Done => Audited::Done,
        Ended::Stopped => Audited::Stopped,
    })
}

/// Hours that are over for long enough, within what is asked for, from the first that a database has.
async fn hours(db: &Db, request: &AuditRequest) -> Result<Window, Error> {
    let delay = TimeDelta::from_std(request.rated_within).unwrap_or_default();
    let rated = closing_limit(db.now().await?, delay);
    let first =
        || NaiveDate::from_ymd_opt(-4713, 11, 24).unwrap_or_default().and_time(NaiveTime::MIN).and_utc();
    let end = request.until.map_or(rated, |until| until.min(rated));
    Ok(Window { start: request.since.unwrap_or_else(first), end })
}

/// Where the latest audit stands, and what it found.
pub async fn status(db: &Db) -> Result<AuditStatus, Error> {
    let job = db.jobs().await?.into_iter().find(|job| job.job == JOB);
    let job = job.ok_or(Error::Inconsistent("table_job has no row for the audit"))?.into();
    Ok(AuditStatus { job, totals: db.audit_totals().await? })
}
