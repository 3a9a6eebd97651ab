//! Totals of `rated_usage` by dimensions, page by page, by key, or the dearest of them. A page
//! costs a look at every row of its filter.
//!
//! Money is read as text, like that of rows.

use chrono::{DateTime, Utc};

use super::{Db, Error, GroupBy, UsageFilter};

/// Which rows, and what they are summed up by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SummaryQuery {
    /// Whose, and of which hours.
    pub filter: UsageFilter,
    /// What they are summed up by, beside their currency.
    pub group_by: GroupBy,
}

/// Where a total stands in the order of pages. What is not summed by is the same in all.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SummaryKey {
    /// Who.
    pub auth_id: String,
    /// On what.
    pub resource_id: String,
    /// Which model.
    pub model_id: String,
    /// When.
    pub period: DateTime<Utc>,
    /// In which currency; empty for adopted rows without one.
    pub currency_code: String,
}

/// The total of some rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Where it stands; its ids are empty where it is not summed by them.
    pub key: SummaryKey,
    /// When its period begins; `None`: it is of all hours.
    pub period_start: Option<DateTime<Utc>>,
    /// All prompt tokens.
    pub prompt_tokens: i64,
    /// Those served from cache.
    pub cached_tokens: i64,
    /// Generated tokens.
    pub completion_tokens: i64,
    /// Events rolled up.
    pub event_count: i64,
    /// A canonical decimal.
    pub cost: String,
}

/// Which totals of a query.
#[derive(Debug, Clone, Copy)]
pub enum SummaryOrder<'a> {
    /// Those after a key, by key.
    Key(Option<&'a SummaryKey>),
    /// The dearest first.
    Cost,
}

impl Db {
    /// At most `limit` totals.
    pub async fn summary_page(
        &self,
        query: &SummaryQuery,
        order: SummaryOrder<'_>,
        limit: i64,
    ) -> Result<Vec<Summary>, Error> {
        let SummaryQuery { filter, group_by } = query;
        let (after, dearest) = match order {
            SummaryOrder::Key(after) => (after, false),
            SummaryOrder::Cost => (None, true),
        };
        let read = sqlx::query_file!(
            "src/store/sql/summary_page.sql",
            filter.since,
            filter.until,
            &filter.auth_ids,
            &filter.resource_ids,
            &filter.model_ids,
            group_by.auth_id,
            group_by.resource_id,
            group_by.model_id,
            group_by.period_name(),
            after.map(|key| key.auth_id.as_str()),
            after.map(|key| key.resource_id.as_str()),
            after.map(|key| key.model_id.as_str()),
            after.map(|key| key.period),
            after.map(|key| key.currency_code.as_str()),
            dearest,
            limit
        )
        .fetch_all(&self.reads);
        let rows = self.observed("SELECT rated_usage", read).await?;
        let totals = rows.into_iter().map(|r| Summary {
            key: SummaryKey {
                auth_id: r.auth_id,
                resource_id: r.resource_id,
                model_id: r.model_id,
                period: r.period,
                currency_code: r.currency_code,
            },
            period_start: group_by.period.map(|_| r.period),
            prompt_tokens: r.prompt_tokens,
            cached_tokens: r.cached_tokens,
            completion_tokens: r.completion_tokens,
            event_count: r.event_count,
            cost: r.cost,
        });
        Ok(totals.collect())
    }
}
