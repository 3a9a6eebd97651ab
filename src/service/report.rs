//! What came of a run, or would come of it: what RateWindow answers, and what GetRun tells.

use super::run::RunSpec;
use crate::domain::outcome::{Counts, Finding, Severity, decrease_refused, findings, severity};
use crate::domain::plan::CostChange;
use crate::domain::run_state::RunState;
use crate::domain::window::{RateBasis, Trigger, Window};
use crate::store::RunRecord;

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
    /// The plan that it keeps to, or that this is; empty where it was asked for none.
    pub plan_hash: String,
    /// Whether it only says what a run would do.
    pub dry_run: bool,
    /// Of a dry run: the largest changes in money by model, then all others.
    pub changes_by_model: Vec<CostChange>,
    /// The same by customer.
    pub changes_by_auth_id: Vec<CostChange>,
}

impl Report {
    pub(super) fn new(
        run: &RunSpec,
        digest: &str,
        currency: &str,
        counts: Counts,
        state: RunState,
    ) -> Report {
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
            pricebook_digest: digest.into(),
            currency: currency.into(),
            plan_hash: run.plan_hash.clone(),
            dry_run: false,
            changes_by_model: Vec::new(),
            changes_by_auth_id: Vec::new(),
        }
    }

    /// A finding that does not follow from the counts, most severe first.
    pub(super) fn add(&mut self, finding: Option<Finding>) {
        self.findings.splice(0..0, finding);
        self.severity = severity(&self.findings);
    }

    /// As the record and the committed chunks have it.
    pub(super) fn of(record: &RunRecord) -> Report {
        let (digest, currency) = (&record.pricebook_digest, &record.currency);
        let mut report = Report::new(&record.into(), digest, currency, record.counts.clone(), record.state);
        report.add(record.refused_rollups.map(decrease_refused));
        report
    }
}
