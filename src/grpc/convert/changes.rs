//! The messages of StreamRatedUsageChanges.

use super::usage::{rated_usage, usage_filter};
use super::{rating, time};
use crate::proto;
use crate::service::Error;
use crate::service::change_stream::{Told, UsageChange, Wanted};

/// What a consumer asks for.
pub fn wanted(request: proto::StreamRatedUsageChangesRequest) -> Result<Wanted, Error> {
    let proto::StreamRatedUsageChangesRequest { cursor, follow, filter } = request;
    Ok(Wanted { cursor, follow, filter: usage_filter(filter)? })
}

/// A message.
pub fn message(told: Told) -> proto::StreamRatedUsageChangesResponse {
    proto::StreamRatedUsageChangesResponse {
        changes: told.changes.into_iter().map(change).collect(),
        cursor: told.cursor,
    }
}

fn change(change: UsageChange) -> proto::RatedUsageChange {
    proto::RatedUsageChange {
        change_id: change.change_id(),
        before: change.before.map(rated_usage),
        after: change.after.map(rated_usage),
        run_id: change.run_id,
        trigger: rating::trigger_out(change.batch.trigger).into(),
        changed_at: Some(time::to_proto(change.batch.changed_at)),
    }
}
