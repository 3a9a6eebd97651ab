//! The sums against the same in plain Rust, of a random table.

use std::collections::BTreeMap;

use chrono::{DateTime, Datelike, TimeDelta, Timelike, Utc};
use rater::proto::*;
use sqlx::AssertSqlSafe;

use super::{AUTH, DAY, HOUR, MODEL, MONTH, RESOURCE, all, by, summarize};
use crate::events::Random;
use crate::harness::{empty_database, event, soak};
use crate::rig::{BOOK, Rig, backfill, hour, timestamp};

/// A table as it was before us: what another program did not know is NULL.
const ADOPTED: &str = "CREATE TABLE rated_usage (
    id text PRIMARY KEY, auth_id varchar(64) NOT NULL, resource_id varchar(64) NOT NULL,
    model_id varchar(255) NOT NULL, window_start timestamptz NOT NULL, prompt_tokens bigint,
    cached_tokens bigint, completion_tokens bigint, event_count bigint, cost numeric, currency_code char(3))";

/// The end of a February and the beginning of a March, with a change of the clock in New York.
const FROM: &str = "2026-02-27T22:00:00Z";
const HOURS: u64 = 11 * 24;

#[derive(Debug, Clone)]
struct Row {
    auth_id: &'static str,
    resource_id: &'static str,
    model_id: &'static str,
    window_start: DateTime<Utc>,
    /// Prompt, cached and completion tokens, and events.
    counts: [Option<i64>; 4],
    /// In units of 10^-12: a driver's decimal would round what PostgreSQL keeps.
    cost: Option<i128>,
    currency: Option<&'static str>,
}

/// Ids that a locale orders otherwise than bytes do.
fn row(random: &mut Random) -> Row {
    let mut one_of = |values: [&'static str; 4]| values[random.below(4) as usize];
    let auth_id = one_of(["auth-B", "auth-a", "é", "auth_B"]);
    let resource_id = one_of(["r-1", "r_1", "R", "r"]);
    let model_id = one_of(["acme/large", "acme/small", "ft:x", "🎈"]);
    let since: DateTime<Utc> = FROM.parse().unwrap();
    let window_start = since + TimeDelta::hours(random.below(HOURS) as i64);
    let counts = [(); 4].map(|()| (random.below(20) > 0).then(|| random.below(1 << 33) as i64 * 999));
    // Of up to 30 digits and 12 places, and now and then nothing.
    let cost = i128::from(random.below(1 << 31)) * i128::from(random.below(1 << 31) + 1);
    let cost = cost * 10_i128.pow(random.below(13) as u32);
    let cost = (random.below(20) > 0).then_some(cost);
    let currency = [Some("USD"), Some("USD"), Some("EUR"), None][random.below(4) as usize];
    Row { auth_id, resource_id, model_id, window_start, counts, cost, currency }
}

const UNIT: i128 = 1_000_000_000_000;

/// As a canonical decimal.
fn text(cost: i128) -> String {
    let text = format!("{}.{:012}", cost / UNIT, cost % UNIT);
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

fn units(text: &str) -> i128 {
    let (whole, places) = text.split_once('.').unwrap_or((text, ""));
    format!("{whole}{places:0<12}").parse().unwrap()
}

/// So many rows, each of another key.
fn table(random: &mut Random, count: usize) -> Vec<Row> {
    let mut rows = BTreeMap::new();
    while rows.len() < count {
        let row = row(random);
        rows.insert((row.auth_id, row.resource_id, row.model_id, row.window_start), row);
    }
    rows.into_values().collect()
}

/// A service over an adopted table of these rows, in a database whose clock is New York's.
async fn adopted(rows: &[Row]) -> Rig {
    let db = empty_database().await;
    let name: String = sqlx::query_scalar("SELECT current_database()").fetch_one(db.pool()).await.unwrap();
    let sql = format!("ALTER DATABASE {name} SET timezone = 'America/New_York'; {ADOPTED}");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(db.pool()).await.unwrap();
    for (n, row) in rows.iter().enumerate() {
        sqlx::query(
            "INSERT INTO rated_usage VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10::text::numeric, $11)",
        )
        .bind(n.to_string())
        .bind(row.auth_id)
        .bind(row.resource_id)
        .bind(row.model_id)
        .bind(row.window_start)
        .bind(row.counts[0])
        .bind(row.counts[1])
        .bind(row.counts[2])
        .bind(row.counts[3])
        .bind(row.cost.map(text))
        .bind(row.currency)
        .execute(db.pool())
        .await
        .unwrap();
    }
    Rig::on(db, BOOK, &["--migrate"]).await
}

fn period_start(period: i32, time: DateTime<Utc>) -> DateTime<Utc> {
    let hour = time.with_minute(0).unwrap();
    match period {
        HOUR => hour,
        DAY => hour.with_hour(0).unwrap(),
        MONTH => hour.with_hour(0).unwrap().with_day(1).unwrap(),
        _ => DateTime::UNIX_EPOCH,
    }
}

fn matches(filter: &UsageFilter, row: &Row) -> bool {
    let seconds = row.window_start.timestamp();
    let any = |ids: &[String], id: &str| ids.is_empty() || ids.iter().any(|wanted| wanted == id);
    filter.since.as_ref().is_none_or(|since| seconds >= since.seconds)
        && filter.until.as_ref().is_none_or(|until| seconds < until.seconds)
        && any(&filter.auth_ids, row.auth_id)
        && any(&filter.resource_ids, row.resource_id)
        && any(&filter.model_ids, row.model_id)
}

/// Identity, resource and model; period; currency.
type Key = ((&'static str, &'static str, &'static str), DateTime<Utc>, &'static str);
type Sum = ([i64; 4], i128);

/// What the contract says, by key.
fn truth(rows: &[Row], filter: &UsageFilter, group_by: &[i32]) -> Vec<UsageSummary> {
    let finest = group_by.iter().copied().filter(|by| *by >= HOUR).min().unwrap_or_default();
    let id = |by, id: &'static str| if group_by.contains(&by) { id } else { "" };
    let mut sums: BTreeMap<Key, Sum> = BTreeMap::new();
    for row in rows.iter().filter(|row| matches(filter, row)) {
        let ids = (id(AUTH, row.auth_id), id(RESOURCE, row.resource_id), id(MODEL, row.model_id));
        let key = (ids, period_start(finest, row.window_start), row.currency.unwrap_or_default());
        let (counts, cost) = sums.entry(key).or_default();
        for (sum, count) in counts.iter_mut().zip(row.counts) {
            *sum += count.unwrap_or_default();
        }
        *cost += row.cost.unwrap_or_default();
    }
    if sums.is_empty() && group_by.is_empty() {
        return vec![UsageSummary { cost: "0".into(), ..Default::default() }];
    }
    let summary = |(key, (counts, cost)): (Key, Sum)| {
        let ((auth_id, resource_id, model_id), period, currency_code) = key;
        UsageSummary {
            auth_id: auth_id.into(),
            resource_id: resource_id.into(),
            model_id: model_id.into(),
            period_start: (finest != 0).then(|| timestamp(&period.to_rfc3339())),
            prompt_tokens: counts[0],
            cached_tokens: counts[1],
            completion_tokens: counts[2],
            event_count: counts[3],
            currency_code: currency_code.into(),
            cost: text(cost),
        }
    };
    sums.into_iter().map(summary).collect()
}

/// The dearest first, then by key.
fn dearest(mut summaries: Vec<UsageSummary>) -> Vec<UsageSummary> {
    summaries.sort_by_key(|summary| std::cmp::Reverse(units(&summary.cost)));
    summaries
}

/// Everything, a stretch of time, some identities, and a mix that lets little or nothing through.
fn filters(random: &mut Random) -> [UsageFilter; 5] {
    let strings = |values: &[&str]| values.iter().map(|value| value.to_string()).collect::<Vec<_>>();
    let since: DateTime<Utc> = FROM.parse().unwrap();
    let mut at = |from: u64| {
        Some(timestamp(&(since + TimeDelta::hours((from + random.below(60)) as i64)).to_rfc3339()))
    };
    let none = UsageFilter::default;
    [
        none(),
        UsageFilter { since: at(10), until: at(100), ..none() },
        UsageFilter { auth_ids: strings(&["é", "auth-B", "nobody"]), ..none() },
        UsageFilter {
            since: at(20),
            resource_ids: strings(&["r", "R"]),
            model_ids: strings(&["ft:x", "🎈"]),
            ..none()
        },
        UsageFilter { until: at(0), auth_ids: strings(&["auth-b"]), ..none() },
    ]
}

#[tokio::test]
async fn sums_equal_those_of_all_rows_by_every_set_of_dimensions_in_pages_of_any_size() {
    let seed = if soak() { chrono::Utc::now().timestamp() as u64 } else { 20_260_601 };
    let mut random = Random(seed);
    let count = if soak() { 3_000 } else { 250 };
    let rows = table(&mut random, count);
    let rig = adopted(&rows).await;
    let (mut asked, mut pages_read) = (0, 0);
    for filter in filters(&mut random) {
        for ids in 0..8 {
            for period in [0, HOUR, DAY, MONTH] {
                let mut group_by: Vec<i32> = [AUTH, RESOURCE, MODEL]
                    .into_iter()
                    .enumerate()
                    .filter_map(|(bit, by)| (ids & (1 << bit) != 0).then_some(by))
                    .chain((period != 0).then_some(period))
                    .collect();
                // A set: neither the order counts, nor how often one is named.
                group_by.extend_from_within(..group_by.len().min(1));
                random.shuffle(&mut group_by);
                let expected = truth(&rows, &filter, &group_by);
                let ask = SummarizeRatedUsageRequest { filter: Some(filter.clone()), ..by(&group_by) };
                for page_size in [0, 8 + random.below(60) as i32] {
                    let (summaries, pages) =
                        all(&rig, SummarizeRatedUsageRequest { page_size, ..ask.clone() }).await;
                    assert_eq!(summaries, expected, "seed {seed}: {ask:?} in pages of {page_size}");
                    let size = if page_size == 0 { 1_000 } else { page_size as usize };
                    assert_eq!(pages, expected.len().div_ceil(size).max(1), "seed {seed}: {ask:?}");
                    pages_read += pages;
                }
                let top = 1 + random.below(40) as i32;
                let answer = summarize(&rig, SummarizeRatedUsageRequest { top, ..ask.clone() }).await;
                let mut expected = dearest(expected);
                expected.truncate(top as usize);
                assert_eq!(answer.summaries, expected, "seed {seed}: the dearest {top} of {ask:?}");
                assert_eq!(answer.next_page_token, "");
                asked += 1;
            }
        }
    }
    println!("seed {seed}: {count} rows, {asked} questions, {pages_read} pages");
}

#[tokio::test]
async fn currencies_are_never_added_up_and_a_row_without_one_is_of_none() {
    let at: DateTime<Utc> = FROM.parse().unwrap();
    let row = |currency, cost| Row {
        auth_id: "auth-a",
        resource_id: "r",
        model_id: "m",
        window_start: at,
        counts: [Some(1), None, Some(2), None],
        cost,
        currency,
    };
    let one = Some(UNIT);
    // A key is unique; the rows differ by their hours.
    let rows: Vec<Row> =
        [row(Some("USD"), one), row(Some("EUR"), one), row(None, one), row(Some("USD"), None)]
            .into_iter()
            .enumerate()
            .map(|(n, row)| Row { window_start: at + TimeDelta::hours(n as i64), ..row })
            .collect();
    let rig = adopted(&rows).await;
    for page_size in 0..4 {
        let (totals, _) = all(&rig, SummarizeRatedUsageRequest { page_size, ..by(&[]) }).await;
        let told: Vec<_> = totals
            .iter()
            .map(|total| {
                (total.currency_code.as_str(), total.cost.as_str(), total.prompt_tokens, total.event_count)
            })
            .collect();
        assert_eq!(told, [("", "1", 1, 0), ("EUR", "1", 1, 0), ("USD", "1", 2, 0)]);
    }
}

#[tokio::test]
async fn days_and_months_are_utc_whatever_the_databases_time_zone() {
    let hours =
        ["2026-02-28T23:00:00Z", "2026-03-01T00:00:00Z", "2026-03-08T06:00:00Z", "2026-03-08T07:00:00Z"];
    let rows: Vec<Row> = hours
        .iter()
        .map(|hour| Row { window_start: hour.parse().unwrap(), currency: Some("USD"), ..row(&mut Random(7)) })
        .collect();
    let rig = adopted(&rows).await;
    let periods = async |period| {
        let (summaries, _) = all(&rig, by(&[period])).await;
        let start = |summary: &UsageSummary| {
            DateTime::from_timestamp(summary.period_start.unwrap().seconds, 0).unwrap()
        };
        summaries.iter().map(|summary| start(summary).format("%m-%dT%H").to_string()).collect::<Vec<_>>()
    };
    assert_eq!(periods(MONTH).await, ["02-01T00", "03-01T00"]);
    assert_eq!(periods(DAY).await, ["02-28T00", "03-01T00", "03-08T00"]);
    assert_eq!(periods(HOUR).await, ["02-28T23", "03-01T00", "03-08T06", "03-08T07"]);
    // Of two periods the finer one counts.
    let finer = all(&rig, by(&[MONTH, HOUR, DAY])).await.0;
    assert_eq!(finer, all(&rig, by(&[HOUR])).await.0);
}

#[tokio::test]
async fn the_total_of_no_rows_is_nothing_and_along_dimensions_there_is_none() {
    let rig = Rig::with_events([event("a")]).await;
    let nothing = UsageSummary { cost: "0".into(), ..Default::default() };
    for top in [0, 5] {
        let total = SummarizeRatedUsageRequest { top, ..by(&[]) };
        assert_eq!(summarize(&rig, total).await.summaries, std::slice::from_ref(&nothing));
        assert_eq!(summarize(&rig, SummarizeRatedUsageRequest { top, ..by(&[MODEL]) }).await.summaries, []);
    }
    rig.rated(backfill(10, 11)).await;
    let total = &summarize(&rig, by(&[])).await.summaries[0];
    assert_eq!((total.cost.as_str(), total.currency_code.as_str(), total.event_count), ("0.00045", "USD", 1));
    let (since, until) = (Some(timestamp(&hour(11))), Some(timestamp(&hour(12))));
    let filter = Some(UsageFilter { since, until, ..Default::default() });
    let of_another_hour = SummarizeRatedUsageRequest { filter, ..by(&[]) };
    assert_eq!(summarize(&rig, of_another_hour).await.summaries, [nothing]);
}
