//! The messages of ListAnomalies.

use super::dimensions;
use super::enums::distinct;
use super::time;
use super::usage::usage_filter;
use crate::domain::rating::AnomalyKind;
use crate::proto;
use crate::service::Error;
use crate::service::anomalies::{AnomalyGroup, AnomalyPage, AnomalyQuery};
use crate::service::summaries::GroupBy;

/// Which anomalies, gathered by what: by model, if by nothing.
pub fn anomaly_query(
    filter: Option<proto::UsageFilter>,
    kinds: Vec<i32>,
    group_by: Vec<i32>,
) -> Result<AnomalyQuery, Error> {
    let filter = usage_filter(filter)?;
    let mut wrong = Vec::new();
    let kinds = distinct("kinds", kinds, kind, &mut wrong);
    let mut group_by = dimensions::group_by(group_by, &mut wrong);
    if !wrong.is_empty() {
        return Err(Error::Invalid(wrong));
    }
    if group_by == GroupBy::default() {
        group_by.model_id = true;
    }
    Ok(AnomalyQuery { filter, kinds, group_by })
}

fn kind(kind: proto::AnomalyKind) -> Option<AnomalyKind> {
    match kind {
        proto::AnomalyKind::Unspecified => None,
        proto::AnomalyKind::Unpriced => Some(AnomalyKind::Unpriced),
        proto::AnomalyKind::Unattributable => Some(AnomalyKind::Unattributable),
        proto::AnomalyKind::AmbiguousBase => Some(AnomalyKind::AmbiguousBase),
        proto::AnomalyKind::Malformed => Some(AnomalyKind::Malformed),
    }
}

fn kind_out(kind: AnomalyKind) -> proto::AnomalyKind {
    match kind {
        AnomalyKind::Unpriced => proto::AnomalyKind::Unpriced,
        AnomalyKind::Unattributable => proto::AnomalyKind::Unattributable,
        AnomalyKind::AmbiguousBase => proto::AnomalyKind::AmbiguousBase,
        AnomalyKind::Malformed => proto::AnomalyKind::Malformed,
    }
}

/// A page.
pub fn list_anomalies_response(page: AnomalyPage) -> proto::ListAnomaliesResponse {
    proto::ListAnomaliesResponse {
        anomalies: page.groups.into_iter().map(anomaly).collect(),
        next_page_token: page.next_page_token,
    }
}

fn anomaly(group: AnomalyGroup) -> proto::Anomaly {
    proto::Anomaly {
        kind: kind_out(group.kind).into(),
        auth_id: group.key.auth_id,
        resource_id: group.key.resource_id,
        model_id: group.key.model_id,
        base_models: group.base_models,
        first_window_start: Some(time::to_proto(group.first_window_start)),
        last_window_start: Some(time::to_proto(group.last_window_start)),
        events: group.events,
        prompt_tokens: group.prompt_tokens,
        cached_tokens: group.cached_tokens,
        completion_tokens: group.completion_tokens,
        sample_request_id: group.sample_request_id,
    }
}
