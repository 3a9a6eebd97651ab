//! What came of a run, or would come of it: what RateWindow answers, and what GetRun tells.

use crate::domain::outcome::{Counts, Finding, Severity, findings, severity};
use crate::domain::run_state::RunState;
use crate::domain::window::{RateBasis, Trigger, Window};
use crate::store::{NewRun, RunRecord};

/// What a run did, has done so far, or would do.
#[derive(Debug, Clone)]
pub struct Report {
    /// The run; empty for a dry run.
    pub run_id: String,
    /// How it stands.
    pub state: RunState,
    /// What it rates.
    pub window: Window,
    /// How loud it is.
    pub trigger: Trigger,
    /// Which rates billed rollups keep.
    pub basis: RateBasis,
    /// What it did.
    pub counts: Counts,
    /// What it must tell.
    pub findings: Vec<Finding>,
    /// The highest among them.
    pub severity: Severity,
    /// The pricebook's digest.
    pub pricebook_digest: String,
    /// The pricebook's currency.
    pub currency: String,
    /// The plan that it keeps to; empty where it was asked for none.
    pub plan_hash: String,
}

impl Report {
    pub(super) fn new(run: &NewRun, counts: Counts, state: RunState) -> Report {
        let findings = findings(&counts, run.trigger);
        Report {
            run_id: run.run_id.clone(),
            state,
            window: run.window,
            trigger: run.trigger,
            basis: run.basis,
            severity: severity(&findings),
            findings,
            counts,
            pricebook_digest: run.pricebook_digest.clone(),
            currency: run.currency.clone(),
            plan_hash: String::new(),
        }
    }

    /// As the record and the committed chunks have it.
    pub(super) fn of(record: &RunRecord) -> Report {
        let findings = findings(&record.counts, record.trigger);
        Report {
            run_id: record.run_id.clone(),
            state: record.state,
            window: record.window,
            trigger: record.trigger,
            basis: record.basis,
            severity: severity(&findings),
            findings,
            counts: record.counts.clone(),
            pricebook_digest: record.pricebook_digest.clone(),
            currency: record.currency.clone(),
            plan_hash: record.expected_plan_hash.clone().unwrap_or_default(),
        }
    }
}
