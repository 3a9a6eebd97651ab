//! The messages of RateWindow.

use chrono::{DateTime, Utc};

use super::time;
use crate::domain::outcome::{Finding, FindingCode, Severity};
use crate::domain::plan::CostChange;
use crate::domain::run_state::RunState;
use crate::domain::violation::Violation;
use crate::domain::window::{Asked, RateBasis, Trigger, Window};
use crate::proto;
use crate::service::Error;
use crate::service::rate_window::RateRequest;
use crate::service::report::Report;

/// A request of the caller with this name.
pub fn rate_request(request: proto::RateWindowRequest, requested_by: String) -> Result<RateRequest, Error> {
    let mut wrong = Vec::new();
    let asked = Asked {
        since: bound("since", request.since, &mut wrong),
        until: bound("until", request.until, &mut wrong),
        trigger: trigger(request.trigger, &mut wrong),
        basis: basis(request.rate_basis, &mut wrong),
    };
    if !wrong.is_empty() {
        return Err(Error::Invalid(wrong));
    }
    Ok(RateRequest {
        asked,
        dry_run: request.dry_run,
        pricebook_yaml: request.pricebook_yaml,
        expected_pricebook_digest: request.expected_pricebook_digest,
        expected_plan_hash: request.expected_plan_hash,
        request_id: request.request_id,
        reason: request.reason,
        detach: request.detach,
        requested_by,
    })
}

pub(super) fn bound(
    field: &'static str,
    value: Option<prost_types::Timestamp>,
    wrong: &mut Vec<Violation>,
) -> Option<DateTime<Utc>> {
    let time = time::from_proto(value?);
    if time.is_none() {
        wrong.push(Violation::new(field, "OUT_OF_RANGE", "must lie within the years 1 to 9999"));
    }
    time
}

pub(super) fn trigger_out(trigger: Trigger) -> proto::Trigger {
    match trigger {
        Trigger::Routine => proto::Trigger::Routine,
        Trigger::Backfill => proto::Trigger::Backfill,
    }
}

fn trigger(value: i32, wrong: &mut Vec<Violation>) -> Option<Trigger> {
    match proto::Trigger::try_from(value) {
        Ok(proto::Trigger::Unspecified) => None,
        Ok(proto::Trigger::Routine) => Some(Trigger::Routine),
        Ok(proto::Trigger::Backfill) => Some(Trigger::Backfill),
        Err(_) => {
            wrong.push(Violation::new("trigger", "UNKNOWN", "must be TRIGGER_ROUTINE or TRIGGER_BACKFILL"));
            None
        }
    }
}

fn basis(value: i32, wrong: &mut Vec<Violation>) -> Option<RateBasis> {
    match proto::RateBasis::try_from(value) {
        Ok(proto::RateBasis::Unspecified) => None,
        Ok(proto::RateBasis::Frozen) => Some(RateBasis::Frozen),
        Ok(proto::RateBasis::Pricebook) => Some(RateBasis::Pricebook),
        Err(_) => {
            let message = "must be RATE_BASIS_FROZEN or RATE_BASIS_PRICEBOOK";
            wrong.push(Violation::new("rate_basis", "UNKNOWN", message));
            None
        }
    }
}

/// The answer.
pub fn rate_response(report: Report) -> proto::RateWindowResponse {
    proto::RateWindowResponse {
        run_id: report.run_id.clone(),
        state: state(report.state).into(),
        result: Some(result(report)),
    }
}

pub(super) fn state(state: RunState) -> proto::RunState {
    match state {
        RunState::Pending => proto::RunState::Pending,
        RunState::Running => proto::RunState::Running,
        RunState::Cancelling => proto::RunState::Cancelling,
        RunState::Succeeded => proto::RunState::Succeeded,
        RunState::Failed => proto::RunState::Failed,
        RunState::Cancelled => proto::RunState::Cancelled,
    }
}

pub(super) fn result(report: Report) -> proto::RatingResult {
    let counts = report.counts;
    proto::RatingResult {
        severity: severity(report.severity).into(),
        findings: report.findings.into_iter().map(finding).collect(),
        window: Some(window(report.window)),
        trigger: trigger_out(report.trigger).into(),
        rate_basis: match report.basis {
            RateBasis::Frozen => proto::RateBasis::Frozen.into(),
            RateBasis::Pricebook => proto::RateBasis::Pricebook.into(),
        },
        dry_run: report.dry_run,
        events: counts.events,
        rated_events: counts.rated_events,
        unpriced_events: counts.unpriced_events,
        unattributable_events: counts.unattributable_events,
        ambiguous_base_events: counts.ambiguous_base_events,
        malformed_events: counts.malformed_events,
        rollups: counts.rollups(),
        inserted_rollups: counts.inserted_rollups,
        updated_rollups: counts.updated_rollups,
        unchanged_rollups: counts.unchanged_rollups,
        reconciled_deletions: counts.reconciled_deletions,
        currency_code: report.currency,
        total_cost: counts.total_cost.to_string(),
        previous_cost: counts.previous_cost.to_string(),
        rate_drift_rollups: counts.rate_drift_rollups,
        pricebook_digest: report.pricebook_digest,
        plan_hash: report.plan_hash,
        clamped_events: counts.clamped_events,
        shrunk_rollups: counts.shrunk_rollups,
        changes_by_model: report.changes_by_model.into_iter().map(cost_change).collect(),
        changes_by_auth_id: report.changes_by_auth_id.into_iter().map(cost_change).collect(),
    }
}

fn cost_change(change: CostChange) -> proto::CostChange {
    proto::CostChange {
        name: change.name,
        previous_cost: change.previous_cost.to_string(),
        total_cost: change.total_cost.to_string(),
        inserted_rollups: change.inserted_rollups,
        updated_rollups: change.updated_rollups,
        reconciled_deletions: change.reconciled_deletions,
    }
}

pub(super) fn window(window: Window) -> proto::Window {
    proto::Window { start: Some(time::to_proto(window.start)), end: Some(time::to_proto(window.end)) }
}

fn severity(severity: Severity) -> proto::Severity {
    match severity {
        Severity::Info => proto::Severity::Info,
        Severity::Warning => proto::Severity::Warning,
        Severity::Error => proto::Severity::Error,
    }
}

fn finding(finding: Finding) -> proto::Finding {
    let code = match finding.code {
        FindingCode::ReconciledDeletions => proto::FindingCode::ReconciledDeletions,
        FindingCode::UnpricedEvents => proto::FindingCode::UnpricedEvents,
        FindingCode::UnattributableEvents => proto::FindingCode::UnattributableEvents,
        FindingCode::AmbiguousBaseEvents => proto::FindingCode::AmbiguousBaseEvents,
        FindingCode::MalformedEvents => proto::FindingCode::MalformedEvents,
        FindingCode::RateDrift => proto::FindingCode::RateDrift,
        FindingCode::ClampedEvents => proto::FindingCode::ClampedEvents,
        FindingCode::ShrunkRollups => proto::FindingCode::ShrunkRollups,
        FindingCode::UnexplainedRollups => proto::FindingCode::UnexplainedRollups,
        FindingCode::DecreaseRefused => proto::FindingCode::DecreaseRefused,
    };
    proto::Finding {
        code: code.into(),
        severity: severity(finding.severity).into(),
        count: finding.count,
        message: finding.message,
    }
}
