//! What a call gathers by.

use super::enums::distinct;
use crate::domain::violation::Violation;
use crate::proto;
use crate::service::summaries::{GroupBy, Period};

/// A set of dimensions: whatever their order, and however often one is named. Of two periods the
/// finer counts, which tells the other.
pub(super) fn group_by(dimensions: Vec<i32>, wrong: &mut Vec<Violation>) -> GroupBy {
    let dimensions = distinct("group_by", dimensions, dimension, wrong);
    GroupBy {
        auth_id: dimensions.iter().any(|by| by.auth_id),
        resource_id: dimensions.iter().any(|by| by.resource_id),
        model_id: dimensions.iter().any(|by| by.model_id),
        period: dimensions.iter().filter_map(|by| by.period).min(),
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
