//! The rating statement as a run executes it, chunk by chunk: the one place to change when it
//! is to be reached through the service.

use chrono::{DateTime, Utc};
use rater::domain::money::Money;
use rater::domain::outcome::Counts;
use rater::domain::pricebook::{Pricebook, RateRow, Rates};
use rater::domain::rating::Run;
use rater::domain::window::{RateBasis, Trigger, Window};
use sqlx::postgres::PgRow;
use sqlx::{Column, Connection, PgConnection, Row};
use uuid::Uuid;

const STATEMENT: &str = include_str!("../../../src/store/sql/rate_chunk.sql");

/// How a run is carried out, beside what it is asked to do.
pub struct Execution<'a> {
    pub run_id: &'a str,
    pub fence: i64,
    pub chunk_hours: u32,
    pub time_zone: &'a str,
    /// The first chunk's batch of change records; the next has the next number.
    pub first_batch: u128,
}

/// What a run says that it did.
#[derive(Debug)]
pub struct Report {
    pub counts: Counts,
    /// Rows that it inserted, updated and deleted, and the change records.
    pub written: [i64; 4],
    pub highest_fence: Option<i64>,
    pub foreign_currency: Option<String>,
    pub batches: Vec<Uuid>,
    /// The transaction's time.
    pub now: DateTime<Utc>,
    /// What deleted and shrunk rollups lost.
    pub lost_cost: Money,
    /// Of each hour's changes, oldest first.
    pub hour_hashes: Vec<Vec<u8>>,
    /// What the same statement said before, when it was told not to write.
    pub plan: Plan,
}

/// A run that was only planned, the window in one chunk.
#[derive(Debug, Default)]
pub struct Plan {
    pub counts: Counts,
    pub lost_cost: Money,
    pub hour_hashes: Vec<Vec<u8>>,
    /// Rows and change records that it wrote, and whether the transaction got an id for it.
    pub written: [i64; 4],
    pub left_a_trace: bool,
    /// By model and by customer: name, cost before and after, and how many rollups change.
    pub by_name: [Vec<(String, Money, Money, i64)>; 2],
}

/// Rates a window, newest chunk first, and commits; rolls back when it meets another currency.
pub async fn rate(
    connection: &mut PgConnection,
    run: &Run<'_>,
    execution: &Execution<'_>,
) -> sqlx::Result<Report> {
    let mut transaction = connection.begin().await?;
    let sql = "SELECT now() FROM (SELECT set_config('TimeZone', $1, true), set_config('jit', 'off', true),
        set_config('plan_cache_mode', 'force_custom_plan', true), set_config('enable_sort', 'off', true),
        set_config('enable_mergejoin', 'off', true), set_config('enable_nestloop', 'off', true) OFFSET 0) s";
    let now = sqlx::query_scalar(sql).bind(execution.time_zone).fetch_one(&mut *transaction).await?;
    let plan = plan(&mut transaction, run, execution).await?;
    let mut report = Report {
        counts: Counts::default(),
        written: [0; 4],
        highest_fence: None,
        foreign_currency: None,
        batches: Vec::new(),
        now,
        lost_cost: Money::ZERO,
        hour_hashes: Vec::new(),
        plan,
    };
    for window in run.window.chunks(execution.chunk_hours) {
        let batch = Uuid::from_u128(execution.first_batch + report.batches.len() as u128);
        let row = chunk(&mut transaction, run, window, execution, batch, true).await?;
        report.batches.push(batch);
        add(&mut report, &row)?;
    }
    match report.foreign_currency {
        Some(_) => transaction.rollback().await?,
        None => transaction.commit().await?,
    }
    Ok(report)
}

async fn plan(connection: &mut PgConnection, run: &Run<'_>, execution: &Execution<'_>) -> sqlx::Result<Plan> {
    let row = chunk(&mut *connection, run, run.window, execution, Uuid::nil(), false).await?;
    let mut plan = Plan { hour_hashes: row.try_get("hour_hashes")?, ..Plan::default() };
    add_counts(&mut plan.counts, &mut plan.lost_cost, &row)?;
    for (count, name) in plan.written.iter_mut().zip(WRITTEN) {
        *count = row.try_get(name)?;
    }
    let column = row.columns().iter().find(|column| column.name().starts_with("cost_changes")).unwrap();
    let value: serde_json::Value = row.try_get(column.ordinal())?;
    for (changes, dimension) in plan.by_name.iter_mut().zip(["model", "auth_id"]) {
        let money = |value: &serde_json::Value| Money::parse(value.as_str().unwrap()).unwrap();
        let count = |value: &serde_json::Value| value.as_i64().unwrap();
        let change = |row: &serde_json::Value| {
            let rollups = count(&row["inserted"]) + count(&row["updated"]) + count(&row["deleted"]);
            let name = row[dimension].as_str()?.to_owned();
            Some((name, money(&row["previous"]), money(&row["total"]), rollups))
        };
        *changes = value.as_array().unwrap().iter().filter_map(change).collect();
        changes.sort();
    }
    let sql = "SELECT pg_current_xact_id_if_assigned() IS NOT NULL";
    plan.left_a_trace = sqlx::query_scalar(sql).fetch_one(connection).await?;
    Ok(plan)
}

async fn chunk(
    connection: &mut PgConnection,
    run: &Run<'_>,
    window: Window,
    execution: &Execution<'_>,
    batch: Uuid,
    write: bool,
) -> sqlx::Result<PgRow> {
    let Window { start: from, end: until } = window;
    let mut query = sqlx::query(STATEMENT)
        .bind(from)
        .bind(until)
        .bind(execution.run_id)
        .bind(batch)
        .bind(execution.fence)
        .bind(run.basis == RateBasis::Frozen)
        .bind(run.trigger == Trigger::Routine)
        .bind(run.book.currency())
        .bind(run.book.digest());
    for columns in tables(run.book, from, until) {
        let rates = |rate: fn(&Rates) -> String| -> Vec<String> {
            columns.iter().map(|row| row.rates.as_ref().map(rate).unwrap_or_default()).collect()
        };
        query = query
            .bind(columns.iter().map(|row| row.model.clone()).collect::<Vec<_>>())
            .bind(columns.iter().map(|row| row.from.unwrap_or(from).max(from)).collect::<Vec<_>>())
            .bind(columns.iter().map(|row| row.until.unwrap_or(until).min(until)).collect::<Vec<_>>())
            .bind(rates(|rates| rates.prompt.to_string()))
            .bind(rates(|rates| rates.cached.to_string()))
            .bind(rates(|rates| rates.completion.to_string()));
    }
    query
        .bind(window.hours().collect::<Vec<_>>())
        .bind(write)
        .bind(true)
        .bind(!write)
        .bind(false)
        .fetch_one(connection)
        .await
}

fn tables(book: &Pricebook, from: DateTime<Utc>, until: DateTime<Utc>) -> [Vec<RateRow>; 2] {
    let table = book.rate_table(from, until);
    [table.direct, table.derived]
}

const WRITTEN: [&str; 4] = ["rows_inserted!", "rows_updated!", "rows_deleted!", "changes_recorded!"];

fn add(report: &mut Report, row: &PgRow) -> sqlx::Result<()> {
    add_counts(&mut report.counts, &mut report.lost_cost, row)?;
    for (count, name) in report.written.iter_mut().zip(WRITTEN) {
        *count += row.try_get::<i64, _>(name)?;
    }
    // Newest chunk first.
    report.hour_hashes.splice(0..0, row.try_get::<Vec<Vec<u8>>, _>("hour_hashes")?);
    report.highest_fence = report.highest_fence.max(row.try_get("highest_fence")?);
    let foreign: Option<String> = row.try_get("foreign_currency")?;
    report.foreign_currency = report.foreign_currency.take().or(foreign);
    Ok(())
}

fn add_counts(counts: &mut Counts, lost_cost: &mut Money, row: &PgRow) -> sqlx::Result<()> {
    let Counts {
        events,
        rated_events,
        unpriced_events,
        unattributable_events,
        ambiguous_base_events,
        malformed_events,
        clamped_events,
        inserted_rollups,
        updated_rollups,
        unchanged_rollups,
        reconciled_deletions,
        shrunk_rollups,
        rate_drift_rollups,
        unexplained_rollups,
        previous_cost,
        total_cost,
    } = counts;
    for (count, name) in [
        (events, "events!"),
        (rated_events, "rated_events!"),
        (unpriced_events, "unpriced_events!"),
        (unattributable_events, "unattributable_events!"),
        (ambiguous_base_events, "ambiguous_base_events!"),
        (malformed_events, "malformed_events!"),
        (clamped_events, "clamped_events!"),
        (inserted_rollups, "inserted_rollups!"),
        (updated_rollups, "updated_rollups!"),
        (unchanged_rollups, "unchanged_rollups!"),
        (reconciled_deletions, "reconciled_deletions!"),
        (shrunk_rollups, "shrunk_rollups!"),
        (rate_drift_rollups, "rate_drift_rollups!"),
        (unexplained_rollups, "unexplained_rollups!"),
    ] {
        *count += row.try_get::<i64, _>(name)?;
    }
    for (cost, name) in
        [(previous_cost, "previous_cost!"), (total_cost, "total_cost!"), (lost_cost, "lost_cost!")]
    {
        let chunk = Money::parse(row.try_get(name)?).unwrap();
        *cost = cost.plus(chunk).unwrap();
    }
    Ok(())
}
