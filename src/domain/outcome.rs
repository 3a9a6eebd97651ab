//! What a run did, and what it must tell (R9): counts, the findings that follow from them, and
//! their severity. Logs, metrics, the response and the exit code all follow [`findings`].

use super::money::{Money, MoneyError};
use super::window::Trigger;

/// What one chunk, or a whole run, did. Counts of events and of rollups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events in the window, by the scan's own count.
    pub events: i64,
    /// Those billed.
    pub rated_events: i64,
    /// Those without a rate.
    pub unpriced_events: i64,
    /// Those without an identity or a model.
    pub unattributable_events: i64,
    /// Those withheld because one fine-tune resolved through two bases.
    pub ambiguous_base_events: i64,
    /// Those with a negative token count.
    pub malformed_events: i64,
    /// Rated ones that reported more cached than prompt tokens.
    pub clamped_events: i64,
    /// New rollups.
    pub inserted_rollups: i64,
    /// Changed rollups.
    pub updated_rollups: i64,
    /// Rollups that did not change, those left alone among them.
    pub unchanged_rollups: i64,
    /// Rollups deleted by the reconcile.
    pub reconciled_deletions: i64,
    /// Updated rollups that hold fewer events than were billed.
    pub shrunk_rollups: i64,
    /// Rollups whose frozen rate is not the pricebook's.
    pub rate_drift_rollups: i64,
    /// Rollups that their rates don't explain, left as they are.
    pub unexplained_rollups: i64,
    /// Cost of the window before.
    pub previous_cost: Money,
    /// Cost of the window after.
    pub total_cost: Money,
}

impl Counts {
    /// The rollups of the window after the run.
    pub fn rollups(&self) -> i64 {
        self.inserted_rollups + self.updated_rollups + self.unchanged_rollups
    }

    /// R4: every event is counted, once.
    pub fn conserved(&self) -> bool {
        self.events
            == self.rated_events
                + self.unpriced_events
                + self.unattributable_events
                + self.ambiguous_base_events
                + self.malformed_events
    }

    /// Both together.
    pub fn plus(&self, other: &Counts) -> Result<Counts, MoneyError> {
        Ok(Counts {
            events: self.events + other.events,
            rated_events: self.rated_events + other.rated_events,
            unpriced_events: self.unpriced_events + other.unpriced_events,
            unattributable_events: self.unattributable_events + other.unattributable_events,
            ambiguous_base_events: self.ambiguous_base_events + other.ambiguous_base_events,
            malformed_events: self.malformed_events + other.malformed_events,
            clamped_events: self.clamped_events + other.clamped_events,
            inserted_rollups: self.inserted_rollups + other.inserted_rollups,
            updated_rollups: self.updated_rollups + other.updated_rollups,
            unchanged_rollups: self.unchanged_rollups + other.unchanged_rollups,
            reconciled_deletions: self.reconciled_deletions + other.reconciled_deletions,
            shrunk_rollups: self.shrunk_rollups + other.shrunk_rollups,
            rate_drift_rollups: self.rate_drift_rollups + other.rate_drift_rollups,
            unexplained_rollups: self.unexplained_rollups + other.unexplained_rollups,
            previous_cost: self.previous_cost.plus(other.previous_cost)?,
            total_cost: self.total_cost.plus(other.total_cost)?,
        })
    }
}

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// As asked for.
    Info,
    /// Billed, and worth a look.
    Warning,
    /// Revenue or an invoice is wrong until someone acts.
    Error,
}

impl Severity {
    /// As metrics and logs say it.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Error => "error",
        }
    }
}

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FindingCode {
    /// Billed rollups were deleted.
    ReconciledDeletions,
    /// Events without a rate.
    UnpricedEvents,
    /// Events without an identity or a model.
    UnattributableEvents,
    /// Events of a fine-tune that resolved through two bases.
    AmbiguousBaseEvents,
    /// Events with a negative token count.
    MalformedEvents,
    /// Frozen rates that are not the pricebook's.
    RateDrift,
    /// More cached than prompt tokens.
    ClampedEvents,
    /// Rollups that hold fewer events than were billed.
    ShrunkRollups,
    /// Rollups that their rates don't explain.
    UnexplainedRollups,
    /// A routine run would have taken too much away, and was refused.
    DecreaseRefused,
}

impl FindingCode {
    /// As metrics and logs say it: the contract's name.
    pub fn as_str(self) -> &'static str {
        match self {
            FindingCode::ReconciledDeletions => "RECONCILED_DELETIONS",
            FindingCode::UnpricedEvents => "UNPRICED_EVENTS",
            FindingCode::UnattributableEvents => "UNATTRIBUTABLE_EVENTS",
            FindingCode::AmbiguousBaseEvents => "AMBIGUOUS_BASE_EVENTS",
            FindingCode::MalformedEvents => "MALFORMED_EVENTS",
            FindingCode::RateDrift => "RATE_DRIFT",
            FindingCode::ClampedEvents => "CLAMPED_EVENTS",
            FindingCode::ShrunkRollups => "SHRUNK_ROLLUPS",
            FindingCode::UnexplainedRollups => "UNEXPLAINED_ROLLUPS",
            FindingCode::DecreaseRefused => "DECREASE_REFUSED",
        }
    }
}

/// Something a run must tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is about.
    pub code: FindingCode,
    /// How much it matters.
    pub severity: Severity,
    /// How many events or rollups.
    pub count: i64,
    /// For a person: what happened, and what to do.
    pub message: String,
}

/// R9, the one decision: what these counts mean on a run with this trigger. Most severe first.
pub fn findings(counts: &Counts, trigger: Trigger) -> Vec<Finding> {
    use FindingCode::*;
    // Billed usage that goes away is what a backfill was asked for, and on a schedule a sign
    // that data vanished.
    let (loss, why) = match trigger {
        Trigger::Routine => (
            Severity::Error,
            "their events are gone or no longer billable; find out what dropped them before invoices go out",
        ),
        Trigger::Backfill => (Severity::Info, "as this backfill's window now says"),
    };
    let kinds = [
        (ReconciledDeletions, loss, counts.reconciled_deletions, format!("billed rollups were deleted: {why}")),
        (ShrunkRollups, loss, counts.shrunk_rollups, format!("billed rollups now hold fewer events: {why}")),
        (
            UnpricedEvents,
            Severity::Error,
            counts.unpriced_events,
            "events have no price and were not billed: give their models a rate in the pricebook, \
             then rate the window again"
                .into(),
        ),
        (
            UnattributableEvents,
            Severity::Error,
            counts.unattributable_events,
            "events have no auth_id, resource_id or model and were not billed: mend them where they come from".into(),
        ),
        (
            AmbiguousBaseEvents,
            Severity::Error,
            counts.ambiguous_base_events,
            "events of fine-tunes with more than one base model were not billed: name the fine-tune in the pricebook"
                .into(),
        ),
        (
            MalformedEvents,
            Severity::Error,
            counts.malformed_events,
            "events have a negative or missing token count and were not billed: mend them where they come from".into(),
        ),
        (
            UnexplainedRollups,
            Severity::Error,
            counts.unexplained_rollups,
            "billed rollups are not explained by their rates and were left as they are: backfill the window \
             to price them"
                .into(),
        ),
        (
            RateDrift,
            Severity::Warning,
            counts.rate_drift_rollups,
            "rollups keep a rate that is not the pricebook's: backfill the window if the new rate is meant for it"
                .into(),
        ),
        (
            ClampedEvents,
            Severity::Warning,
            counts.clamped_events,
            "events reported more cached than prompt tokens: all were billed at the cached rate".into(),
        ),
    ];
    let mut found: Vec<Finding> = kinds
        .into_iter()
        .filter(|(_, _, count, _)| *count > 0)
        .map(|(code, severity, count, what)| Finding {
            code,
            severity,
            count,
            message: format!("{count} {what}"),
        })
        .collect();
    found.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    found
}

/// What the brake found: rollups that a routine run would have deleted or shrunk, had it not been
/// refused. As loud as losing them.
pub fn decrease_refused(rollups: i64) -> Finding {
    Finding {
        code: FindingCode::DecreaseRefused,
        severity: Severity::Error,
        count: rollups,
        message: format!(
            "{rollups} billed rollups would be deleted or hold fewer events, which takes away more money than a \
             routine run may: find out what dropped their events, or backfill the window if it is meant"
        ),
    }
}

/// Every finding that a run with this trigger can have, so that what counts findings can begin
/// each at zero: a first one would look like no change otherwise.
pub fn possible_findings(trigger: Trigger) -> Vec<Finding> {
    let one_of_each = Counts {
        reconciled_deletions: 1,
        shrunk_rollups: 1,
        unpriced_events: 1,
        unattributable_events: 1,
        ambiguous_base_events: 1,
        malformed_events: 1,
        unexplained_rollups: 1,
        rate_drift_rollups: 1,
        clamped_events: 1,
        ..Counts::default()
    };
    let mut possible = findings(&one_of_each, trigger);
    if trigger == Trigger::Routine {
        possible.push(decrease_refused(1));
    }
    possible
}

/// The highest among the findings, [`Severity::Info`] when there are none.
pub fn severity(findings: &[Finding]) -> Severity {
    findings.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Info)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r9_losing_billed_usage_is_an_error_on_a_routine_run_and_info_on_a_backfill() {
        let counts = Counts { reconciled_deletions: 3, shrunk_rollups: 2, ..Counts::default() };
        for (trigger, expected) in [(Trigger::Routine, Severity::Error), (Trigger::Backfill, Severity::Info)]
        {
            let found = findings(&counts, trigger);
            assert_eq!(found.len(), 2);
            assert!(found.iter().all(|finding| finding.severity == expected), "{found:?}");
            assert_eq!(severity(&found), expected);
        }
    }

    #[test]
    fn every_code_is_among_the_possible_findings() {
        for (trigger, codes) in [(Trigger::Routine, 10), (Trigger::Backfill, 9)] {
            assert_eq!(possible_findings(trigger).len(), codes);
        }
    }

    #[test]
    fn r9_the_rest_is_as_loud_on_both() {
        for trigger in [Trigger::Routine, Trigger::Backfill] {
            for (counts, expected) in [
                (Counts { unpriced_events: 1, ..Counts::default() }, Severity::Error),
                (Counts { unattributable_events: 1, ..Counts::default() }, Severity::Error),
                (Counts { ambiguous_base_events: 1, ..Counts::default() }, Severity::Error),
                (Counts { malformed_events: 1, ..Counts::default() }, Severity::Error),
                (Counts { unexplained_rollups: 1, ..Counts::default() }, Severity::Error),
                (Counts { rate_drift_rollups: 1, ..Counts::default() }, Severity::Warning),
                (Counts { clamped_events: 1, ..Counts::default() }, Severity::Warning),
                (Counts { inserted_rollups: 1, updated_rollups: 1, ..Counts::default() }, Severity::Info),
            ] {
                assert_eq!(severity(&findings(&counts, trigger)), expected, "{counts:?}");
            }
        }
    }
}
