//! GetRatedUsage: pages of rated usage, by key. A page token is opaque, versioned and bound to
//! the filter that it came with.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Datelike, Utc};
use sha2::{Digest, Sha256};

use super::error::Error;
use crate::domain::violation::Violation;
use crate::store::{Db, UsageKey};

pub use crate::store::{UsageFilter, UsageRow};

const DEFAULT_PAGE: i32 = 1_000;
const LARGEST_PAGE: i32 = 10_000;
/// Values of one kind in a filter.
const FILTER_LIMIT: usize = 1_000;
/// A page stays under 2 MiB on the wire, whatever was asked for.
const PAGE_BYTES: usize = 1_900_000;
/// More than what a row's numbers, times and framing take beside its texts.
const ROW_OVERHEAD: usize = 256;
const TOKEN_VERSION: u8 = 1;

/// One page.
#[derive(Debug, Clone)]
pub struct Page {
    /// By `window_start`, then identity.
    pub rows: Vec<UsageRow>,
    /// Empty on the last page.
    pub next_page_token: String,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Token {
    v: u8,
    f: String,
    k: UsageKey,
}

/// A page of at most `page_size` rows (0: 1,000; at most 10,000) after the token's.
pub async fn read_usage(
    db: &Db,
    filter: &UsageFilter,
    page_size: i32,
    page_token: &str,
) -> Result<Page, Error> {
    check(filter, page_size)?;
    let fingerprint = fingerprint(filter);
    let after = match page_token {
        "" => None,
        token => Some(parse(token, &fingerprint)?),
    };
    let size = if page_size == 0 { DEFAULT_PAGE } else { page_size.min(LARGEST_PAGE) };
    // One more than asked for tells whether another page follows.
    let mut rows = db.usage_page(filter, after.as_ref(), i64::from(size) + 1).await?;
    let fits = fitting(&rows, usize::try_from(size).unwrap_or(usize::MAX));
    let more = rows.len() > fits;
    rows.truncate(fits);
    let last = rows.last().filter(|_| more);
    let next_page_token = last.map(|row| issue(row.key(), fingerprint)).unwrap_or_default();
    Ok(Page { rows, next_page_token })
}

fn check(filter: &UsageFilter, page_size: i32) -> Result<(), Error> {
    let mut wrong = Vec::new();
    if page_size < 0 {
        wrong.push(Violation::new("page_size", "NEGATIVE", "must be 0 (for the default of 1,000) or more"));
    }
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
    if wrong.is_empty() { Ok(()) } else { Err(Error::Invalid(wrong)) }
}

/// How many rows a page takes: at least one, or it would never go on.
fn fitting(rows: &[UsageRow], size: usize) -> usize {
    let mut bytes = 0;
    rows.iter()
        .take(size)
        .take_while(|row| {
            let first = bytes == 0;
            bytes += weight(row);
            first || bytes <= PAGE_BYTES
        })
        .count()
}

fn weight(row: &UsageRow) -> usize {
    let texts = [&row.id, &row.auth_id, &row.resource_id, &row.model_id, &row.price_class];
    let optional = [
        &row.cost,
        &row.applied_prompt_rate,
        &row.applied_cached_rate,
        &row.applied_completion_rate,
        &row.pricebook_digest,
        &row.run_id,
    ];
    let optional = optional.iter().map(|text| text.as_ref().map_or(0, String::len));
    ROW_OVERHEAD + texts.iter().map(|text| text.len()).sum::<usize>() + optional.sum::<usize>()
}

fn fingerprint(filter: &UsageFilter) -> String {
    let times = |time: Option<DateTime<Utc>>| time.map(super::rfc3339);
    let text = serde_json::json!([
        times(filter.since),
        times(filter.until),
        filter.auth_ids,
        filter.resource_ids,
        filter.model_ids
    ]);
    hex::encode(&Sha256::digest(text.to_string())[..8])
}

fn issue(key: UsageKey, fingerprint: String) -> String {
    let token = serde_json::json!(Token { v: TOKEN_VERSION, f: fingerprint, k: key });
    URL_SAFE_NO_PAD.encode(token.to_string())
}

fn parse(text: &str, fingerprint: &str) -> Result<UsageKey, Error> {
    let refuse = |reason, message| Err(Error::Invalid(vec![Violation::new("page_token", reason, message)]));
    let decoded = URL_SAFE_NO_PAD.decode(text).ok();
    let token = decoded.and_then(|bytes| serde_json::from_slice::<Token>(&bytes).ok());
    match token {
        Some(Token { v: TOKEN_VERSION, f, .. }) if f != fingerprint => {
            refuse("OTHER_FILTER", "belongs to another filter; keep the filter, or begin without a token")
        }
        Some(Token { v: TOKEN_VERSION, k, .. }) if is_key(&k) => Ok(k),
        _ => refuse("MALFORMED", "is not a token of this service; begin without one"),
    }
}

/// Whether the database takes it: no NUL, and no year that it does not have.
fn is_key(key: &UsageKey) -> bool {
    let texts = [&key.auth_id, &key.resource_id, &key.model_id, &key.price_class];
    (1..=9999).contains(&key.window_start.year()) && !texts.iter().any(|text| text.contains('\0'))
}
