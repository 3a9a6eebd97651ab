//! A change record (R12): how a rollup stood before and after, and what changed it.

use chrono::{DateTime, Utc};

use super::{FeedBatch, UsageRow};

/// A change of a rollup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageChange {
    /// The batch that it is of.
    pub batch: FeedBatch,
    /// Its place in the batch, from 1.
    pub ordinal: i64,
    /// The run that made it.
    pub run_id: String,
    /// `None`: it is new.
    pub before: Option<UsageRow>,
    /// `None`: it is gone.
    pub after: Option<UsageRow>,
}

/// A row of `sql/usage_changes.sql`.
pub(super) struct Recorded {
    pub part: i64,
    pub ordinal: i64,
    pub operation: String,
    pub run_id: String,
    pub id: String,
    pub auth_id: String,
    pub resource_id: String,
    pub model_id: String,
    pub window_start: DateTime<Utc>,
    pub price_class: String,
    pub before_window_end: Option<DateTime<Utc>>,
    pub before_prompt_tokens: Option<i64>,
    pub before_cached_tokens: Option<i64>,
    pub before_completion_tokens: Option<i64>,
    pub before_billable_prompt_tokens: Option<i64>,
    pub before_event_count: Option<i64>,
    pub before_currency_code: Option<String>,
    pub before_cost: Option<String>,
    pub before_applied_prompt_rate: Option<String>,
    pub before_applied_cached_rate: Option<String>,
    pub before_applied_completion_rate: Option<String>,
    pub before_pricebook_digest: Option<String>,
    pub before_run_id: Option<String>,
    pub before_rated_at: Option<DateTime<Utc>>,
    pub after_window_end: Option<DateTime<Utc>>,
    pub after_prompt_tokens: Option<i64>,
    pub after_cached_tokens: Option<i64>,
    pub after_completion_tokens: Option<i64>,
    pub after_billable_prompt_tokens: Option<i64>,
    pub after_event_count: Option<i64>,
    pub after_currency_code: Option<String>,
    pub after_cost: Option<String>,
    pub after_applied_prompt_rate: Option<String>,
    pub after_applied_cached_rate: Option<String>,
    pub after_applied_completion_rate: Option<String>,
    pub after_pricebook_digest: Option<String>,
    pub after_rated_at: Option<DateTime<Utc>>,
}

impl Recorded {
    /// The change that the row records, in its batch.
    pub fn of(self, batch: FeedBatch) -> UsageChange {
        let before = UsageRow {
            id: self.id.clone(),
            auth_id: self.auth_id.clone(),
            resource_id: self.resource_id.clone(),
            model_id: self.model_id.clone(),
            window_start: self.window_start,
            window_end: self.before_window_end,
            prompt_tokens: self.before_prompt_tokens,
            cached_tokens: self.before_cached_tokens,
            completion_tokens: self.before_completion_tokens,
            billable_prompt_tokens: self.before_billable_prompt_tokens,
            event_count: self.before_event_count,
            currency_code: self.before_currency_code,
            cost: self.before_cost,
            applied_prompt_rate: self.before_applied_prompt_rate,
            applied_cached_rate: self.before_applied_cached_rate,
            applied_completion_rate: self.before_applied_completion_rate,
            pricebook_digest: self.before_pricebook_digest,
            run_id: self.before_run_id,
            rated_at: self.before_rated_at,
            price_class: self.price_class.clone(),
        };
        let after = UsageRow {
            id: self.id,
            auth_id: self.auth_id,
            resource_id: self.resource_id,
            model_id: self.model_id,
            window_start: self.window_start,
            window_end: self.after_window_end,
            prompt_tokens: self.after_prompt_tokens,
            cached_tokens: self.after_cached_tokens,
            completion_tokens: self.after_completion_tokens,
            billable_prompt_tokens: self.after_billable_prompt_tokens,
            event_count: self.after_event_count,
            currency_code: self.after_currency_code,
            cost: self.after_cost,
            applied_prompt_rate: self.after_applied_prompt_rate,
            applied_cached_rate: self.after_applied_cached_rate,
            applied_completion_rate: self.after_applied_completion_rate,
            pricebook_digest: self.after_pricebook_digest,
            run_id: Some(self.run_id.clone()),
            rated_at: self.after_rated_at,
            price_class: self.price_class,
        };
        UsageChange {
            batch,
            ordinal: self.ordinal,
            run_id: self.run_id,
            before: (self.operation != "insert").then_some(before),
            after: (self.operation != "delete").then_some(after),
        }
    }
}
