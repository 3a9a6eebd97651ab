//! Tables that are there already, with millions of rows, are adopted while a client reads and writes
//! them all the time: how long it ever waits is measured. Then what is in them is audited, by
//! processes that are killed.
//!
//! The long version (`RATER_SOAK=1`) has 10 million events and a million rollups; the short one is
//! told by the locks that it sees what the long one would be by the clock.

mod client;
mod locks;
mod tables;

use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgPool;

use self::client::Client;
use self::locks::Locks;
use self::tables::Size;
use crate::harness::{OwnServer, Process, own_server, rater, run_in, soak, temp_dir};
use crate::rig::BOOK;

/// What no client may wait for longer.
const LONGEST: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(3_600);

struct Ground {
    server: OwnServer,
    pool: PgPool,
    size: Size,
}

impl Ground {
    async fn filled(size: Size) -> Ground {
        let settings = [("shared_buffers", "256MB"), ("max_wal_size", "4GB"), ("autovacuum", "on")];
        let server = own_server(&settings).await;
        let pool = PgPool::connect(&server.postgres.url()).await.unwrap();
        let begun = Instant::now();
        tables::fill(&pool, size).await;
        let Size { events, rollups } = size;
        println!("{events} events and {rollups} rollups were there after {:.0?}", begun.elapsed());
        Ground { server, pool, size }
    }

    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = rater();
        command.args(arguments).env("RATER_DATABASE_URL", self.server.postgres.url()).stdin(Stdio::null());
        command
    }

    async fn number(&self, sql: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(sql.to_string())).fetch_one(&self.pool).await.unwrap()
    }

    /// Brings the schema up beside the client.
    async fn migrate(&self) -> Duration {
        let begun = Instant::now();
        let mut process = Process::spawn(self.command(&["migrate", "up"]));
        let status = process.wait(PATIENCE).await;
        assert!(status.success(), "{:?}", process.logs());
        begun.elapsed()
    }

    /// Audits, kills that half-way, and audits again. Gives what the second one says.
    async fn audit(&self, options: &[&str]) -> Value {
        let arguments = [&["audit", "-o", "json"], options].concat();
        let mut process = Process::spawn(self.command(&arguments));
        let begun = Instant::now();
        let half = "SELECT count(*) FROM table_job WHERE job = 'audit' AND state = 'running'
            AND rows_done > 0 AND rows_done * 3 > rows_all";
        while self.number(half).await == 0 {
            assert!(process.ended().is_none() && begun.elapsed() < PATIENCE, "{:?}", process.stdout());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        process.signal(Signal::SIGKILL);
        process.wait(PATIENCE).await;
        let killed = self.number("SELECT rows_done FROM table_job WHERE job = 'audit'").await;
        // Until the dead one's claim is over.
        let begun = Instant::now();
        let output = loop {
            let url = self.server.postgres.url();
            let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
            let command = move || {
                let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
                run_in(&[("RATER_DATABASE_URL", &url)], &arguments, "")
            };
            let output = tokio::task::spawn_blocking(command).await.unwrap();
            if !output.stderr.contains("another process") {
                break output;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "{output:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        assert_eq!((output.code(), output.stderr.as_str()), (Some(2), ""), "{output:?}");
        let said: Value = serde_json::from_str(&output.stdout).unwrap();
        let job = &said["job"];
        let all: i64 = job["rows_done"].as_str().unwrap().parse().unwrap();
        assert!(killed > 0 && killed < all, "{killed} of {all}");
        println!(
            "rater audit {}: killed after {killed} rows, gone on with to {all}, {} a second",
            options.first().unwrap_or(&""),
            job["rows_per_second"].as_str().unwrap()
        );
        said
    }
}

fn totals(said: &Value) -> Vec<String> {
    let line = |total: &Value| {
        ["finding", "currency_code", "rows", "over_billed", "under_billed"]
            .map(|name| total[name].as_str().unwrap().to_string())
            .join(" ")
    };
    said["totals"].as_array().unwrap().iter().map(line).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_with_millions_of_rows_are_adopted_while_a_client_reads_and_writes() {
    let size = match soak() {
        true => Size { events: 10_000_000, rollups: 1_000_000 },
        false => Size { events: 200_000, rollups: 20_000 },
    };
    let ground = Ground::filled(size).await;
    let checksum = tables::checksum(&ground.pool).await;
    let client = Client::start(&ground.server.postgres.url()).await;
    tokio::time::sleep(Duration::from_secs(if soak() { 10 } else { 1 })).await;
    println!("before: {}", client.so_far());

    let locks = Locks::watch(&ground.server.postgres.url()).await;
    let took = ground.migrate().await;
    let held = locks.stop().await;
    let migrating = client.so_far();
    println!("rater migrate up took {took:.1?}; meanwhile: {migrating}; {held}");
    assert!(migrating.longest() < LONGEST, "a client waited: {migrating}");
    held.assert_short();
    assert_eq!(tables::checksum(&ground.pool).await, checksum, "not a row is lost or changed");

    if !soak() {
        tables::slow_batches(&ground.pool).await;
    }
    let said = ground.audit(&[]).await;
    let unstated = format!("unstated  {} 0 0", ground.size.rollups - 1);
    let foreign = format!("foreign_id  {} 0 0", ground.size.rollups - 1);
    assert_eq!(totals(&said), ["cost  10 0.1 0", &foreign, &unstated]);
    let dir = temp_dir();
    let book = dir.path().join("book.yaml");
    std::fs::write(&book, BOOK).unwrap();
    let said = ground.audit(&["--from-events", "--pricebook", book.to_str().unwrap()]).await;
    let found: Vec<String> = totals(&said).into_iter().filter(|line| line.starts_with("events_")).collect();
    assert_eq!(found, ["events_cost  10 0.1 0", "events_missing_row USD 1 0 0.00342"]);
    let auditing = client.stop().await;
    println!("while it was audited: {auditing}");
    assert!(auditing.longest() < LONGEST, "a client waited: {auditing}");
}
