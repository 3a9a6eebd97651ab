//! The reference consumer, `examples/invoice_ledger`: its totals are those of rated usage to the
//! last digit, whatever is written meanwhile, and wherever it is killed. Its rules are tested as
//! they stand in its files.

mod copying;
mod deliveries_killed;
mod delivering;
mod following;
mod kills;

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgPool;

use crate::harness::{Output, TestDb, empty_database};
use crate::rig::{BOOK, Rig};

#[allow(dead_code, reason = "it has its own main")]
#[path = "../../../examples/invoice_ledger/line.rs"]
mod line;
#[allow(dead_code, reason = "the same")]
#[path = "../../../examples/invoice_ledger/meter.rs"]
mod meter;

/// Rollups of the ledger that are not what their lines add up to, and those that have a negative
/// count or cost.
const FAULTS: &str = "
    WITH billed AS (SELECT auth_id, resource_id, model_id, window_start, price_class, currency,
            sum(prompt_tokens) AS prompt_tokens,
            sum(cached_tokens) AS cached_tokens, sum(completion_tokens) AS completion_tokens,
            sum(event_count) AS event_count, sum(amount) AS cost
        FROM ledger_line GROUP BY 1, 2, 3, 4, 5, 6),
    said AS (SELECT * FROM billed
        WHERE (prompt_tokens, cached_tokens, completion_tokens, event_count, cost) <> (0, 0, 0, 0, 0)),
    held AS (SELECT auth_id, resource_id, model_id, window_start, price_class, currency,
            prompt_tokens::numeric, cached_tokens::numeric, completion_tokens::numeric, event_count::numeric, cost
        FROM rollup)
    SELECT (SELECT count(*) FROM (TABLE said EXCEPT TABLE held) unexplained)
        + (SELECT count(*) FROM (TABLE held EXCEPT TABLE said) unbilled)
        + (SELECT count(*) FROM said WHERE event_count < 0 OR cost < 0)";

/// A ledger in a database of its own, and the consumer that keeps it.
struct Consumer {
    db: TestDb,
}

impl Consumer {
    async fn new() -> Consumer {
        Consumer { db: empty_database().await }
    }

    fn pool(&self) -> &PgPool {
        self.db.pool()
    }

    /// The consumer's command, in an environment without settings from the outside.
    fn command(&self, ledger_url: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            let setting = ["RATER_", "LEDGER_", "PG"].iter().any(|prefix| name.starts_with(prefix));
            if setting || name == "DATABASE_URL" {
                command.env_remove(&*name);
            }
        }
        command.args(arguments).env("LEDGER_DATABASE_URL", ledger_url);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs one to its end.
    async fn run(&self, server: &str, arguments: &[&str]) -> Output {
        let mut command = self.command(&self.db.url, arguments);
        command.env("RATER_SERVER", server);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Output { status: output.status, stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Standard output of one that succeeds.
    async fn did(&self, server: &str, arguments: &[&str]) -> String {
        let output = self.run(server, arguments).await;
        assert_eq!(output.code(), Some(0), "{arguments:?}: {}", output.stderr);
        output.stdout
    }

    /// One of which the one line of its error is wanted.
    async fn refused(&self, server: &str, arguments: &[&str]) -> String {
        let output = self.run(server, arguments).await;
        assert_eq!(output.code(), Some(1), "{arguments:?}: {}", output.stdout);
        output.stderr.lines().last().unwrap_or_default().to_string()
    }

    /// Follows to the end of the feed.
    async fn catch_up(&self, rig: &Rig) {
        self.did(&rig.service.url(), &["follow", "--once"]).await;
    }

    async fn sql(&self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql.to_string())).execute(self.pool()).await.unwrap();
    }

    async fn number(&self, sql: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(sql.to_string())).fetch_one(self.pool()).await.unwrap()
    }

    async fn texts(&self, sql: &str) -> Vec<String> {
        sqlx::query_scalar(AssertSqlSafe(sql.to_string())).fetch_all(self.pool()).await.unwrap()
    }

    async fn lines(&self) -> i64 {
        self.number("SELECT count(*) FROM ledger_line").await
    }

    /// Its totals, per customer and in all, are those of rated usage to the last digit; so is each
    /// rollup that it holds; and each is the sum of its lines.
    async fn assert_equals(&self, rig: &Rig) {
        const TOTALS: &str =
            "SELECT concat_ws(' ', auth_id, coalesce(currency_code, ''), trim_scale(coalesce(sum(cost), 0)),
                coalesce(sum(event_count), 0), sum(prompt_tokens), sum(cached_tokens), sum(completion_tokens))
            FROM rated_usage GROUP BY GROUPING SETS ((auth_id, currency_code), (currency_code))";
        let printed = self.did("", &["totals", "--json"]).await;
        let mut billed: Vec<String> = printed.lines().map(total).collect();
        // What was billed and taken back entirely.
        billed.retain(|total| !total.ends_with(" 0 0 0 0 0"));
        let mut rated: Vec<String> = sqlx::query_scalar(TOTALS).fetch_all(rig.pool()).await.unwrap();
        billed.sort();
        rated.sort();
        assert_eq!(billed, rated, "the totals differ");
        const ROWS: &str = "concat_ws(' ', auth_id, resource_id, model_id, price_class,
            extract(epoch FROM window_start)::numeric, coalesce(prompt_tokens, 0), coalesce(cached_tokens, 0),
            coalesce(completion_tokens, 0), coalesce(event_count, 0), trim_scale(coalesce(cost, 0)))";
        let held = self.texts(&format!("SELECT {ROWS} || ' ' || currency FROM rollup ORDER BY 1")).await;
        let rated =
            format!("SELECT {ROWS} || ' ' || coalesce(currency_code, '') FROM rated_usage ORDER BY 1");
        let rated: Vec<String> =
            sqlx::query_scalar(AssertSqlSafe(rated)).fetch_all(rig.pool()).await.unwrap();
        assert_eq!(held, rated, "the rollups differ");
        assert_eq!(self.number(FAULTS).await, 0, "the lines do not add up");
        self.did("", &["check"]).await;
    }
}

/// A total as it is printed, in one text.
fn total(line: &str) -> String {
    let total: Value = serde_json::from_str(line).unwrap();
    let names =
        ["auth_id", "currency", "amount", "events", "prompt_tokens", "cached_tokens", "completion_tokens"];
    let values: Vec<&str> = names.iter().filter_map(|name| total[*name].as_str()).collect();
    values.join(" ")
}

/// The example that `cargo test` builds beside the tests, and `cargo test --test it` does not.
fn binary() -> PathBuf {
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_rater")).with_file_name("examples").join("invoice_ledger");
    let built = fs::metadata(&binary).and_then(|built| built.modified()).ok();
    let sources = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/invoice_ledger")).unwrap();
    let changed = sources
        .map(|source| source.unwrap())
        .filter(|source| !source.file_name().to_string_lossy().ends_with(".md"))
        .map(|source| source.metadata().unwrap().modified().unwrap())
        .max();
    assert!(built >= changed, "{} is older than its source: cargo build --examples", binary.display());
    binary
}

/// Kills it, unless it has ended.
async fn kill(child: &mut Child) -> ExitStatus {
    drop(child.kill());
    ended(child, Duration::from_secs(10)).await.expect("killed")
}

/// How it ended, if it did in that time.
async fn ended(child: &mut Child, within: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + within;
    loop {
        let status = child.try_wait().unwrap();
        if status.is_some() || Instant::now() > deadline {
            return status;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A service with the usual pricebook, and an empty ledger.
async fn begun() -> (Rig, Consumer) {
    (Rig::start(BOOK, &[]).await, Consumer::new().await)
}
