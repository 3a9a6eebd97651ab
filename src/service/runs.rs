//! GetRun and ListRuns: runs as their records and their committed chunks have them, whatever
//! their state.

use serde_json::json;

use super::error::Error;
use super::page::{self, PageSizes};
use super::page_token::{PageKey, PageTokens, are_texts, is_time};
use super::report::Report;
use crate::domain::run_state::RunState;
use crate::domain::violation::Violation;
use crate::domain::window::Window;
use crate::store::{Db, RunKey};

pub use crate::store::{RunFilter, RunRecord};

/// The longest id of a run, in characters.
const RUN_ID_LIMIT: usize = 64;
const SIZES: PageSizes = PageSizes { default: 50, largest: 200 };
/// More than what a run's numbers, times and framing take beside its texts.
const RUN_OVERHEAD: usize = 1_024;

/// A run, and what it did so far.
#[derive(Debug, Clone)]
pub struct Run {
    /// How it stands.
    pub record: RunRecord,
    /// What its committed chunks did.
    pub report: Report,
}

/// Why a run failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunError {
    /// An ErrorInfo reason.
    pub reason: String,
    /// For a person.
    pub message: String,
    /// What was not rated.
    pub remaining: Option<Window>,
}

impl Run {
    pub(super) fn of(record: RunRecord) -> Run {
        Run { report: Report::of(&record), record }
    }

    /// Why it failed, if it did.
    pub fn error(&self) -> Option<RunError> {
        let record = &self.record;
        (record.state == RunState::Failed).then(|| {
            let start = record.window.start;
            RunError {
                reason: record.error_reason.clone().unwrap_or_default(),
                message: record.error_message.clone().unwrap_or_default(),
                remaining: record.remaining_end.filter(|end| *end > start).map(|end| Window { start, end }),
            }
        })
    }
}

/// One page.
#[derive(Debug, Clone)]
pub struct RunPage {
    /// Newest first.
    pub runs: Vec<Run>,
    /// Empty on the last page.
    pub next_page_token: String,
}

/// The run of this id. [`Error::RunNotFound`]: there is none.
pub async fn get_run(db: &Db, run_id: &str) -> Result<Run, Error> {
    Ok(Run::of(find(db, run_id).await?))
}

pub(super) async fn find(db: &Db, run_id: &str) -> Result<RunRecord, Error> {
    check_id(run_id)?;
    db.find_run(run_id).await?.ok_or(Error::RunNotFound)
}

/// What no run's id is, by the field of every call that names one.
fn check_id(run_id: &str) -> Result<(), Error> {
    let mut wrong = Vec::new();
    if run_id.is_empty() {
        wrong.push(Violation::new("run_id", "MISSING", "must name a run"));
    }
    if run_id.contains('\0') {
        wrong.push(Violation::new("run_id", "NUL_CHARACTER", "must not hold a NUL character"));
    }
    if run_id.chars().count() > RUN_ID_LIMIT {
        wrong.push(Violation::new("run_id", "TOO_LONG", "must have at most 64 characters"));
    }
    if wrong.is_empty() { Ok(()) } else { Err(Error::Invalid(wrong)) }
}

/// A page of at most `page_size` runs (0: 50; at most 200) after the token's. Runs that begin
/// meanwhile are newer than every page that follows.
pub async fn list_runs(
    db: &Db,
    filter: &RunFilter,
    page_size: i32,
    page_token: &str,
) -> Result<RunPage, Error> {
    let mut wrong = Vec::new();
    let size = SIZES.of(page_size, &mut wrong);
    if !wrong.is_empty() {
        return Err(Error::Invalid(wrong));
    }
    let states: Vec<&str> = filter.states.iter().map(|state| state.as_str()).collect();
    let triggers: Vec<&str> = filter.triggers.iter().map(|trigger| trigger.as_str()).collect();
    let tokens = PageTokens::of("ListRuns", &json!([states, triggers]));
    let after = tokens.parse(page_token)?;
    let records = db.run_page(filter, after.as_ref(), i64::from(size) + 1).await?;
    let mut runs: Vec<Run> = records.into_iter().map(Run::of).collect();
    let more = page::cut(&mut runs, size, weight);
    let last = runs.last().filter(|_| more).map(|run| &run.record);
    let key = last.map(|run| RunKey { created_at: run.created_at, run_id: run.run_id.clone() });
    Ok(RunPage { next_page_token: key.map(|key| tokens.issue(key)).unwrap_or_default(), runs })
}

fn weight(run: &Run) -> usize {
    let record = &run.record;
    let texts = [&record.run_id, &record.requested_by, &run.report.pricebook_digest, &run.report.plan_hash];
    let optional = [&record.request_id, &record.reason, &record.error_reason, &record.error_message];
    let optional = optional.iter().map(|text| text.as_ref().map_or(0, String::len));
    // A code, a severity and a count each.
    let findings = run.report.findings.iter().map(|finding| finding.message.len() + 24);
    RUN_OVERHEAD
        + texts.iter().map(|text| text.len()).sum::<usize>()
        + optional.sum::<usize>()
        + findings.sum::<usize>()
}

impl PageKey for RunKey {
    fn is_storable(&self) -> bool {
        is_time(self.created_at) && are_texts(&[&self.run_id])
    }
}
