//! GetRun: every field, in every state.

use rater::grpc::client::Failure;
use rater::proto::*;

use super::{get, standing, wrong_field};
use crate::harness::event;
use crate::rig::{BOOK, Rig, backfill, hour, timestamp};

fn window(since: u32, until: u32) -> Option<Window> {
    Some(Window { start: Some(timestamp(&hour(since))), end: Some(timestamp(&hour(until))) })
}

#[tokio::test]
async fn a_run_that_ended_well_is_told_whole() {
    let rig =
        Rig::with_events([event("a"), event("b").model("acme/unknown"), event("c").without_auth()]).await;
    let request =
        RateWindowRequest { reason: "late price".into(), request_id: "mine".into(), ..backfill(9, 12) };
    let rated = rig.rate(request).await.unwrap();
    let run = get(&rig, &rated.run_id).await;
    let time = async |column: &str| {
        let time: chrono::DateTime<chrono::Utc> =
            rig.one(&format!("SELECT {column} FROM rating_run JOIN rating_run_chunk USING (run_id)")).await;
        Some(timestamp(&time.to_rfc3339()))
    };
    let progress = run.progress.unwrap();
    let expected = Run {
        run_id: rated.run_id,
        window: window(9, 12),
        trigger: Trigger::Backfill.into(),
        state: RunState::Succeeded.into(),
        progress: Some(RunProgress {
            hours_total: 3,
            hours_done: 3,
            events_done: 3,
            updated_at: time("committed_at").await,
            eta: None,
            events_per_second: progress.events_per_second,
        }),
        // To the last finding, what the caller was told.
        result: rated.result,
        requested_by: String::new(),
        reason: "late price".into(),
        request_id: "mine".into(),
        error: None,
        created_at: time("created_at").await,
        started_at: time("started_at").await,
        finished_at: time("finished_at").await,
    };
    assert_eq!(run, expected);
    assert_eq!(run.result.unwrap().findings.len(), 2);
    assert!(progress.events_per_second > 0);
}

#[tokio::test]
async fn a_run_that_goes_is_told_so_far() {
    let rig = Rig::start(BOOK, &[]).await;
    standing(rig.pool(), "run-1", "running").await;
    let run = get(&rig, "run-1").await;
    let expected = Run {
        run_id: "run-1".into(),
        window: window(0, 10),
        trigger: Trigger::Backfill.into(),
        state: RunState::Running.into(),
        progress: Some(RunProgress {
            hours_total: 10,
            hours_done: 4,
            events_done: 6_000,
            updated_at: Some(timestamp("2026-06-02T00:01:20Z")),
            // Two hours and 5,000 events in the 20 s since it was taken over; six are left.
            eta: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
            events_per_second: 250,
        }),
        result: Some(RatingResult {
            findings: run.result.as_ref().unwrap().findings.clone(),
            severity: Severity::Error.into(),
            window: window(0, 10),
            trigger: Trigger::Backfill.into(),
            rate_basis: RateBasis::Pricebook.into(),
            events: 6_000,
            rated_events: 5_990,
            unpriced_events: 1,
            unattributable_events: 2,
            ambiguous_base_events: 3,
            malformed_events: 4,
            rollups: 63,
            inserted_rollups: 11,
            updated_rollups: 21,
            unchanged_rollups: 31,
            reconciled_deletions: 6,
            currency_code: "EUR".into(),
            total_cost: "13.25".into(),
            previous_cost: "11.5".into(),
            rate_drift_rollups: 8,
            pricebook_digest: "d".repeat(64),
            plan_hash: "plan".into(),
            clamped_events: 5,
            shrunk_rollups: 7,
            ..RatingResult::default()
        }),
        requested_by: "ops".into(),
        reason: "late price".into(),
        request_id: "request of run-1".into(),
        error: None,
        created_at: Some(timestamp("2026-06-02T00:00:00Z")),
        started_at: Some(timestamp("2026-06-02T00:00:01Z")),
        finished_at: None,
    };
    assert_eq!(run, expected);
    assert_eq!(run.result.unwrap().findings.len(), 9);
}

#[tokio::test]
async fn a_run_that_has_not_begun_tells_no_more_than_it_knows() {
    let rig = Rig::start(BOOK, &[]).await;
    standing(rig.pool(), "run-1", "running").await;
    rig.sql(
        "DELETE FROM rating_run_chunk;
        UPDATE rating_run SET started_at = NULL, resumed_at = NULL, request_id = NULL, reason = NULL,
            expected_plan_hash = NULL",
    )
    .await;
    let run = get(&rig, "run-1").await;
    assert_eq!(run.progress, Some(RunProgress { hours_total: 10, ..RunProgress::default() }));
    assert_eq!((run.started_at, run.reason, run.request_id), (None, String::new(), String::new()));
    let result = run.result.unwrap();
    assert_eq!((result.severity(), result.events, result.total_cost.as_str()), (Severity::Info, 0, "0"));
}

#[tokio::test]
async fn a_failed_run_tells_why_and_what_it_did_not_rate() {
    let rig = Rig::start(BOOK, &[]).await;
    standing(rig.pool(), "run-1", "failed").await;
    let end = async |state: &str, remaining_end: &str| {
        rig.sql(&format!(
            "UPDATE rating_run SET state = '{state}', error_reason = 'LEASE_LOST', error_message = 'it was lost',
                remaining_end = {remaining_end}, finished_at = '2026-06-02T00:02:00Z'"
        ))
        .await;
        get(&rig, "run-1").await
    };
    let failed = end("failed", "'2026-06-01T06:00Z'").await;
    let error =
        RunError { reason: "LEASE_LOST".into(), message: "it was lost".into(), remaining: window(0, 6) };
    assert_eq!((failed.state(), failed.error), (RunState::Failed, Some(error.clone())));
    assert_eq!(failed.finished_at, Some(timestamp("2026-06-02T00:02:00Z")));
    // It never will, and what it committed stays.
    assert_eq!(failed.progress.unwrap().eta, None);
    assert_eq!(failed.result.unwrap().events, 6_000);
    for nothing in ["NULL", "'2026-06-01T00:00Z'"] {
        let error = RunError { remaining: None, ..error.clone() };
        assert_eq!(end("failed", nothing).await.error, Some(error), "{nothing}");
    }
    assert_eq!(end("cancelled", "'2026-06-01T06:00Z'").await.error, None);
}

#[tokio::test]
async fn every_state_is_told_by_its_name() {
    let rig = Rig::start(BOOK, &[]).await;
    for (name, state) in [
        ("pending", RunState::Pending),
        ("running", RunState::Running),
        ("cancelling", RunState::Cancelling),
        ("succeeded", RunState::Succeeded),
        ("failed", RunState::Failed),
        ("cancelled", RunState::Cancelled),
    ] {
        standing(rig.pool(), name, name).await;
        let run = get(&rig, name).await;
        assert_eq!(run.state(), state);
        let unfinished = matches!(state, RunState::Pending | RunState::Running | RunState::Cancelling);
        assert_eq!(run.progress.unwrap().eta.is_some(), unfinished, "{name}");
    }
}

#[tokio::test]
async fn an_unknown_run_is_not_found_and_what_is_no_id_is_refused_by_field() {
    let rig = Rig::start(BOOK, &[]).await;
    let get = async |run_id: &str| rig.client().get_run(GetRunRequest { run_id: run_id.into() }).await;
    let watch = async |run_id: &str| rig.client().watch_run(WatchRunRequest { run_id: run_id.into() }).await;
    for id in ["nothing", "'; --", &"é".repeat(64)] {
        for failure in [get(id).await.map(drop), watch(id).await.map(drop)] {
            let failure = Failure::from(failure.unwrap_err());
            assert_eq!((failure.code, failure.reason.as_str()), ("NOT_FOUND", "RUN_NOT_FOUND"));
        }
    }
    for (id, wrong) in
        [("", "run_id MISSING"), ("a\0b", "run_id NUL_CHARACTER"), (&*"x".repeat(65), "run_id TOO_LONG")]
    {
        assert_eq!(wrong_field(get(id).await), wrong);
        assert_eq!(wrong_field(watch(id).await.map(drop)), wrong);
    }
}
