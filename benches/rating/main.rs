//! How fast a window is rated, in how much memory, how evenly, and what is left for others
//! meanwhile (`make bench`).
//!
//! On a private PostgreSQL (not durable, everything cached, no parallel workers, JIT off) with
//! 24 hours of events in 48,000 rollups, it holds the rating statement against the bare
//! aggregate of the same events, which is the least that any rating must do. Then it lets an
//! optimised build of the service rate windows of 1 hour, 24 hours and 30 days, and prints its
//! largest memory; and reads a million rows through it, against `psql`'s `\copy` of the same rows.
//! Then it takes events in through RecordEvents, against `COPY` of the same rows.
//! Last, the service rates 90 days: whether its chunks take as long in the end as in the beginning,
//! how long the calls of others take beside it and without it, and how soon a follower hears of
//! what it changes.
//!
//! Then small unary calls, with and without mutual TLS and telemetry. At the end, how fast a spool takes
//! events in, which needs no database.
//!
//! RATER_BENCH_EVENTS (6000000) and RATER_BENCH_ROUNDS (7) make it quicker to try, and with
//! `cargo bench --bench rating -- intake`, `-- unary` or `-- spool` that part is measured alone.

#![allow(missing_docs, clippy::float_arithmetic)]

mod backfill;
mod bulk;
mod data;
mod intake;
mod lag;
mod memory;
mod pace;
mod room;
mod service;
mod speed;
mod spool;
mod unary;

use std::env::VarError;
use std::time::Duration;

use rater::domain::pricebook::{self, Pricebook};
use rater::embedded_postgres::{EmbeddedPostgres, Options};
use rater::service::schema;
use rater::store::{Db, DbOptions};
use sqlx::{Connection, Executor, PgConnection};

use backfill::Backfills;

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// The limits hold for no fewer events than these.
const FULL: i64 = 6_000_000;

fn main() -> Outcome<()> {
    let only = |part: &str| std::env::args().any(|argument| argument == part);
    if only("spool") {
        return spool::measure();
    }
    let events = number("RATER_BENCH_EVENTS", FULL)?;
    let rounds = number("RATER_BENCH_ROUNDS", 7)?.max(1);
    let dir = tempfile::Builder::new().prefix("rater-bench-").tempdir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if only("unary") {
        return runtime.block_on(unary::measure(dir.path(), rounds));
    }
    if only("intake") {
        return runtime.block_on(intake::measure(dir.path(), events >= FULL, rounds));
    }
    let postgres = start(dir.path())?;
    let result = runtime.block_on(measure(&postgres, dir.path(), events, rounds));
    drop(runtime);
    postgres.stop();
    result?;
    spool::measure()
}

async fn measure(
    postgres: &EmbeddedPostgres,
    dir: &std::path::Path,
    events: i64,
    rounds: i64,
) -> Outcome<()> {
    let url = &postgres.url();
    // One connection for work: its process is the one whose time is taken.
    let options =
        DbOptions { url: url.clone(), max_connections: 1, acquire_timeout: Duration::from_secs(60) };
    let db = Db::new(&options)?;
    schema::up(&db).await?;
    let mut connection = PgConnection::connect(url).await?;
    let version: String = sqlx::query_scalar("SHOW server_version").fetch_one(&mut connection).await?;
    println!("PostgreSQL {version}, {} cores, rater {}", cores(), env!("CARGO_PKG_VERSION"));
    let day = data::fill_day(&mut connection, events).await?;
    speed::measure(&db, &mut connection, day, &book()?, rounds).await?;
    let month = data::fill_month(&mut connection).await?;
    memory::measure(url, dir, &mut connection, month).await?;
    let full = events >= FULL;
    bulk::measure(postgres, dir, &mut connection, full, rounds).await?;
    intake::measure(dir, full, rounds).await?;
    let quarter = data::fill_quarter(&mut connection, full).await?;
    let mut backfills = Backfills::start(url, dir, &mut connection, quarter).await?;
    pace::measure(&mut backfills, full, rounds).await?;
    room::measure(&mut backfills, full).await?;
    lag::measure(&mut backfills, full).await?;
    drop(backfills);
    unary::measure(dir, rounds).await
}

/// As before the first run.
async fn empty(connection: &mut PgConnection) -> Outcome<()> {
    let sql = "TRUNCATE rated_usage, rated_usage_change, change_batch, rating_anomaly, rating_run_chunk,
        rating_run, rating_lease";
    connection.execute(sql).await?;
    Ok(())
}

/// The end of a line.
fn verdict(ratio: f64, limit: Option<f64>) -> String {
    limit.map_or_else(String::new, |limit| {
        format!("   {} {limit}", if ratio <= limit { "within" } else { "OVER" })
    })
}

fn start(dir: &std::path::Path) -> Outcome<EmbeddedPostgres> {
    let settings = [
        ("shared_buffers", "2GB"),
        ("maintenance_work_mem", "256MB"),
        ("max_wal_size", "16GB"),
        ("checkpoint_timeout", "1h"),
        ("autovacuum", "off"),
        ("jit", "off"),
        ("max_parallel_workers_per_gather", "0"),
    ];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    Ok(EmbeddedPostgres::start(Options { dir: dir.join("postgres"), durable: false, settings })?)
}

fn book() -> Outcome<Pricebook> {
    pricebook::parse(&data::pricebook(data::EDITION))
        .book
        .ok_or_else(|| "the bench's pricebook is refused".into())
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn number(name: &str, default: i64) -> Outcome<i64> {
    match std::env::var(name) {
        Ok(text) => text.parse().map_err(|_| format!("{name} must be a whole number").into()),
        Err(VarError::NotPresent) => Ok(default),
        Err(error) => Err(format!("{name}: {error}").into()),
    }
}
