//! SummarizeRatedUsage: totals of rated usage by any of the dimensions, by key in pages, or the
//! dearest of them. Currencies are never added up: each has totals of its own.

use chrono::DateTime;
use serde_json::json;

use super::error::Error;
use super::page::{self, PageSizes};
use super::page_token::{PageKey, PageTokens, are_texts, is_time};
use super::read_usage;
use super::scans::Scans;
use crate::domain::violation::Violation;
use crate::store::{Db, SummaryKey, SummaryOrder};

pub use crate::store::{GroupBy, Period, Summary, SummaryQuery};

const SIZES: PageSizes = PageSizes { default: 1_000, largest: 10_000 };
/// The most of the dearest: what fits a message whatever their ids.
const TOP_LIMIT: u16 = 1_000;
/// More than what a total's numbers, times and framing take beside its texts.
const SUMMARY_OVERHEAD: usize = 128;

/// Which of the totals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SummaryRange<'a> {
    /// 0: 1,000; at most 10,000.
    pub page_size: i32,
    /// Empty: the first page.
    pub page_token: &'a str,
    /// Only so many, the dearest first, in place of pages; 0: pages.
    pub top: i32,
}

/// One page.
#[derive(Debug, Clone)]
pub struct SummaryPage {
    /// By the dimensions, or the dearest first.
    pub summaries: Vec<Summary>,
    /// Empty on the last page.
    pub next_page_token: String,
}

/// The totals of a range. Each page is of one snapshot; a run that commits between two pages
/// changes what follows, and none is told twice.
pub async fn summarize_usage(
    db: &Db,
    scans: &Scans,
    query: &SummaryQuery,
    range: SummaryRange<'_>,
) -> Result<SummaryPage, Error> {
    let mut wrong = Vec::new();
    let size = SIZES.of(range.page_size, &mut wrong);
    let top = top(range, &mut wrong);
    read_usage::check(&query.filter, &mut wrong);
    if !wrong.is_empty() {
        return Err(Error::Invalid(wrong));
    }
    let _turn = scans.turn().await?;
    match top {
        Some(top) => dearest(db, query, top).await,
        None => one_page(db, query, size, range.page_token).await,
    }
}

/// How many of the dearest; `None`: pages.
fn top(range: SummaryRange<'_>, wrong: &mut Vec<Violation>) -> Option<u16> {
    if range.top < 0 {
        wrong.push(Violation::new("top", "NEGATIVE", "must be 0 (for pages) or more"));
    }
    if range.top > i32::from(TOP_LIMIT) {
        wrong.push(Violation::new("top", "TOO_MANY", "must be at most 1,000; read pages for more"));
    }
    if range.top != 0 && !range.page_token.is_empty() {
        let message = "has no place beside top, which has no pages; leave one of them out";
        wrong.push(Violation::new("page_token", "NOT_WITH_TOP", message));
    }
    u16::try_from(range.top).ok().filter(|top| *top > 0)
}

async fn one_page(db: &Db, query: &SummaryQuery, size: u16, page_token: &str) -> Result<SummaryPage, Error> {
    let arguments = json!([read_usage::arguments(&query.filter), query.group_by]);
    let tokens = PageTokens::of("SummarizeRatedUsage", &arguments);
    let after: Option<SummaryKey> = tokens.parse(page_token)?;
    let order = SummaryOrder::Key(after.as_ref());
    let mut summaries =
        db.summary_page(query, order, i64::from(size) + 1).await.map_err(read_usage::reading)?;
    let more = page::cut(&mut summaries, size, weight);
    let last = summaries.last().filter(|_| more);
    let next_page_token = last.map(|summary| tokens.issue(summary.key.clone())).unwrap_or_default();
    if after.is_none() {
        or_nothing(query, &mut summaries);
    }
    Ok(SummaryPage { summaries, next_page_token })
}

async fn dearest(db: &Db, query: &SummaryQuery, top: u16) -> Result<SummaryPage, Error> {
    let mut summaries =
        db.summary_page(query, SummaryOrder::Cost, i64::from(top)).await.map_err(read_usage::reading)?;
    // Longer ids than ours may be adopted. Fewer than asked for would look like all that there are.
    if page::cut(&mut summaries, top, weight) {
        let message = format!("the first {} fill a message; ask for no more, or read pages", summaries.len());
        return Err(Error::Invalid(vec![Violation::new("top", "TOO_LARGE", message)]));
    }
    or_nothing(query, &mut summaries);
    Ok(SummaryPage { summaries, next_page_token: String::new() })
}

/// The one total of no rows is nothing, in no currency. Along dimensions there is none.
fn or_nothing(query: &SummaryQuery, summaries: &mut Vec<Summary>) {
    if query.group_by != GroupBy::default() || !summaries.is_empty() {
        return;
    }
    let none = String::new;
    summaries.push(Summary {
        key: SummaryKey {
            auth_id: none(),
            resource_id: none(),
            model_id: none(),
            period: DateTime::UNIX_EPOCH,
            currency_code: none(),
        },
        period_start: None,
        prompt_tokens: 0,
        cached_tokens: 0,
        completion_tokens: 0,
        event_count: 0,
        cost: "0".into(),
    });
}

fn weight(summary: &Summary) -> usize {
    let SummaryKey { auth_id, resource_id, model_id, currency_code, .. } = &summary.key;
    let texts = [auth_id, resource_id, model_id, currency_code, &summary.cost];
    SUMMARY_OVERHEAD + texts.iter().map(|text| text.len()).sum::<usize>()
}

impl PageKey for SummaryKey {
    fn is_storable(&self) -> bool {
        let SummaryKey { auth_id, resource_id, model_id, period, currency_code } = self;
        is_time(*period) && are_texts(&[auth_id, resource_id, model_id, currency_code])
    }
}
