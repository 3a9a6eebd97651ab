//! The brake, `--max-routine-decrease`: a routine run that would take away more billed cost than
//! it may takes away nothing, and says so everywhere.

use std::time::Duration;

use nix::sys::signal::Signal;
use rater::grpc::client::Failure;
use rater::proto::{FindingCode, RateWindowRequest, Severity};

use crate::harness::{Event, Service, event, run};
use crate::rig::{BOOK, Gate, Rig, backfill, dearer, eventually, findings, routine};

/// Hours 8 to 12.
const WINDOW: (u32, u32) = (8, 12);

/// A rollup of its own, of 0.00045: a tenth of the window's cost.
fn tenth(n: u32, hour: u32) -> Event {
    event(&format!("tenth-{n}")).auth(&format!("auth-{n}")).at(&format!("2026-06-01T{hour:02}:15:00Z"))
}

/// Ten rollups, rated: four in the oldest hour, two in each of the others.
async fn billed(brake: &[&str], more: &[&str]) -> Rig {
    let rig = Rig::start(BOOK, &[brake, more].concat()).await;
    rig.insert((0..10).map(|n| tenth(n, if n < 4 { 8 } else { 7 + n / 2 }))).await;
    let result = rig.rated(routine(WINDOW.0, WINDOW.1)).await;
    assert_eq!((result.inserted_rollups, result.total_cost.as_str()), (10, "0.0045"));
    rig
}

async fn lose(rig: &Rig, tenths: std::ops::Range<u32>) {
    let ids: Vec<String> = tenths.map(|n| format!("'tenth-{n}'")).collect();
    rig.sql(&format!("DELETE FROM billing_event WHERE request_id IN ({})", ids.join(","))).await;
}

fn window() -> RateWindowRequest {
    routine(WINDOW.0, WINDOW.1)
}

async fn assert_refused(rig: &Rig, failure: &Failure, rollups: i64) {
    assert_eq!((failure.code, failure.reason.as_str()), ("FAILED_PRECONDITION", "DECREASE_REFUSED"));
    let run = &failure.metadata["run"];
    let (state, reason, remaining) = rig.run(run).await;
    assert_eq!((state.as_str(), reason.as_deref()), ("failed", Some("DECREASE_REFUSED")));
    let left = ["hours_committed", "left_start", "left_end"].map(|key| failure.metadata[key].as_str());
    assert_eq!(left, ["0", "2026-06-01T08:00:00Z", "2026-06-01T12:00:00Z"]);
    assert_eq!(remaining, Some(left[2].parse().unwrap()));
    let sql = format!("SELECT refused_rollups FROM rating_run WHERE run_id = '{run}'");
    assert_eq!(rig.one::<Option<i64>>(&sql).await, Some(rollups));
    assert_eq!(rig.count("rating_lease").await, 0);
}

#[tokio::test]
async fn a_routine_run_that_would_lose_too_much_commits_nothing_and_says_so_everywhere() {
    for chunks in [&[][..], &["--chunk-hours", "1"], &["--chunk-hours", "1", "--parallel", "4"]] {
        let rig = billed(&["--max-routine-decrease", "20%"], chunks).await;
        // Only the oldest hour loses, and what is new elsewhere does not make up for it.
        lose(&rig, 0..3).await;
        rig.insert((20..40).map(|n| tenth(n, 11))).await;
        let (rows, changes) = (rig.rows().await, rig.changes().await);
        let request = RateWindowRequest { request_id: "hourly".into(), ..window() };
        let failure = rig.refused(request.clone()).await;
        assert_refused(&rig, &failure, 3).await;
        assert!(failure.message.contains("0.00135 of 0.0045 USD, more than 20%"), "{failure:?}");
        assert_eq!((rig.rows().await, rig.changes().await), (rows, changes), "{chunks:?}");

        let line = rig.logged(|line| line["code"] == "DECREASE_REFUSED").await;
        assert_eq!((&line["level"], &line["count"]), (&"ERROR".into(), &3.into()));
        assert_eq!(line["run_id"], failure.metadata["run"]);
        let series = |code: &str| {
            format!(r#"rater_findings_total{{code="{code}",severity="error",trigger="routine"}}"#)
        };
        assert_eq!(rig.metric(&series("DECREASE_REFUSED")).await.as_deref(), Some("3"));
        // Nothing was deleted, and nothing says so.
        assert_eq!(rig.metric(&series("RECONCILED_DELETIONS")).await.as_deref(), Some("0"));
        let failed = r#"rater_runs_total{trigger="routine",state="failed"}"#;
        assert_eq!(rig.metric(failed).await.as_deref(), Some("1"));

        assert_eq!(rig.refused(request).await, failure);
        // Only a retry: it is not told twice.
        assert_eq!(rig.metric(&series("DECREASE_REFUSED")).await.as_deref(), Some("3"));
    }
}

#[tokio::test]
async fn as_much_as_the_brake_lets_go_may_go_and_no_more() {
    for (percent, refused) in [("20%", false), ("19.99%", true)] {
        for chunk_hours in ["24", "1"] {
            let rig = billed(&["--max-routine-decrease", percent], &["--chunk-hours", chunk_hours]).await;
            // In two chunks.
            lose(&rig, 3..5).await;
            match refused {
                true => assert_refused(&rig, &rig.refused(window()).await, 2).await,
                false => {
                    let result = rig.rated(window()).await;
                    assert_eq!(
                        findings(&result),
                        [(FindingCode::ReconciledDeletions, Severity::Error, 2)],
                        "it is as loud as ever"
                    );
                }
            }
        }
    }
}

#[tokio::test]
async fn shrunk_rollups_count_by_what_they_lose() {
    let rig = Rig::start(BOOK, &["--max-routine-decrease", "20%", "--chunk-hours", "1"]).await;
    rig.insert((0..10).map(|n| Event { auth_id: Some("one".into()), ..tenth(n, 8) })).await;
    rig.rated(window()).await;
    lose(&rig, 0..2).await;
    let result = rig.rated(window()).await;
    assert_eq!((result.shrunk_rollups, result.total_cost.as_str()), (1, "0.0036"));
    // Of what is billed now, two more are past it.
    lose(&rig, 2..4).await;
    assert_refused(&rig, &rig.refused(window()).await, 1).await;
    // A rollup that lost an event, and costs more, has lost nothing.
    rig.insert([tenth(50, 8).auth("one").tokens(100_000, 0, 0)]).await;
    assert_eq!(rig.rated(window()).await.shrunk_rollups, 1);
}

#[tokio::test]
async fn growth_drift_and_what_does_not_change_are_no_loss() {
    let rig = billed(&["--max-routine-decrease", "0%"], &["--chunk-hours", "1"]).await;
    rig.insert([tenth(20, 9), event("more").auth("auth-1").at("2026-06-01T08:45:00Z")]).await;
    rig.reload(&dearer()).await;
    let result = rig.rated(window()).await;
    assert_eq!((result.inserted_rollups, result.updated_rollups, result.rate_drift_rollups), (1, 1, 10));
    rig.reload(&BOOK.replace("0.000003", "0.000001")).await;
    assert_eq!(rig.rated(window()).await.rate_drift_rollups, 11);
}

#[tokio::test]
async fn nothing_percent_refuses_any_loss_but_of_what_was_free() {
    let book = BOOK.replace(
        "base_models:",
        "base_models:\n  \"free\": {prompt: \"0\", cached: \"0\", completion: \"0\"}",
    );
    let rig = Rig::start(&book, &["--max-routine-decrease", "0%"]).await;
    rig.insert([tenth(0, 8), tenth(1, 8), tenth(2, 9).model("free")]).await;
    rig.rated(window()).await;
    lose(&rig, 2..3).await;
    assert_eq!(rig.rated(window()).await.reconciled_deletions, 1);
    lose(&rig, 1..2).await;
    assert_refused(&rig, &rig.refused(window()).await, 1).await;
}

#[tokio::test]
async fn it_is_off_unless_it_is_asked_for_and_never_on_for_a_backfill() {
    let rig = billed(&[], &[]).await;
    lose(&rig, 0..9).await;
    assert_eq!(rig.rated(window()).await.reconciled_deletions, 9);

    let rig = billed(&["--max-routine-decrease", "0%"], &["--chunk-hours", "1"]).await;
    lose(&rig, 0..9).await;
    assert_refused(&rig, &rig.refused(window()).await, 9).await;
    assert_eq!(rig.rated(backfill(WINDOW.0, WINDOW.1)).await.reconciled_deletions, 9);
    // What a dry run would lose can be looked at.
    lose(&rig, 9..10).await;
    let plan = rig.rated(RateWindowRequest { dry_run: true, ..window() }).await;
    assert_eq!((plan.reconciled_deletions, plan.severity()), (1, Severity::Error));
    // A plan that was seen is no way past it.
    let seen = RateWindowRequest { expected_plan_hash: plan.plan_hash, ..window() };
    assert_refused(&rig, &rig.refused(seen).await, 1).await;
}

#[tokio::test]
async fn what_vanishes_after_the_survey_stops_the_run_before_it_is_lost() {
    let rig = billed(&["--max-routine-decrease", "20%"], &["--chunk-hours", "1"]).await;
    lose(&rig, 8..9).await;
    let gate = rig.gate(Gate::AT_RESULTS, "true").await;
    let mut client = rig.client();
    let run = tokio::spawn(async move { client.rate_window(window()).await });
    rig.until_blocked(1).await;
    lose(&rig, 0..2).await;
    gate.open().await;
    let failure = Failure::from(run.await.unwrap().expect_err("refused"));
    assert_eq!(failure.reason, "DECREASE_REFUSED");
    let left = ["hours_committed", "left_start", "left_end"].map(|key| failure.metadata[key].as_str());
    assert_eq!(left, ["3", "2026-06-01T08:00:00Z", "2026-06-01T09:00:00Z"]);
    // The newest hour lost its tenth, within the brake; the oldest lost nothing.
    let hours: Vec<String> = rig.costs().await.into_iter().map(|(hour, _)| hour).collect();
    assert_eq!(hours, ["08", "08", "08", "08", "09", "09", "10", "10", "11"]);
    // Both are told: what was lost, and what was refused.
    for (code, count) in [("RECONCILED_DELETIONS", 1), ("DECREASE_REFUSED", 2)] {
        let line = rig.logged(|line| line["code"] == code && line["level"] == "ERROR").await;
        assert_eq!(line["count"], count, "{line}");
    }
    rig.assert_explained().await;
}

#[tokio::test]
async fn what_one_process_lost_counts_for_the_one_that_takes_its_run_over() {
    let brake = ["--max-routine-decrease", "20%"];
    let mut rig = billed(&brake, &["--chunk-hours", "1", "--lease-ttl", "2s"]).await;
    // As much as may go, in the newest hour.
    lose(&rig, 8..10).await;
    let before = rig.count("rating_run_chunk").await;
    let second = "NEW.chunk_start = '2026-06-01T10:00Z'";
    let gate = rig.gate("BEFORE INSERT ON rating_run_chunk FOR EACH ROW", second).await;
    let mut client = rig.client();
    let run = tokio::spawn(async move { client.rate_window(window()).await });
    eventually("it is lost", async || rig.count("rating_run_chunk").await == before + 1).await;
    rig.service.signal(Signal::SIGKILL);
    rig.service.wait(Duration::from_secs(20)).await;
    assert!(run.await.unwrap().is_err());
    gate.open().await;
    lose(&rig, 0..1).await;
    let path = rig.book_path();
    let arguments = [&["--pricebook", path.to_str().unwrap(), "--lease-ttl", "2s"], &brake[..]].concat();
    rig.service = Service::start(&rig.db.url, &arguments).await;
    eventually("it has ended", async || {
        rig.one::<i64>("SELECT count(*) FROM rating_run WHERE state = 'failed'").await == 1
    })
    .await;
    let sql = "SELECT concat_ws(' ', error_reason, refused_rollups, remaining_end AT TIME ZONE 'UTC')
        FROM rating_run WHERE state = 'failed'";
    assert_eq!(rig.one::<String>(sql).await, "DECREASE_REFUSED 1 2026-06-01 11:00:00");
    assert_eq!(rig.rows().await.len(), 8);
    rig.assert_explained().await;
}

#[test]
fn a_share_that_is_none_is_one_clear_line() {
    let dir = crate::harness::temp_dir();
    let book = dir.path().join("book.yaml");
    std::fs::write(&book, BOOK).unwrap();
    for wrong in ["20", "-1%", "101%", "100.000001%", "abc", "%", "", "1e1%", "20 %", "0.0000001%", "NaN%"] {
        let option = format!("--max-routine-decrease={wrong}");
        let output = run("", &["serve", "--pricebook", book.to_str().unwrap(), &option]);
        assert_eq!((output.code(), output.stdout.as_str()), (Some(1), ""), "{wrong}: {output:?}");
        let line = output.stderr.lines().next().unwrap();
        let clear = line.contains("--max-routine-decrease") && line.contains("0% to 100%, such as 20%");
        assert!(clear, "{wrong}: {}", output.stderr);
    }
}
