//! Events: 2,000 rollups an hour, of 250 identities, two projects each, and 40 models, of which
//! 10 are fine-tunes that follow the base model of their events.

use std::fmt::Write;

use chrono::{DateTime, TimeDelta, Utc};
use rater::domain::window::Window;
use sqlx::{AssertSqlSafe, Executor, PgConnection};

use super::Outcome;

pub const ROLLUPS_AN_HOUR: i64 = 2_000;
const FINE_TUNES: i64 = 10;
const MODELS: i64 = 40;

/// What is measured for speed.
pub struct Day {
    pub window: Window,
    pub events: i64,
}

impl Day {
    pub fn rollups(&self) -> i64 {
        ROLLUPS_AN_HOUR * self.window.hour_count()
    }
}

/// 24 hours of at least `events` events: each of 48,000 rollups gets as many as any other, in an
/// order that jumps between them.
pub async fn fill_day(connection: &mut PgConnection, events: i64) -> Outcome<Day> {
    let start = time("2025-06-01T00:00:00Z")?;
    let window = Window { start, end: start + TimeDelta::hours(24) };
    let rollups = ROLLUPS_AN_HOUR * window.hour_count();
    let each = (events / rollups + i64::from(events % rollups > 0)).max(1);
    fill(connection, window, each).await?;
    Ok(Day { window, events: rollups * each })
}

/// 30 days with as many rollups an hour, and an event each.
pub async fn fill_month(connection: &mut PgConnection) -> Outcome<Window> {
    let start = time("2025-04-01T00:00:00Z")?;
    let window = Window { start, end: start + TimeDelta::days(30) };
    fill(connection, window, 1).await?;
    Ok(window)
}

async fn fill(connection: &mut PgConnection, window: Window, each: i64) -> Outcome<()> {
    let an_hour = ROLLUPS_AN_HOUR * each;
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
             SELECT n, (n * 1237 + n / {ROLLUPS_AN_HOUR} * 911) % {ROLLUPS_AN_HOUR} AS rollup,
                 '{start}'::timestamptz + (n / {an_hour}) * interval '1 hour'
                     + n % {an_hour} * (interval '1 hour' / {an_hour}) AS at
             FROM generate_series(0::bigint, {events} - 1) n
         ) e",
        start = window.start.to_rfc3339(),
        events = an_hour * window.hour_count(),
    );
    connection.execute(AssertSqlSafe(sql)).await?;
    connection.execute("VACUUM ANALYZE billing_event").await?;
    Ok(())
}

/// Prices for all of them.
pub fn pricebook() -> String {
    let mut text = String::from("version: 1\nper: 1000000\nbase_models:\n");
    for model in FINE_TUNES..MODELS {
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "  \"acme/model-{model}\": {{prompt: \"{model}\", cached: \"0.{model}\", completion: \"{model}.5\"}}"
        );
    }
    text + "fine_tune_premium: {policy: multiplier, factor: \"1.5\"}\n"
}

fn time(text: &str) -> Outcome<DateTime<Utc>> {
    Ok(text.parse()?)
}
