//! The messages of ListAnomalies.

use super::enums::distinct;
use super::time;
use super::usage::usage_filter;
use crate::domain::rating::AnomalyKind;
use crate::proto;
use crate::service::Error;
use crate::service::anomalies::{AnomalyGroup, AnomalyPage, AnomalyQuery, GroupBy, Period};

/// Which anomalies, gathered by what: by model, if by nothing.
pub fn anomaly_query(
    filter: Option<proto::UsageFilter>,
    kinds: Vec<i32>,
    group_by: Vec<i32>,
) -> Result<AnomalyQuery, Error> {
    let filter = usage_filter(filter)?;
    let mut wrong = Vec::new();
    let kinds = distinct("kinds", kinds, kind, &mut wrong);
    let dimensions = distinct("group_by", group_by, dimension, &mut wrong);
    if !wrong.is_empty() {
        return Err(Error::Invalid(wrong));
    }
    Ok(AnomalyQuery { filter, kinds, group_by: gathered_by(&dimensions) })
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

/// What a dimension adds to what is gathered by.
fn dimension(dimension: proto::Dimension) -> Option<GroupBy> {
    let none = GroupBy::default();
    let by_period = |period| Some(GroupBy { period: Some(period), ..none });
    match dimension {
        proto::Dimension::Unspecified => None,
        proto::Dimension::AuthId => Some(GroupBy { auth_id: true, ..none }),
        proto::Dimension::ResourceId => Some(GroupBy { resource_id: true, ..none }),
        proto::Dimension::ModelId => Some(GroupBy { model_id: true, ..none }),
        proto::Dimension::Hour => by_period(Period::Hour),
        proto::Dimension::Day => by_period(Period::Day),
        proto::Dimension::Month => by_period(Period::Month),
    }
}

fn gathered_by(dimensions: &[GroupBy]) -> GroupBy {
    if dimensions.is_empty() {
        return GroupBy { model_id: true, ..GroupBy::default() };
    }
    GroupBy {
        auth_id: dimensions.iter().any(|by| by.auth_id),
        resource_id: dimensions.iter().any(|by| by.resource_id),
        model_id: dimensions.iter().any(|by| by.model_id),
        // The finest: it tells the others.
        period: dimensions.iter().filter_map(|by| by.period).min(),
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
