//! GetRatedUsage: pages of rated usage, by key.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::error::Error;
use super::page::{self, PageSizes};
use super::page_token::{Cursors, PageKey, PageTokens, are_texts, is_time};
use crate::domain::violation::Violation;
use crate::store::{self, Db, FeedPlace, UsageKey};

pub use crate::store::{UsageFilter, UsageRow};

const SIZES: PageSizes = PageSizes { default: 1_000, largest: 10_000 };
/// Values of one kind in a filter.
const FILTER_LIMIT: usize = 1_000;
/// Rows that a page begins with.
const FIRST_GO: u16 = 1_000;

/// One page.
#[derive(Debug, Clone)]
pub struct Page {
    /// By `window_start`, then identity.
    pub rows: Vec<UsageRow>,
    /// Empty on the last page.
    pub next_page_token: String,
    /// Where the changes begin that may not be in the pages: on every page that of the first.
    pub change_cursor: String,
}

/// What a page is continued by.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
struct Progress {
    after: UsageKey,
    /// The end of the feed before the first page was read.
    begun: FeedPlace,
}

/// A page of at most `page_size` rows (0: 1,000; at most 10,000) after the token's.
pub async fn read_usage(
    db: &Db,
    filter: &UsageFilter,
    page_size: i32,
    page_token: &str,
) -> Result<Page, Error> {
    let mut wrong = Vec::new();
    let size = SIZES.of(page_size, &mut wrong);
    check(filter, &mut wrong);
    if !wrong.is_empty() {
        return Err(Error::Invalid(wrong));
    }
    let tokens = PageTokens::of("GetRatedUsage", &arguments(filter));
    let (after, begun) = match tokens.parse::<Progress>(page_token)? {
        Some(Progress { after, begun }) => (Some(after), begun),
        // Before the first row is read: what it tells then is in the rows already.
        None => (None, db.feed_end().await.map_err(reading)?),
    };
    let (rows, more) = fill(db, filter, after.as_ref(), size).await?;
    let last = rows.last().filter(|_| more);
    let next_page_token =
        last.map(|row| tokens.issue(Progress { after: row.key(), begun })).unwrap_or_default();
    Ok(Page { rows, next_page_token, change_cursor: Cursors::of(&arguments(filter)).issue(begun) })
}

/// The rows of a page, and whether more follow. A large page is read in two goes: what its first
/// rows weigh tells how many more it can hold, so that hardly a row is read in vain.
async fn fill(
    db: &Db,
    filter: &UsageFilter,
    after: Option<&UsageKey>,
    size: u16,
) -> Result<(Vec<UsageRow>, bool), Error> {
    let mut aim = size.min(FIRST_GO);
    let mut rows = db.usage_page(filter, after, i64::from(aim) + 1).await.map_err(reading)?;
    let fitting = page::fitting(&rows, size, weight);
    if rows.len() > usize::from(aim) && fitting > aim {
        aim = fitting;
        let left = usize::from(aim) + 1 - rows.len();
        let after = rows.last().map(UsageRow::key);
        let left = i64::try_from(left).unwrap_or(i64::MAX);
        rows.extend(db.usage_page(filter, after.as_ref(), left).await.map_err(reading)?);
    }
    let more = page::cut(&mut rows, aim, weight);
    Ok((rows, more))
}

/// What a read's failure is to its caller: one that took too long would do so again.
pub(super) fn reading(error: store::Error) -> Error {
    match error {
        store::Error::Cancelled(_) => Error::ReadTooLong,
        error => error.into(),
    }
}

/// What a filter over usage may not be, in any call that takes one.
pub(super) fn check(filter: &UsageFilter, wrong: &mut Vec<Violation>) {
    if let (Some(since), Some(until)) = (filter.since, filter.until)
        && since > until
    {
        wrong.push(Violation::new("filter.until", "INVERTED", "must not lie before filter.since"));
    }
    for (field, values) in [
        ("filter.auth_ids", &filter.auth_ids),
        ("filter.resource_ids", &filter.resource_ids),
        ("filter.model_ids", &filter.model_ids),
    ] {
        if values.len() > FILTER_LIMIT {
            wrong.push(Violation::new(field, "TOO_MANY", "must hold at most 1,000 values; ask in parts"));
        }
        if values.iter().any(|value| value.contains('\0')) {
            wrong.push(Violation::new(field, "NUL_CHARACTER", "must not hold a NUL character"));
        }
    }
}

/// What of a filter a token is bound to: all of it, whatever the order of its values.
pub(super) fn arguments(filter: &UsageFilter) -> Value {
    let time = |time: Option<DateTime<Utc>>| time.map(super::rfc3339);
    let [auth_ids, resource_ids, model_ids] =
        [&filter.auth_ids, &filter.resource_ids, &filter.model_ids].map(BTreeSet::from_iter);
    json!([time(filter.since), time(filter.until), auth_ids, resource_ids, model_ids])
}

/// What a row takes in a message, at most: in the encoding of Protocol Buffers a field has a tag,
/// of two bytes from the sixteenth on, and a text or a message within another has its length.
pub(crate) fn weight(row: &UsageRow) -> usize {
    const TAGS: usize = 15 + 5 * 2;
    let texts = [&row.id, &row.auth_id, &row.resource_id, &row.model_id, &row.price_class];
    let optional = [
        &row.currency_code,
        &row.cost,
        &row.applied_prompt_rate,
        &row.applied_cached_rate,
        &row.applied_completion_rate,
        &row.pricebook_digest,
        &row.run_id,
    ];
    let texts = texts.into_iter().map(|text| framed(text.len())).sum::<usize>()
        + optional.iter().map(|text| framed(text.as_ref().map_or(0, String::len))).sum::<usize>();
    let numbers = [
        row.prompt_tokens,
        row.cached_tokens,
        row.completion_tokens,
        row.billable_prompt_tokens,
        row.event_count,
    ];
    let numbers = numbers.into_iter().map(|number| varint(number.unwrap_or(0))).sum::<usize>();
    let times = [Some(row.window_start), row.window_end, row.rated_at];
    let times = times
        .into_iter()
        .flatten()
        .map(|time| framed(2 + varint(time.timestamp()) + varint(i64::from(time.timestamp_subsec_nanos()))));
    1 + framed(TAGS + texts + numbers + times.sum::<usize>())
}

fn framed(length: usize) -> usize {
    varint(i64::try_from(length).unwrap_or(i64::MAX)) + length
}

/// Seven bits to the byte; a negative number takes all 64.
fn varint(number: i64) -> usize {
    (64 - (number.cast_unsigned() | 1).leading_zeros()).div_ceil(7) as usize
}

impl PageKey for Progress {
    fn is_storable(&self) -> bool {
        let UsageKey { window_start, auth_id, resource_id, model_id, price_class } = &self.after;
        is_time(*window_start) && are_texts(&[auth_id, resource_id, model_id, price_class])
    }
}
