//! Events: up to 2,000 rollups an hour, of 250 identities, two projects each, and 40 models, of
//! which 10 are fine-tunes that follow the base model of their events.

use std::fmt::Write;

use chrono::{DateTime, TimeDelta, Utc};
use rater::domain::window::Window;
use sqlx::{AssertSqlSafe, Executor, PgConnection};

use super::Outcome;

pub const ROLLUPS_AN_HOUR: i64 = 2_000;
const FINE_TUNES: i64 = 10;
const MODELS: i64 = 40;

/// The edition of the pricebook where one is enough.
pub const EDITION: u32 = 5;

/// A window full of events, as many in each hour and in each rollup.
#[derive(Clone, Copy)]
pub struct Filled {
    pub window: Window,
    pub rollups: i64,
    pub events: i64,
}

#[derive(Clone, Copy)]
struct Density {
    rollups_an_hour: i64,
    events_a_rollup: i64,
}

/// 24 hours of at least `events` events: each of 48,000 rollups gets as many as any other, in an
/// order that jumps between them.
pub async fn fill_day(connection: &mut PgConnection, events: i64) -> Outcome<Filled> {
    let start = time("2025-06-01T00:00:00Z")?;
    let window = Window { start, end: start + TimeDelta::hours(24) };
    let rollups = ROLLUPS_AN_HOUR * window.hour_count();
    let each = (events / rollups + i64::from(events % rollups > 0)).max(1);
    fill(connection, window, Density { rollups_an_hour: ROLLUPS_AN_HOUR, events_a_rollup: each }).await
}

/// 30 days with as many rollups an hour, and an event each.
pub async fn fill_month(connection: &mut PgConnection) -> Outcome<Window> {
    let start = time("2025-04-01T00:00:00Z")?;
    let window = Window { start, end: start + TimeDelta::days(30) };
    fill(connection, window, Density { rollups_an_hour: ROLLUPS_AN_HOUR, events_a_rollup: 1 }).await?;
    Ok(window)
}

/// 90 days, with nothing else in the tables.
pub async fn fill_quarter(connection: &mut PgConnection, full: bool) -> Outcome<Filled> {
    connection.execute("TRUNCATE billing_event").await?;
    let start = time("2025-01-01T00:00:00Z")?;
    let window = Window { start, end: start + TimeDelta::days(90) };
    let (rollups_an_hour, events_a_rollup) = if full { (100, 8) } else { (20, 2) };
    fill(connection, window, Density { rollups_an_hour, events_a_rollup }).await
}

/// At least so many rows of rated usage, so many of them an hour, as runs would leave them.
pub async fn fill_rated(connection: &mut PgConnection, rows: i64, rows_an_hour: i64) -> Outcome<Filled> {
    let hours = (rows + rows_an_hour - 1) / rows_an_hour;
    let start = time("2025-01-01T00:00:00Z")?;
    let window = Window { start, end: start + TimeDelta::hours(hours) };
    let sql = format!(
        "INSERT INTO rated_usage (id, auth_id, resource_id, model_id, window_start, window_end,
             prompt_tokens, cached_tokens, completion_tokens, billable_prompt_tokens, event_count, cost,
             applied_prompt_rate, applied_cached_rate, applied_completion_rate, currency_code,
             pricebook_digest, run_id, fence, rated_at)
         SELECT md5(format('%s-%s', n, h)), format('auth-%s', n % 250), format('project-%s', n / 250 % 2),
             format('acme/model-%s', n / 500), at, at + interval '1 hour',
             100000 + n, 40000, 10000, 60000 + n, 100, (60000 + n) * 0.000003 + 40000 * 0.0000003 + 10000 * 0.000015,
             0.000003, 0.0000003, 0.000015, 'USD', repeat('0', 64), gen_random_uuid(), 1, now()
         FROM generate_series(0, {hours} - 1) h,
             LATERAL (SELECT '{start}'::timestamptz + make_interval(hours => h) AS at) t,
             generate_series(1, {rows_an_hour}) n",
        start = start.to_rfc3339(),
    );
    connection.execute(AssertSqlSafe(sql)).await?;
    connection.execute("VACUUM ANALYZE rated_usage").await?;
    let rollups = hours * rows_an_hour;
    Ok(Filled { window, rollups, events: rollups * 100 })
}

async fn fill(connection: &mut PgConnection, window: Window, density: Density) -> Outcome<Filled> {
    let rollups = density.rollups_an_hour;
    let an_hour = rollups * density.events_a_rollup;
    let events = an_hour * window.hour_count();
    let sql = format!(
        "INSERT INTO billing_event (request_id, auth_id, user_id, resource_id, resource_type, model,
             base_model, prompt_tokens, cached_tokens, completion_tokens, finish_reason, aborted,
             event_ts, created_at)
         SELECT format('req-%s-%s', extract(epoch FROM at), n),
             format('auth-%s', rollup % 250), format('user-%s', rollup % 250),
             format('project-%s', rollup / 1000), 'project',
             CASE WHEN rollup % {MODELS} < {FINE_TUNES} THEN format('ft:acme:%s', rollup % {MODELS})
                 ELSE format('acme/model-%s', rollup % {MODELS}) END,
             CASE WHEN rollup % {MODELS} < {FINE_TUNES}
                 THEN format('acme/model-%s', {FINE_TUNES} + rollup % 30) END,
             200 + n * 31 % 3000, n * 17 % 200, n * 13 % 800, 'stop', false, at, at
         FROM (
             SELECT n, (n * 1237 + n / {rollups} * 911) % {rollups} AS rollup,
                 '{start}'::timestamptz + (n / {an_hour}) * interval '1 hour'
                     + n % {an_hour} * (interval '1 hour' / {an_hour}) AS at
             FROM generate_series(0::bigint, {events} - 1) n
         ) e",
        start = window.start.to_rfc3339(),
    );
    connection.execute(AssertSqlSafe(sql)).await?;
    connection.execute("VACUUM ANALYZE billing_event").await?;
    Ok(Filled { window, rollups: rollups * window.hour_count(), events })
}

/// Prices for all of them, other ones in each edition.
pub fn pricebook(edition: u32) -> String {
    let mut text = String::from("version: 1\nper: 1000000\nbase_models:\n");
    for model in FINE_TUNES..MODELS {
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "  \"acme/model-{model}\": {{prompt: \"{model}\", cached: \"0.{model}\", completion: \"{model}.{edition}\"}}"
        );
    }
    text + "fine_tune_premium: {policy: multiplier, factor: \"1.5\"}\n"
}

fn time(text: &str) -> Outcome<DateTime<Utc>> {
    Ok(text.parse()?)
}
