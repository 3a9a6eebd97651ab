//! Rows as other programs write and read them, past the service.

use chrono::{DateTime, Utc};
use sqlx::postgres::{PgPool, PgRow};
use sqlx::{FromRow, Row};

/// A raw event, valid unless a test changes that.
#[derive(Debug, Clone)]
pub struct Event {
    pub request_id: String,
    pub auth_id: Option<String>,
    pub resource_id: Option<String>,
    pub model: Option<String>,
    pub base_model: Option<String>,
    pub prompt_tokens: i32,
    pub cached_tokens: i32,
    pub completion_tokens: i32,
    pub aborted: Option<bool>,
    pub event_ts: Option<DateTime<Utc>>,
    /// Unset: the database's `now()`.
    pub created_at: Option<DateTime<Utc>>,
}

/// An event of `auth-1` on `resource-1` with model `acme/large`: 100 prompt tokens, none
/// cached, 10 completion tokens, at 2026-06-01T10:15:00Z.
pub fn event(request_id: &str) -> Event {
    Event {
        request_id: request_id.into(),
        auth_id: Some("auth-1".into()),
        resource_id: Some("resource-1".into()),
        model: Some("acme/large".into()),
        base_model: None,
        prompt_tokens: 100,
        cached_tokens: 0,
        completion_tokens: 10,
        aborted: None,
        event_ts: Some(time("2026-06-01T10:15:00Z")),
        created_at: None,
    }
}

impl Event {
    pub fn auth(self, auth_id: &str) -> Event {
        Event { auth_id: Some(auth_id.into()), ..self }
    }

    pub fn resource(self, resource_id: &str) -> Event {
        Event { resource_id: Some(resource_id.into()), ..self }
    }

    pub fn model(self, model: &str) -> Event {
        Event { model: Some(model.into()), ..self }
    }

    pub fn base(self, base_model: &str) -> Event {
        Event { base_model: Some(base_model.into()), ..self }
    }

    /// Prompt, the cached part of it, completion.
    pub fn tokens(self, prompt_tokens: i32, cached_tokens: i32, completion_tokens: i32) -> Event {
        Event { prompt_tokens, cached_tokens, completion_tokens, ..self }
    }

    pub fn at(self, event_ts: &str) -> Event {
        Event { event_ts: Some(time(event_ts)), ..self }
    }

    /// Without a time of its own: it counts when it was stored.
    pub fn stored_at(self, created_at: &str) -> Event {
        Event { event_ts: None, created_at: Some(time(created_at)), ..self }
    }

    pub fn without_auth(self) -> Event {
        Event { auth_id: None, ..self }
    }

    pub fn without_resource(self) -> Event {
        Event { resource_id: None, ..self }
    }

    pub fn without_model(self) -> Event {
        Event { model: None, ..self }
    }

    pub fn aborted(self) -> Event {
        Event { aborted: Some(true), ..self }
    }
}

/// Inserts events in one transaction, as another writer does.
pub async fn insert(pool: &PgPool, events: impl IntoIterator<Item = Event>) {
    let mut transaction = pool.begin().await.unwrap();
    for event in events {
        let sql = "INSERT INTO billing_event (request_id, auth_id, resource_id, model, base_model,
                prompt_tokens, cached_tokens, completion_tokens, aborted, event_ts, created_at)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, coalesce($11, now()))";
        sqlx::query(sql)
            .bind(event.request_id)
            .bind(event.auth_id)
            .bind(event.resource_id)
            .bind(event.model)
            .bind(event.base_model)
            .bind(event.prompt_tokens)
            .bind(event.cached_tokens)
            .bind(event.completion_tokens)
            .bind(event.aborted)
            .bind(event.event_ts)
            .bind(event.created_at)
            .execute(&mut *transaction)
            .await
            .unwrap();
    }
    transaction.commit().await.unwrap();
}

/// A rollup as it stands in the table. Money as text, without trailing zeros; what an adopted
/// row has no value for is 0 or empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rated {
    pub id: String,
    pub auth_id: String,
    pub resource_id: String,
    pub model_id: String,
    pub window_start: DateTime<Utc>,
    pub price_class: String,
    pub prompt_tokens: i64,
    pub cached_tokens: i64,
    pub completion_tokens: i64,
    pub billable_prompt_tokens: i64,
    pub event_count: i64,
    pub cost: String,
    pub prompt_rate: String,
    pub cached_rate: String,
    pub completion_rate: String,
    pub currency_code: String,
    pub pricebook_digest: String,
    pub run_id: String,
    pub fence: i64,
    pub rated_at: Option<DateTime<Utc>>,
    /// Where the row version lies: it moves with every write of the row, and only then.
    pub ctid: String,
}

/// Every rollup, by hour and then by key.
pub async fn rated_usage(pool: &PgPool) -> Vec<Rated> {
    let sql = "SELECT id, auth_id, resource_id, model_id, window_start, price_class,
            coalesce(prompt_tokens, 0) AS prompt_tokens,
            coalesce(cached_tokens, 0) AS cached_tokens,
            coalesce(completion_tokens, 0) AS completion_tokens,
            coalesce(billable_prompt_tokens, 0) AS billable_prompt_tokens,
            coalesce(event_count, 0) AS event_count,
            coalesce(trim_scale(cost)::text, '') AS cost,
            coalesce(trim_scale(applied_prompt_rate)::text, '') AS prompt_rate,
            coalesce(trim_scale(applied_cached_rate)::text, '') AS cached_rate,
            coalesce(trim_scale(applied_completion_rate)::text, '') AS completion_rate,
            coalesce(currency_code::text, '') AS currency_code,
            coalesce(pricebook_digest::text, '') AS pricebook_digest,
            coalesce(run_id::text, '') AS run_id, coalesce(fence, 0) AS fence, rated_at,
            ctid::text AS ctid
        FROM rated_usage
        ORDER BY window_start, auth_id COLLATE \"C\", resource_id COLLATE \"C\",
            model_id COLLATE \"C\", price_class COLLATE \"C\"";
    sqlx::query_as(sql).fetch_all(pool).await.unwrap()
}

impl FromRow<'_, PgRow> for Rated {
    fn from_row(row: &PgRow) -> sqlx::Result<Rated> {
        Ok(Rated {
            id: row.try_get("id")?,
            auth_id: row.try_get("auth_id")?,
            resource_id: row.try_get("resource_id")?,
            model_id: row.try_get("model_id")?,
            window_start: row.try_get("window_start")?,
            price_class: row.try_get("price_class")?,
            prompt_tokens: row.try_get("prompt_tokens")?,
            cached_tokens: row.try_get("cached_tokens")?,
            completion_tokens: row.try_get("completion_tokens")?,
            billable_prompt_tokens: row.try_get("billable_prompt_tokens")?,
            event_count: row.try_get("event_count")?,
            cost: row.try_get("cost")?,
            prompt_rate: row.try_get("prompt_rate")?,
            cached_rate: row.try_get("cached_rate")?,
            completion_rate: row.try_get("completion_rate")?,
            currency_code: row.try_get("currency_code")?,
            pricebook_digest: row.try_get("pricebook_digest")?,
            run_id: row.try_get("run_id")?,
            fence: row.try_get("fence")?,
            rated_at: row.try_get("rated_at")?,
            ctid: row.try_get("ctid")?,
        })
    }
}

fn time(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}
