//! Reading `rated_usage`, page by page, by key: a page costs its rows, wherever it lies.
//!
//! Money is read as text: the driver would round wide numerics silently.

use chrono::{DateTime, Utc};

use super::{Db, Error};

/// Which rows. An empty list filters nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct UsageFilter {
    /// `window_start` at or after.
    pub since: Option<DateTime<Utc>>,
    /// `window_start` before.
    pub until: Option<DateTime<Utc>>,
    /// Any of these identities.
    pub auth_ids: Vec<String>,
    /// Any of these resources.
    pub resource_ids: Vec<String>,
    /// Any of these models.
    pub model_ids: Vec<String>,
}

/// The natural key of a rollup, in the order of pages.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct UsageKey {
    /// The hour.
    pub window_start: DateTime<Utc>,
    /// Who.
    pub auth_id: String,
    /// On what.
    pub resource_id: String,
    /// Which model.
    pub model_id: String,
    /// At which class of prices.
    pub price_class: String,
}

/// A rollup as it is stored. What an adopted row has no value for is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageRow {
    /// The same for the same key, for ever.
    pub id: String,
    /// Who.
    pub auth_id: String,
    /// On what.
    pub resource_id: String,
    /// Which model.
    pub model_id: String,
    /// The hour's start.
    pub window_start: DateTime<Utc>,
    /// The hour's end.
    pub window_end: Option<DateTime<Utc>>,
    /// All prompt tokens.
    pub prompt_tokens: Option<i64>,
    /// Those served from cache.
    pub cached_tokens: Option<i64>,
    /// Generated tokens.
    pub completion_tokens: Option<i64>,
    /// Prompt tokens at the prompt rate.
    pub billable_prompt_tokens: Option<i64>,
    /// Events rolled up.
    pub event_count: Option<i64>,
    /// Three letters.
    pub currency_code: Option<String>,
    /// A canonical decimal, like the rates.
    pub cost: Option<String>,
    /// Per token.
    pub applied_prompt_rate: Option<String>,
    /// Per token.
    pub applied_cached_rate: Option<String>,
    /// Per token.
    pub applied_completion_rate: Option<String>,
    /// The pricebook that the rates came from.
    pub pricebook_digest: Option<String>,
    /// The run that last wrote it.
    pub run_id: Option<String>,
    /// When.
    pub rated_at: Option<DateTime<Utc>>,
    /// `standard` unless the pricebook says otherwise.
    pub price_class: String,
}

impl UsageRow {
    /// Where this row stands in the order of pages.
    pub fn key(&self) -> UsageKey {
        UsageKey {
            window_start: self.window_start,
            auth_id: self.auth_id.clone(),
            resource_id: self.resource_id.clone(),
            model_id: self.model_id.clone(),
            price_class: self.price_class.clone(),
        }
    }
}

impl Db {
    /// At most `limit` rows after `after`.
    pub async fn usage_page(
        &self,
        filter: &UsageFilter,
        after: Option<&UsageKey>,
        limit: i64,
    ) -> Result<Vec<UsageRow>, Error> {
        let text = |of: fn(&UsageKey) -> &str| after.map_or("", of);
        let read = sqlx::query_file_as!(
            UsageRow,
            "src/store/sql/rated_usage_page.sql",
            filter.since,
            filter.until,
            &filter.auth_ids,
            &filter.resource_ids,
            &filter.model_ids,
            after.map(|key| key.window_start),
            text(|key| &key.auth_id),
            text(|key| &key.resource_id),
            text(|key| &key.model_id),
            text(|key| &key.price_class),
            limit
        )
        .fetch_all(&self.reads);
        let rows = self.observed("SELECT rated_usage", read).await?;
        Ok(rows)
    }
}
