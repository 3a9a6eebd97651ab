//! The audit's batches: rows of `rated_usage` in key order, held against themselves
//! (`sql/audit_rows.sql`, R13), and hours, held against a fresh rating of their events
//! (`sql/rate_chunk.sql`, told to write nothing). What does not agree is counted and summed in
//! `audit_total`, and the first of it is listed in `audit_disagreement`, in the batch's transaction.
//! Times and money of adopted rows may be anything: they cross as text.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgConnection;

use super::table_job::JobBatch;
use super::{Db, Error, chunk, rating_statement};
use crate::domain::pricebook::Pricebook;
use crate::domain::window::Window;

/// How many disagreements are listed; all are counted.
pub const LISTED: i64 = 10_000;

/// A batch that stands still holds nothing but its job.
const IDLE_LIMIT: Duration = Duration::from_secs(12);

/// Where the next batch of rows begins: after this key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditKey {
    /// As PostgreSQL writes it in JSON; it may be infinite.
    pub window_start: String,
    auth_id: String,
    resource_id: String,
    model_id: String,
    price_class: String,
    /// Of that hour's first row that says one.
    currency: Option<String>,
}

impl AuditKey {
    /// Before everything from a time on.
    pub fn before(since: Option<DateTime<Utc>>) -> AuditKey {
        let just_before = |since: DateTime<Utc>| (since - chrono::TimeDelta::microseconds(1)).to_rfc3339();
        AuditKey {
            window_start: since.map_or_else(|| "-infinity".into(), just_before),
            ..AuditKey::default()
        }
    }
}

/// What an audit found of one kind in one currency. Money as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditTotal {
    /// Which kind.
    pub finding: String,
    /// Empty where rows do not say it.
    pub currency_code: String,
    /// How many rows.
    pub rows: i64,
    /// What stands on them.
    pub billed: String,
    /// What stands on them too much.
    pub over_billed: String,
    /// What is missing on them.
    pub under_billed: String,
}

/// A row that does not agree, or one that is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Disagreement {
    /// Which kind.
    pub finding: String,
    /// Its hour.
    pub window_start: Option<String>,
    /// Its identity.
    pub auth_id: Option<String>,
    /// Its resource.
    pub resource_id: Option<String>,
    /// Its model.
    pub model_id: Option<String>,
    /// Its price class.
    pub price_class: Option<String>,
    /// Its currency.
    pub currency_code: Option<String>,
    /// Its cost.
    pub billed: Option<String>,
    /// What it should be.
    pub expected: Option<String>,
    /// What is wrong.
    pub detail: String,
}

impl JobBatch {
    /// Holds the next `most` rows after a key against themselves, those of `until` aside. Where hours
    /// are held against events, up to `compared_until`, a row that will not be is told, too. Gives how
    /// many there were, and the key of the last.
    pub async fn audit_rows(
        &mut self,
        after: &AuditKey,
        until: Option<DateTime<Utc>>,
        compared_until: Option<DateTime<Utc>>,
        most: i64,
    ) -> Result<(i64, Option<AuditKey>), Error> {
        in_key_order(&mut self.tx).await?;
        let batch = sqlx::query_file!(
            "src/store/sql/audit_rows.sql",
            after.window_start,
            after.auth_id,
            after.resource_id,
            after.model_id,
            after.price_class,
            after.currency,
            last_time(until),
            most,
            LISTED,
            compared_until
        )
        .fetch_one(&mut *self.tx)
        .await?;
        Ok((batch.rows, key(batch.last)?))
    }

    /// Passes over the next row after a key, which can't be read, and says so. None is left: none.
    pub async fn pass_over_row(
        &mut self,
        after: &AuditKey,
        until: Option<DateTime<Utc>>,
        why: &str,
    ) -> Result<Option<AuditKey>, Error> {
        let row = sqlx::query_scalar!(
            r#"WITH next AS MATERIALIZED (
                   SELECT window_start, auth_id, resource_id, model_id, price_class FROM rated_usage
                   WHERE (window_start, auth_id COLLATE "C", resource_id COLLATE "C", model_id COLLATE "C",
                           price_class COLLATE "C") > ($1::text::timestamptz, $2::text, $3::text, $4::text, $5::text)
                       AND window_start <= $6::text::timestamptz
                   ORDER BY window_start, auth_id COLLATE "C", resource_id COLLATE "C", model_id COLLATE "C",
                       price_class COLLATE "C"
                   LIMIT 1
               ), counted AS (
                   INSERT INTO audit_total SELECT 'unreadable', '', 1, 0, 0, 0 FROM next
                   ON CONFLICT (finding, currency_code) DO UPDATE SET rows = audit_total.rows + 1
               ), listed AS (
                   INSERT INTO audit_disagreement (finding, window_start, auth_id, resource_id, model_id,
                       price_class, detail)
                   SELECT 'unreadable', n.*, $7 FROM next n
                   LIMIT greatest($8 - (SELECT count(*) FROM audit_disagreement), 0)
               )
               SELECT to_jsonb(n) AS "next!" FROM next n"#,
            after.window_start,
            after.auth_id,
            after.resource_id,
            after.model_id,
            after.price_class,
            last_time(until),
            why,
            LISTED
        )
        .fetch_optional(&mut *self.tx)
        .await?;
        let passed = key(row.map(|row| with_currency(row, after)))?;
        Ok(passed)
    }

    /// The first hour from a time on, and before another, that holds events or rollups.
    pub async fn next_hour(&mut self, within: Window) -> Result<Option<DateTime<Utc>>, Error> {
        let hour = sqlx::query_scalar!(
            r#"SELECT date_trunc('hour', least(
                   (SELECT window_start FROM rated_usage WHERE window_start >= $1 AND window_start < $2
                    ORDER BY window_start LIMIT 1),
                   (SELECT COALESCE(event_ts, created_at) FROM billing_event
                    WHERE COALESCE(event_ts, created_at) >= $1 AND COALESCE(event_ts, created_at) < $2
                    ORDER BY COALESCE(event_ts, created_at) LIMIT 1)), 'UTC')"#,
            within.start,
            within.end
        )
        .fetch_one(&mut *self.tx)
        .await?;
        Ok(hour)
    }

    /// Holds an hour's rollups against a fresh rating of its events. Gives how many rows of both it
    /// read.
    pub async fn audit_hour(
        &mut self,
        hour: Window,
        book: &Pricebook,
        statement_timeout: Duration,
    ) -> Result<i64, Error> {
        chunk::prepare(&mut self.tx, IDLE_LIMIT, statement_timeout).await?;
        let audited = rating_statement::audit(&mut self.tx, hour, book).await?;
        sqlx::query!(
            "WITH counted AS (
                 INSERT INTO audit_total (finding, currency_code, rows, billed, over_billed, under_billed)
                 SELECT * FROM json_to_recordset($1::text::json -> 'totals') AS t (finding text, currency_code text,
                     rows bigint, billed numeric, over_billed numeric, under_billed numeric)
                 ORDER BY 1, 2
                 ON CONFLICT (finding, currency_code) DO UPDATE SET rows = audit_total.rows + excluded.rows,
                     billed = audit_total.billed + excluded.billed,
                     over_billed = audit_total.over_billed + excluded.over_billed,
                     under_billed = audit_total.under_billed + excluded.under_billed
             )
             INSERT INTO audit_disagreement (finding, window_start, auth_id, resource_id, model_id, price_class,
                 currency_code, billed, expected, detail)
             SELECT * FROM json_to_recordset($1::text::json -> 'rows') AS r (finding text,
                 window_start timestamptz, auth_id text, resource_id text, model_id text, price_class text,
                 currency_code text, billed numeric, expected numeric, detail text)
             LIMIT greatest($2 - (SELECT count(*) FROM audit_disagreement), 0)",
            audited.found,
            LISTED
        )
        .execute(&mut *self.tx)
        .await?;
        Ok(audited.rows)
    }

    /// Passes over an hour that can't be rated, and says so.
    pub async fn pass_over_hour(&mut self, hour: DateTime<Utc>, why: &str) -> Result<(), Error> {
        sqlx::query!(
            "WITH counted AS (
                 INSERT INTO audit_total VALUES ('unreadable', '', 1, 0, 0, 0)
                 ON CONFLICT (finding, currency_code) DO UPDATE SET rows = audit_total.rows + 1
             )
             INSERT INTO audit_disagreement (finding, window_start, detail)
             SELECT 'unreadable', $1::timestamptz, $2::text
             LIMIT greatest($3 - (SELECT count(*) FROM audit_disagreement), 0)",
            hour,
            format!("the hour could not be rated: {why}"),
            LISTED
        )
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }
}

/// Forgets what the latest audit found.
pub(super) async fn forget_findings(connection: &mut PgConnection) -> Result<(), Error> {
    sqlx::query!("DELETE FROM audit_total").execute(&mut *connection).await?;
    sqlx::query!("DELETE FROM audit_disagreement").execute(connection).await?;
    Ok(())
}

impl Db {
    /// How many rows an audit will read: rollups, and, where events are rated, those before `closed`
    /// and the rollups once more. Where it takes too long to count them, by what the planner thinks.
    pub async fn rows_to_audit(
        &self,
        since: Option<DateTime<Utc>>,
        until: Option<DateTime<Utc>>,
        events: Option<Window>,
    ) -> Result<i64, Error> {
        let counted = self.count_to_audit(since, until, events).await;
        match counted {
            Err(Error::Cancelled(_)) => {}
            counted => return counted,
        }
        let thought = sqlx::query_scalar!(
            r#"SELECT sum(greatest(reltuples, 0))::bigint AS "rows!" FROM pg_class
               WHERE oid = 'rated_usage'::regclass OR $1 AND oid = 'billing_event'::regclass"#,
            events.is_some()
        );
        Ok(thought.fetch_one(&self.pool).await?)
    }

    async fn count_to_audit(
        &self,
        since: Option<DateTime<Utc>>,
        until: Option<DateTime<Utc>>,
        events: Option<Window>,
    ) -> Result<i64, Error> {
        let mut tx = self.pool.begin().await?;
        sqlx::query!("SELECT set_config('statement_timeout', '30s', true)").fetch_one(&mut *tx).await?;
        let key = AuditKey::before(since).window_start;
        let rows = sqlx::query_scalar!(
            r#"SELECT count(*) AS "rows!" FROM rated_usage
               WHERE window_start > $1::text::timestamptz AND window_start <= $2::text::timestamptz"#,
            key,
            last_time(until)
        );
        let mut rows = rows.fetch_one(&mut *tx).await?;
        if let Some(window) = events {
            rows += sqlx::query_scalar!(
                r#"SELECT (SELECT count(*) FROM billing_event WHERE COALESCE(event_ts, created_at) >= $1
                       AND COALESCE(event_ts, created_at) < $2)
                   + (SELECT count(*) FROM rated_usage WHERE window_start >= $1 AND window_start < $2) AS "rows!""#,
                window.start,
                window.end
            )
            .fetch_one(&mut *tx)
            .await?;
        }
        tx.rollback().await?;
        Ok(rows)
    }

    /// All that the latest audit found, so far. One currency is nothing to tell.
    pub async fn audit_totals(&self) -> Result<Vec<AuditTotal>, Error> {
        Ok(sqlx::query_as!(
            AuditTotal,
            r#"SELECT finding, currency_code, rows, trim_scale(billed)::text AS "billed!",
                   trim_scale(over_billed)::text AS "over_billed!",
                   trim_scale(under_billed)::text AS "under_billed!"
               FROM audit_total
               WHERE finding <> 'currencies'
                   OR (SELECT count(*) FROM audit_total WHERE finding = 'currencies') > 1
               ORDER BY finding, currency_code"#
        )
        .fetch_all(&self.pool)
        .await?)
    }

    /// The first rows that the latest audit found not to agree.
    pub async fn disagreements(&self, most: i64) -> Result<Vec<Disagreement>, Error> {
        Ok(sqlx::query_as!(
            Disagreement,
            r#"SELECT finding, to_jsonb(window_start) #>> '{}' AS window_start, auth_id, resource_id, model_id,
                   price_class, currency_code, trim_scale(billed)::text AS billed,
                   trim_scale(expected)::text AS expected, detail
               FROM audit_disagreement ORDER BY ordinal LIMIT $1"#,
            most
        )
        .fetch_all(&self.pool)
        .await?)
    }
}

/// A batch must not cost what is left of its window, whatever the planner thinks of an adopted table
/// that it never saw: its rows come by the index in their order, and not sorted.
async fn in_key_order(connection: &mut PgConnection) -> Result<(), Error> {
    let settings = sqlx::query!(
        "SELECT set_config('enable_sort', 'off', true) AS a, set_config('enable_bitmapscan', 'off', true) AS b,
             set_config('enable_seqscan', 'off', true) AS c"
    );
    settings.fetch_one(connection).await?;
    Ok(())
}

/// The last time that lies before `until`, as an index can find it.
fn last_time(until: Option<DateTime<Utc>>) -> String {
    until.map_or_else(|| "infinity".into(), |until| AuditKey::before(Some(until)).window_start)
}

fn key(value: Option<Value>) -> Result<Option<AuditKey>, Error> {
    let wrong = |_| Error::Inconsistent("a key of the audit's has another form");
    value.map(serde_json::from_value).transpose().map_err(wrong)
}

/// The hour keeps its currency over a row that can't be read.
fn with_currency(mut row: Value, after: &AuditKey) -> Value {
    let same = row.get("window_start").and_then(Value::as_str) == Some(after.window_start.as_str());
    if let Some(fields) = row.as_object_mut() {
        let currency = after.currency.clone().filter(|_| same);
        fields.insert("currency".into(), serde_json::to_value(currency).unwrap_or_default());
    }
    row
}
