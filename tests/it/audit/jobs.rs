//! How a job works: bounded batches, each of which commits its work and its progress together and
//! then lets others go first; it goes on after a kill, ends on any data, and is one process's.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rater::service::StoreError;
use rater::service::table_jobs::{Claimed, Ended, JobBatch, JobStart, JobStep, TableJob, work};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{SOON, UNCHECKED, audit, beside, command, fill, listed, rows_done, slow, totals};
use crate::rig::{BOOK, Rig, eventually};

fn status(rig: &Rig) -> Value {
    let output = command(rig, &["audit", "status", "-o", "json"]);
    serde_json::from_str(&output.stdout).unwrap()
}

/// Every row disagrees, so that what was found counts what was done.
async fn wrong_rows(rows: i64) -> Rig {
    let rig = Rig::start(BOOK, &[]).await;
    fill(&rig, rows).await;
    rig.sql(&format!("{UNCHECKED}; UPDATE rated_usage SET cost = cost + 1")).await;
    rig
}

#[tokio::test]
async fn batches_are_bounded_commit_one_by_one_and_yield_to_others() {
    let rig = wrong_rows(23_000).await;
    slow(&rig, "0.04").await;
    assert_eq!(audit(&rig, &[]).0, Some(2));
    let batches: Vec<i64> = rig.one("SELECT array_agg(done ORDER BY at) FROM batch_log").await;
    assert_eq!(batches, [5_000, 5_000, 5_000, 5_000, 3_000]);
    let transactions: i64 = rig.one("SELECT count(DISTINCT txid) FROM batch_log").await;
    assert_eq!(transactions, 5);
    // From the end of a batch, which slept at its end, to the beginning of the next.
    let pauses = "SELECT min(begun - before) >= interval '10 ms' FROM (
        SELECT begun, lag(at + interval '40 ms') OVER (ORDER BY at) AS before FROM batch_log) q";
    assert!(rig.one::<bool>(pauses).await);
}

#[tokio::test]
async fn progress_is_of_the_batchs_own_transaction_and_a_killed_audit_is_gone_on_with() {
    let rig = wrong_rows(40_000).await;
    slow(&rig, "0.3").await;
    let together =
        "SELECT rows_done = coalesce((SELECT sum(rows) FROM audit_total WHERE finding = 'cost'), 0)
        FROM table_job WHERE job = 'audit'";
    let (mut kills, mut done) = (0, 0);
    while kills < 3 {
        let mut process = beside(&rig, &["audit"]);
        eventually("another batch is done", async || {
            assert!(rig.one::<bool>(together).await, "the findings and the progress come together");
            rows_done(&rig, "audit").await > done
        })
        .await;
        process.signal(Signal::SIGKILL);
        process.wait(SOON).await;
        kills += 1;
        done = rows_done(&rig, "audit").await;
        assert!(done % 5_000 == 0 && (kills * 5_000..40_000).contains(&done), "{kills} {done}");
        eventually("nobody is at it", async || status(&rig)["job"]["state"] == "stopped").await;
        assert!(rig.one::<bool>(together).await);
        // Not done, and no other audit's place.
        let other = command(&rig, &["audit", "--since", "2026-06-01T02:00:00Z"]);
        assert_eq!(other.code(), Some(1));
        assert!(other.stderr.contains("an audit with other options is not done"), "{other:?}");
    }
    let (code, said) = audit(&rig, &[]);
    assert_eq!(
        (code, totals(&said)),
        (Some(2), vec!["cost USD 40000 40013.68 40000 0".into()]),
        "each row once"
    );
    assert_eq!((&said["job"]["rows_done"], &said["job"]["rows"]), (&"40000".into(), &"40000".into()));
    assert_eq!(listed(&rig).len(), 10_000, "the list has an end, the count has not");
    let again: i64 = rig.one("SELECT sum(done)::bigint FROM batch_log").await;
    assert_eq!(again, 40_000, "nothing that was committed was done again");
}

#[tokio::test]
async fn one_process_is_at_a_job_and_a_stopped_one_leaves_it_at_once() {
    let rig = wrong_rows(40_000).await;
    slow(&rig, "0.4").await;
    let mut first = beside(&rig, &["audit"]);
    eventually("it is at work", async || rows_done(&rig, "audit").await > 0).await;
    let second = command(&rig, &["audit"]);
    assert_eq!(second.code(), Some(1));
    let busy = "another process is at an audit, or was a moment ago: try again in a few seconds";
    assert!(second.stderr.contains(busy), "{second:?}");
    assert_eq!(status(&rig)["job"]["state"], "running");
    first.signal(Signal::SIGTERM);
    assert_eq!(first.wait(SOON).await.code(), Some(1));
    let said = format!("{:?}", first.logs());
    assert!(said.contains("stopped half-way; the same command goes on from there"), "{said}");
    assert_eq!(status(&rig)["job"]["state"], "stopped");
    // Anew, in spite of it.
    let (_, said) = audit(&rig, &["--restart", "--since", "2026-06-01T02:00:00Z"]);
    assert_eq!(said["job"]["rows_done"], "39800");
}

/// A process that is only asleep has lost its job when it wakes.
#[tokio::test]
async fn who_slept_too_long_has_lost_the_job_and_commits_nothing_more() {
    let rig = wrong_rows(40_000).await;
    slow(&rig, "0.2").await;
    let mut sleeper = beside(&rig, &["audit"]);
    eventually("it is at work", async || rows_done(&rig, "audit").await > 0).await;
    sleeper.signal(Signal::SIGSTOP);
    eventually("nobody is at it", async || status(&rig)["job"]["state"] == "stopped").await;
    let second = beside(&rig, &["audit"]);
    let before = rows_done(&rig, "audit").await;
    eventually("the other is at it", async || rows_done(&rig, "audit").await > before).await;
    sleeper.signal(Signal::SIGCONT);
    assert_eq!(sleeper.wait(SOON).await.code(), Some(1));
    let mut second = second;
    assert_eq!(second.wait(SOON).await.code(), Some(2));
    assert_eq!(
        rig.one::<i64>("SELECT sum(rows)::bigint FROM audit_total WHERE finding = 'cost'").await,
        40_000
    );
}

#[tokio::test]
async fn rows_that_can_not_be_read_are_told_and_passed_over() {
    let rig = Rig::start(BOOK, &[]).await;
    fill(&rig, 6_000).await;
    // The hour after the last one that there is can't be told, which is what asks for it.
    rig.sql(&format!(
        "{UNCHECKED};
         UPDATE rated_usage SET window_start = '294276-12-31T23:00Z'
         WHERE window_start = '2026-06-01T03:00Z' AND auth_id IN ('auth-7', 'auth-8');
         UPDATE rated_usage SET cost = 1 WHERE window_start = '2026-06-01T04:00Z' AND auth_id = 'auth-1'"
    ))
    .await;
    let begun = Instant::now();
    let (code, said) = audit(&rig, &[]);
    assert_eq!((code, &said["job"]["state"]), (Some(2), &"succeeded".into()), "{said}");
    assert_eq!(totals(&said), ["cost USD 1 1 0.999658 0", "unreadable  2 0 0 0"]);
    assert_eq!((&said["job"]["rows_done"], &said["job"]["rows_passed_over"]), (&"6000".into(), &"2".into()));
    let rows = listed(&rig);
    assert_eq!(
        (rows[1]["finding"].as_str(), rows[1]["auth_id"].as_str()),
        (Some("unreadable"), Some("auth-7"))
    );
    let why = "timestamp out of range (SQLSTATE 22008)";
    assert_eq!(
        (&rows[1]["detail"], &said["job"]["error"]),
        (&why.into(), &format!("a row was passed over: {why}").into())
    );
    assert!(begun.elapsed() < SOON);
}

#[tokio::test]
async fn no_number_of_rows_that_can_not_be_read_ends_an_audit() {
    let rig = Rig::start(BOOK, &[]).await;
    fill(&rig, 1_100).await;
    rig.sql(&format!(
        "{UNCHECKED};
         UPDATE rated_usage SET auth_id = auth_id || window_start, window_start = '294276-12-31T23:00Z'
         WHERE window_start >= '2026-06-01T01:00Z';
         UPDATE rated_usage SET window_start = 'infinity' WHERE auth_id = 'auth-7'"
    ))
    .await;
    let begun = Instant::now();
    let (code, said) = audit(&rig, &[]);
    assert_eq!((code, &said["job"]["state"]), (Some(2), &"succeeded".into()), "{said}");
    let found: Vec<String> =
        totals(&said).into_iter().filter(|line| !line.starts_with("foreign_id")).collect();
    assert_eq!(found, ["hour USD 1 0.000342 0 0", "unreadable  1000 0 0 0"], "also what lies behind them");
    eprintln!("a thousand rows that can't be read: {:?}", begun.elapsed());
}

/// What can't be read is no row of a batch that forgets.
#[tokio::test]
async fn an_audit_that_begins_has_forgotten_the_last_one_whatever_it_can_read() {
    let rig = Rig::start(BOOK, &[]).await;
    fill(&rig, 1).await;
    rig.sql(&format!("{UNCHECKED}; UPDATE rated_usage SET window_start = '294276-12-31T23:00Z'")).await;
    for _ in 0..3 {
        let (code, said) = audit(&rig, &["--restart"]);
        assert_eq!((code, totals(&said)), (Some(2), vec!["unreadable  1 0 0 0".into()]));
    }
    rig.sql("DELETE FROM rated_usage").await;
    assert_eq!(audit(&rig, &[]).0, Some(0));
}

#[tokio::test]
async fn an_audit_that_is_not_done_says_neither_the_last_ones_findings_nor_that_all_agrees() {
    let rig = wrong_rows(6_000).await;
    let never = command(&rig, &["audit", "status", "-o", "json"]);
    assert!(never.code() == Some(1) && never.stdout.contains(r#""agrees":null"#), "{never:?}");
    assert_eq!(audit(&rig, &[]).0, Some(2));
    slow(&rig, "600").await;
    let mut process = beside(&rig, &["audit"]);
    eventually("it is at its first batch", async || status(&rig)["job"]["state"] == "running").await;
    let said = command(&rig, &["audit", "status", "-o", "json"]);
    assert!(said.code() == Some(1) && said.stdout.contains(r#""agrees":null"#), "{said:?}");
    process.kill();
    process.wait(SOON).await;
    eventually("nobody is at it", async || status(&rig)["job"]["state"] == "stopped").await;
    let said = status(&rig);
    assert_eq!((&said["job"]["rows_done"], &said["job"]["eta_seconds"]), (&"0".into(), &"".into()), "{said}");
    assert_eq!((&said["agrees"], totals(&said)), (&Value::Null, vec![]));
    assert_eq!(listed(&rig).len(), 0);
}

#[tokio::test]
async fn an_audit_that_nobody_is_at_can_be_given_up() {
    let rig = wrong_rows(40_000).await;
    let nothing = command(&rig, &["audit", "cancel"]);
    assert!(nothing.code() == Some(1) && nothing.stderr.contains("nothing to give up"), "{nothing:?}");
    slow(&rig, "0.4").await;
    let mut process = beside(&rig, &["audit"]);
    eventually("it is at work", async || rows_done(&rig, "audit").await > 0).await;
    let busy = command(&rig, &["audit", "cancel"]);
    assert!(busy.code() == Some(1) && busy.stderr.contains("a process is at it"), "{busy:?}");
    process.signal(Signal::SIGTERM);
    process.wait(SOON).await;
    let cancelled = command(&rig, &["audit", "cancel"]);
    assert_eq!((cancelled.code(), cancelled.stdout.as_str()), (Some(0), "cancelled\n"), "{cancelled:?}");
    let said = status(&rig);
    assert_eq!((&said["job"]["state"], &said["agrees"]), (&"cancelled".into(), &false.into()), "{said}");
    rig.sql("DROP TRIGGER slow ON table_job").await;
    let (_, said) = audit(&rig, &["--since", "2026-06-01T02:00:00Z"]);
    assert_eq!(said["job"]["rows_done"], "39800", "in its place another one begins");
}

struct NothingLeft;

impl TableJob for NothingLeft {
    const MOST: i64 = 1;
    const TIMEOUT: Duration = SOON;

    async fn batch(&self, _: &mut JobBatch, _: i64) -> Result<JobStep, StoreError> {
        panic!("it is done")
    }

    async fn pass_over(&self, _: &mut JobBatch, _: &StoreError) -> Result<JobStep, StoreError> {
        panic!("it is done")
    }
}

#[tokio::test]
async fn a_last_commit_whose_answer_never_came_is_a_job_that_is_done() {
    let rig = Rig::start(BOOK, &[]).await;
    let db = rater::cli::database::open(&rig.db.url, 2).unwrap();
    let parameters = serde_json::json!({});
    let start = JobStart {
        job: "audit",
        parameters: &parameters,
        adapts: false,
        rows_all: 0,
        anew: false,
        audits: true,
    };
    let Claimed::Begun(claim) = db.claim_job(&start).await.unwrap() else { panic!("not begun") };
    let batch = db.begin_batch(claim, SOON).await.unwrap();
    batch.commit(&JobStep { done: true, ..JobStep::default() }).await.unwrap();
    let stop = CancellationToken::new();
    assert_eq!(work(&db, claim, &NothingLeft, &stop).await.unwrap(), Ended::Done);
    // Another one's end is not ours.
    let Claimed::Begun(other) = db.claim_job(&start).await.unwrap() else { panic!("not begun") };
    let batch = db.begin_batch(other, SOON).await.unwrap();
    batch.commit(&JobStep { done: true, ..JobStep::default() }).await.unwrap();
    assert!(matches!(work(&db, claim, &NothingLeft, &stop).await, Err(StoreError::LeaseLost)));
    assert_eq!(status(&rig)["job"]["state"], "succeeded");
}

#[tokio::test]
async fn rows_that_come_and_go_meanwhile_end_nothing() {
    let rig = wrong_rows(20_000).await;
    slow(&rig, "0.2").await;
    let mut process = beside(&rig, &["audit"]);
    eventually("it is at work", async || rows_done(&rig, "audit").await > 0).await;
    rig.sql("DELETE FROM rated_usage WHERE window_start > '2026-06-03Z'").await;
    assert_eq!(process.wait(SOON).await.code(), Some(2));
    let said = status(&rig);
    assert_eq!(
        (&said["job"]["state"], &said["job"]["rows"]),
        (&"succeeded".into(), &said["job"]["rows_done"])
    );
}

#[tokio::test]
async fn trouble_that_passes_is_waited_out() {
    let rig = wrong_rows(20_000).await;
    slow(&rig, "0.1").await;
    let mut process = beside(&rig, &["audit"]);
    eventually("it is at work", async || rows_done(&rig, "audit").await > 0).await;
    let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE datname = current_database() AND query LIKE '%table_job%' AND pid <> pg_backend_pid()";
    rig.sql(cut).await;
    assert_eq!(process.wait(SOON).await.code(), Some(2), "{:?}", process.logs());
    assert_eq!(
        rig.one::<i64>("SELECT sum(rows)::bigint FROM audit_total WHERE finding = 'cost'").await,
        20_000,
        "each row once"
    );
}
