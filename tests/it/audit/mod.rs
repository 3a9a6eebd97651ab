//! The audit finds what does not agree, in money, exactly; and work over whole tables, which it is,
//! keeps its promises: bounded batches that commit and yield, progress in their own transactions, an
//! end on any data, and a failure that is told as one.

mod events;
mod jobs;
mod retiring;
mod rows;
mod shown;

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Output, Process, rater, run_in};
use crate::rig::Rig;

const SOON: Duration = Duration::from_secs(60);

/// Rows that nothing checks, as another program may have written them.
const UNCHECKED: &str = "ALTER TABLE rated_usage DROP CONSTRAINT rated_usage_explains_itself,
    DROP CONSTRAINT rated_usage_money_fits";

fn command(rig: &Rig, arguments: &[&str]) -> Output {
    run_in(&[("RATER_DATABASE_URL", &rig.db.url)], arguments, "")
}

/// The command beside the test.
fn beside(rig: &Rig, arguments: &[&str]) -> Process {
    let mut command = rater();
    command.args(arguments).env("RATER_DATABASE_URL", &rig.db.url).stdin(Stdio::null());
    Process::spawn(command)
}

/// Audits with these options, and gives the exit code and what it says.
fn audit(rig: &Rig, options: &[&str]) -> (Option<i32>, Value) {
    let output = command(rig, &[&["audit", "-o", "json"], options].concat());
    assert_eq!(output.stderr, "", "{output:?}");
    (output.code(), serde_json::from_str(&output.stdout).unwrap())
}

/// Finding, currency, rows, billed, over- and under-billed of each total, in one line.
fn totals(said: &Value) -> Vec<String> {
    let line = |total: &Value| {
        let names = ["finding", "currency_code", "rows", "billed", "over_billed", "under_billed"];
        names.map(|name| total[name].as_str().unwrap().to_string()).join(" ")
    };
    said["totals"].as_array().unwrap().iter().map(line).collect()
}

/// What the audit lists, an object a row.
fn listed(rig: &Rig) -> Vec<Value> {
    let output = command(rig, &["audit", "list", "-o", "json", "--limit", "10000"]);
    assert_eq!(output.code(), Some(0), "{output:?}");
    output.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// So many rollups that agree, a hundred an hour, from 2026-06-01 on.
async fn fill(rig: &Rig, rows: i64) {
    rig.sql(&format!(
        "INSERT INTO rated_usage (id, auth_id, resource_id, model_id, window_start, window_end, prompt_tokens,
             cached_tokens, completion_tokens, billable_prompt_tokens, event_count, cost, applied_prompt_rate,
             applied_cached_rate, applied_completion_rate, currency_code)
         SELECT md5(format('%s:%s|10:resource-1|10:acme/large|%s', length(a), a, extract(epoch FROM w)::bigint)),
             a, 'resource-1', 'acme/large', w, w + interval '1 hour', 100, 40, 10, 60, 1,
             60 * 0.000003 + 40 * 0.0000003 + 10 * 0.000015, 0.000003, 0.0000003, 0.000015, 'USD'
         FROM (SELECT 'auth-' || n % 100 AS a, '2026-06-01Z'::timestamptz + n / 100 * interval '1 hour' AS w
             FROM generate_series(0, {rows} - 1) n) q"
    ))
    .await;
}

/// Each batch of a job from here on takes so long, and is written down.
async fn slow(rig: &Rig, seconds: &str) {
    rig.sql(&format!(
        "CREATE TABLE IF NOT EXISTS batch_log (at timestamptz, begun timestamptz, txid bigint, done bigint);
         CREATE OR REPLACE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF NEW.rows_done > OLD.rows_done THEN
                 INSERT INTO batch_log VALUES (clock_timestamp(), now(), txid_current(), NEW.rows_done - OLD.rows_done);
                 PERFORM pg_sleep({seconds});
             END IF;
             RETURN NEW;
         END $$;
         CREATE OR REPLACE TRIGGER slow BEFORE UPDATE ON table_job FOR EACH ROW EXECUTE FUNCTION slow()"
    ))
    .await;
}

async fn rows_done(rig: &Rig, job: &str) -> i64 {
    rig.one(&format!("SELECT rows_done FROM table_job WHERE job = '{job}'")).await
}
