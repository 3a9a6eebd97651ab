//! The messages of GetRatedUsage.

use super::rating::bound;
use super::time;
use crate::proto;
use crate::service::Error;
use crate::service::read_usage::{Page, UsageFilter, UsageRow};

/// A filter; none filters nothing.
pub fn usage_filter(filter: Option<proto::UsageFilter>) -> Result<UsageFilter, Error> {
    let filter = filter.unwrap_or_default();
    let mut wrong = Vec::new();
    let since = bound("filter.since", filter.since, &mut wrong);
    let until = bound("filter.until", filter.until, &mut wrong);
    if !wrong.is_empty() {
        return Err(Error::Invalid(wrong));
    }
    let (auth_ids, resource_ids, model_ids) = (filter.auth_ids, filter.resource_ids, filter.model_ids);
    Ok(UsageFilter { since, until, auth_ids, resource_ids, model_ids })
}

/// A page.
pub fn rated_usage_response(page: Page) -> proto::GetRatedUsageResponse {
    proto::GetRatedUsageResponse {
        rated_usage: page.rows.into_iter().map(rated_usage).collect(),
        next_page_token: page.next_page_token,
        change_cursor: page.change_cursor,
    }
}

/// A rollup, as every call tells it.
pub fn rated_usage(row: UsageRow) -> proto::RatedUsage {
    proto::RatedUsage {
        id: row.id,
        auth_id: row.auth_id,
        resource_id: row.resource_id,
        model_id: row.model_id,
        window_start: Some(time::to_proto(row.window_start)),
        window_end: row.window_end.map(time::to_proto),
        prompt_tokens: row.prompt_tokens.unwrap_or_default(),
        cached_tokens: row.cached_tokens.unwrap_or_default(),
        completion_tokens: row.completion_tokens.unwrap_or_default(),
        billable_prompt_tokens: row.billable_prompt_tokens.unwrap_or_default(),
        event_count: row.event_count.unwrap_or_default(),
        currency_code: row.currency_code.unwrap_or_default(),
        cost: row.cost.unwrap_or_default(),
        applied_prompt_rate: row.applied_prompt_rate.unwrap_or_default(),
        applied_cached_rate: row.applied_cached_rate.unwrap_or_default(),
        applied_completion_rate: row.applied_completion_rate.unwrap_or_default(),
        pricebook_digest: row.pricebook_digest.unwrap_or_default(),
        run_id: row.run_id.unwrap_or_default(),
        rated_at: row.rated_at.map(time::to_proto),
        price_class: row.price_class,
    }
}
