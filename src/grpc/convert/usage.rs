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

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::service::read_usage::weight;

    prop_compose! {
        /// A row such as an adopted table may hold: of any lengths, with anything missing.
        fn any_row()(
            texts in prop::collection::vec(prop_oneof!["", "[a-z0-9-]{1,64}", "\\PC{0,255}"], 5),
            optional in prop::collection::vec(prop::option::of("[0-9a-f.]{0,200}"), 7),
            numbers in prop::collection::vec(prop::option::of(prop_oneof![0..200i64, any::<i64>()]), 5),
            times in prop::collection::vec((-62_135_596_800..=253_402_300_799i64, 0..1_000_000_000u32), 3),
            late in prop::collection::vec(any::<bool>(), 2),
        ) -> UsageRow {
            let time = |at: usize| DateTime::from_timestamp(times[at].0, times[at].1).expect("in range");
            UsageRow {
                id: texts[0].clone(),
                auth_id: texts[1].clone(),
                resource_id: texts[2].clone(),
                model_id: texts[3].clone(),
                window_start: time(0),
                window_end: late[0].then(|| time(1)),
                prompt_tokens: numbers[0],
                cached_tokens: numbers[1],
                completion_tokens: numbers[2],
                billable_prompt_tokens: numbers[3],
                event_count: numbers[4],
                currency_code: optional[0].clone(),
                cost: optional[1].clone(),
                applied_prompt_rate: optional[2].clone(),
                applied_cached_rate: optional[3].clone(),
                applied_completion_rate: optional[4].clone(),
                pricebook_digest: optional[5].clone(),
                run_id: optional[6].clone(),
                rated_at: late[1].then(|| time(2)),
                price_class: texts[4].clone(),
            }
        }
    }

    proptest! {
        #[test]
        fn a_row_weighs_what_it_takes_in_a_message(rows in prop::collection::vec(any_row(), 0..4)) {
            let weighed: usize = rows.iter().map(weight).sum();
            let most = weighed;
            let least = weighed.saturating_sub(rows.len() * 60); // what is empty is left out
            let page = Page { rows, next_page_token: String::new(), change_cursor: String::new() };
            let sent = rated_usage_response(page).encoded_len();
            prop_assert!((least..=most).contains(&sent), "{sent} of {weighed}");
        }
    }
}
