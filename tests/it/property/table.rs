//! What the tables hold, read exactly: money as text, and with every row its version, which
//! moves with each write of the row and only then.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use rater::domain::money::{Money, Rate};
use rater::domain::rating::{Anomaly, AnomalyKey, AnomalyKind, Rollup, RollupKey};
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, PgConnection, Row};
use uuid::Uuid;

use super::script::SLOT_HOURS;

/// A row of `rated_usage`, beside its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRollup {
    pub rollup: Rollup,
    pub id: String,
    pub window_end: Option<DateTime<Utc>>,
    pub run_id: Option<String>,
    pub fence: Option<i64>,
    pub rated_at: Option<DateTime<Utc>>,
    pub version: String,
}

/// A row of `rating_anomaly`, beside its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredAnomaly {
    pub anomaly: Anomaly,
    pub run_id: String,
    pub version: String,
}

/// What a slot holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tables {
    pub rollups: BTreeMap<RollupKey, StoredRollup>,
    pub anomalies: BTreeMap<AnomalyKey, StoredAnomaly>,
}

/// A change record. A side that it has nothing on is all `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub operation: String,
    pub run_id: String,
    pub id: Option<String>,
    pub key: RollupKey,
    pub before: Rollup,
    pub before_window_end: Option<DateTime<Utc>>,
    pub before_run_id: Option<String>,
    pub before_rated_at: Option<DateTime<Utc>>,
    pub after: Rollup,
    pub after_rated_at: Option<DateTime<Utc>>,
}

/// Everything from a slot's start to its end.
pub async fn read(connection: &mut PgConnection, start: DateTime<Utc>) -> sqlx::Result<Tables> {
    let end = start + TimeDelta::hours(SLOT_HOURS);
    let sql = format!(
        "SELECT {KEY}, {}, id, window_end, run_id, fence, rated_at, ctid::text || '/' || xmin AS version
        FROM rated_usage WHERE window_start >= $1 AND window_start < $2",
        rollup_columns("")
    );
    let rows = sqlx::query(AssertSqlSafe(sql)).bind(start).bind(end).fetch_all(&mut *connection).await?;
    let rollups = rows.iter().map(|row| Ok((key(row)?, stored_rollup(row)?))).collect::<sqlx::Result<_>>()?;
    let sql = "SELECT window_start, kind, auth_id, resource_id, model_id, base_models, events,
            prompt_tokens, cached_tokens, completion_tokens, coalesce(sample_request_id, '') AS sample,
            run_id, ctid::text || '/' || xmin AS version
        FROM rating_anomaly WHERE window_start >= $1 AND window_start < $2";
    let rows = sqlx::query(sql).bind(start).bind(end).fetch_all(&mut *connection).await?;
    let anomalies = rows.iter().map(stored_anomaly).collect::<sqlx::Result<_>>()?;
    Ok(Tables { rollups, anomalies })
}

/// The change records of these batches, by hour and then in their own order, each with its
/// ordinal.
pub async fn changes(
    connection: &mut PgConnection,
    batches: &[Uuid],
) -> sqlx::Result<Vec<(Uuid, i64, Change)>> {
    let sql = format!(
        "SELECT batch_id, ordinal, operation, run_id, id, {KEY}, {}, {}, before_window_end, before_run_id,
            before_rated_at, after_rated_at
        FROM rated_usage_change WHERE batch_id = ANY($1)",
        rollup_columns("before_"),
        rollup_columns("after_"),
    );
    let rows = sqlx::query(AssertSqlSafe(sql)).bind(batches).fetch_all(connection).await?;
    let mut changes = rows.iter().map(change).collect::<sqlx::Result<Vec<_>>>()?;
    changes.sort_by_key(|(_, ordinal, change)| (change.key.window_start, *ordinal));
    Ok(changes)
}

/// What `md5` makes of texts, by the text.
pub async fn md5(connection: &mut PgConnection, texts: &[String]) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar("SELECT md5(t) FROM unnest($1::text[]) WITH ORDINALITY AS u (t, n) ORDER BY n")
        .bind(texts)
        .fetch_all(connection)
        .await
}

const KEY: &str = "window_start, auth_id, resource_id, model_id, price_class";

/// The columns of a [`Rollup`], under their own names but for the money, which is text.
fn rollup_columns(prefix: &str) -> String {
    let same =
        ["prompt_tokens", "cached_tokens", "completion_tokens", "billable_prompt_tokens", "event_count"];
    let text = ["applied_prompt_rate", "applied_cached_rate", "applied_completion_rate", "currency_code"];
    let mut columns: Vec<String> = same.iter().map(|name| format!("{prefix}{name}")).collect();
    columns.push(format!("{prefix}pricebook_digest"));
    columns.push(format!("trim_scale({prefix}cost)::text AS {prefix}cost"));
    columns.extend(text.iter().map(|name| format!("{prefix}{name}::text AS {prefix}{name}")));
    columns.join(", ")
}

fn rollup(row: &PgRow, prefix: &str) -> sqlx::Result<Rollup> {
    let name = |name: &str| format!("{prefix}{name}");
    let rate = |column: &str| -> sqlx::Result<Option<Rate>> {
        let text: Option<String> = row.try_get(name(column).as_str())?;
        Ok(text.map(|text| Rate::parse(&text).unwrap_or_else(|error| panic!("{text} {error}"))))
    };
    let cost: Option<String> = row.try_get(name("cost").as_str())?;
    Ok(Rollup {
        prompt_tokens: row.try_get(name("prompt_tokens").as_str())?,
        cached_tokens: row.try_get(name("cached_tokens").as_str())?,
        completion_tokens: row.try_get(name("completion_tokens").as_str())?,
        billable_prompt_tokens: row.try_get(name("billable_prompt_tokens").as_str())?,
        event_count: row.try_get(name("event_count").as_str())?,
        cost: cost.map(|text| Money::parse(&text).unwrap_or_else(|error| panic!("{text} {error}"))),
        prompt_rate: rate("applied_prompt_rate")?,
        cached_rate: rate("applied_cached_rate")?,
        completion_rate: rate("applied_completion_rate")?,
        currency: row.try_get(name("currency_code").as_str())?,
        digest: row.try_get(name("pricebook_digest").as_str())?,
    })
}

fn key(row: &PgRow) -> sqlx::Result<RollupKey> {
    Ok(RollupKey {
        window_start: row.try_get("window_start")?,
        auth_id: row.try_get("auth_id")?,
        resource_id: row.try_get("resource_id")?,
        model_id: row.try_get("model_id")?,
        price_class: row.try_get("price_class")?,
    })
}

fn stored_rollup(row: &PgRow) -> sqlx::Result<StoredRollup> {
    Ok(StoredRollup {
        rollup: rollup(row, "")?,
        id: row.try_get("id")?,
        window_end: row.try_get("window_end")?,
        run_id: row.try_get("run_id")?,
        fence: row.try_get("fence")?,
        rated_at: row.try_get("rated_at")?,
        version: row.try_get("version")?,
    })
}

fn stored_anomaly(row: &PgRow) -> sqlx::Result<(AnomalyKey, StoredAnomaly)> {
    let kind: &str = row.try_get("kind")?;
    let kinds = [
        AnomalyKind::Unattributable,
        AnomalyKind::Malformed,
        AnomalyKind::Unpriced,
        AnomalyKind::AmbiguousBase,
    ];
    let key = AnomalyKey {
        window_start: row.try_get("window_start")?,
        kind: kinds.into_iter().find(|known| known.as_str() == kind).unwrap(),
        auth_id: row.try_get("auth_id")?,
        resource_id: row.try_get("resource_id")?,
        model_id: row.try_get("model_id")?,
    };
    let anomaly = Anomaly {
        base_models: row.try_get("base_models")?,
        events: row.try_get("events")?,
        prompt_tokens: row.try_get("prompt_tokens")?,
        cached_tokens: row.try_get("cached_tokens")?,
        completion_tokens: row.try_get("completion_tokens")?,
        sample_request_id: row.try_get("sample")?,
    };
    Ok((key, StoredAnomaly { anomaly, run_id: row.try_get("run_id")?, version: row.try_get("version")? }))
}

fn change(row: &PgRow) -> sqlx::Result<(Uuid, i64, Change)> {
    let change = Change {
        operation: row.try_get("operation")?,
        run_id: row.try_get("run_id")?,
        id: row.try_get("id")?,
        key: key(row)?,
        before: rollup(row, "before_")?,
        before_window_end: row.try_get("before_window_end")?,
        before_run_id: row.try_get("before_run_id")?,
        before_rated_at: row.try_get("before_rated_at")?,
        after: rollup(row, "after_")?,
        after_rated_at: row.try_get("after_rated_at")?,
    };
    Ok((row.try_get("batch_id")?, row.try_get("ordinal")?, change))
}
