//! R9: losing billed usage is loud on a routine run and quiet on a backfill, and the response, the
//! log, the metrics and the exit code say the same.

use rater::proto::{FindingCode, RateWindowRequest, RatingResult, Severity};

use crate::harness::{event, run};
use crate::rig::{BOOK, Rig, backfill, dearer, findings, hour, routine};

/// A window with one rollup to delete and one that has shrunk.
async fn vanished() -> Rig {
    let rig = Rig::with_events([event("a"), event("b"), event("c").auth("auth-2")]).await;
    rig.rated(routine(10, 11)).await;
    rig.sql("DELETE FROM billing_event WHERE request_id <> 'a'").await;
    rig
}

fn lost(severity: Severity) -> [(FindingCode, Severity, i64); 2] {
    [(FindingCode::ReconciledDeletions, severity, 1), (FindingCode::ShrunkRollups, severity, 1)]
}

async fn level(rig: &Rig, code: &str, trigger: &str) -> String {
    let line = rig.logged(|line| line["code"] == code && line["trigger"] == trigger).await;
    line["level"].as_str().unwrap().to_string()
}

async fn found(rig: &Rig, code: &str, severity: &str, trigger: &str) -> Option<String> {
    let labels = format!(r#"code="{code}",severity="{severity}",trigger="{trigger}""#);
    rig.metric(&format!("rater_findings_total{{{labels}}}")).await
}

fn rate(rig: &Rig, trigger: &str, id: &str) -> crate::harness::Output {
    let (since, until) = (hour(10), hour(11));
    let window = ["--since", &since, "--until", &until, "--trigger", trigger, "--request-id", id];
    run(&rig.service.url(), &[&["rate", "-o", "json"], &window[..]].concat())
}

#[tokio::test]
async fn r09_a_routine_run_answers_a_loss_as_an_error() {
    let result = vanished().await.rated(routine(10, 11)).await;
    assert_eq!(findings(&result), lost(Severity::Error));
    assert_eq!(
        (result.severity(), result.reconciled_deletions, result.shrunk_rollups),
        (Severity::Error, 1, 1)
    );
}

#[tokio::test]
async fn r09_a_backfill_answers_the_same_loss_as_info() {
    let result = vanished().await.rated(backfill(10, 11)).await;
    assert_eq!(findings(&result), lost(Severity::Info));
    assert_eq!(
        (result.severity(), result.reconciled_deletions, result.shrunk_rollups),
        (Severity::Info, 1, 1)
    );
}

#[tokio::test]
async fn r09_both_reconcile_the_same() {
    let mut rows = Vec::new();
    for request in [routine(10, 11), backfill(10, 11)] {
        let rig = vanished().await;
        rig.rated(request).await;
        rows.push((
            rig.costs().await,
            rig.changes().await.into_iter().map(|c| c.operation).collect::<Vec<_>>(),
        ));
    }
    assert_eq!(rows[0], rows[1]);
    assert_eq!(rows[0].0, [("10".to_string(), "0.00045".to_string())]);
    assert_eq!(rows[0].1, ["insert", "insert", "update", "delete"]);
}

#[tokio::test]
async fn r09_a_routine_run_logs_a_loss_as_an_error() {
    let rig = vanished().await;
    rig.rated(routine(10, 11)).await;
    for code in ["RECONCILED_DELETIONS", "SHRUNK_ROLLUPS"] {
        assert_eq!(level(&rig, code, "routine").await, "ERROR");
    }
}

#[tokio::test]
async fn r09_a_backfill_logs_the_same_loss_as_info() {
    let rig = vanished().await;
    rig.rated(backfill(10, 11)).await;
    for code in ["RECONCILED_DELETIONS", "SHRUNK_ROLLUPS"] {
        assert_eq!(level(&rig, code, "backfill").await, "INFO");
    }
    assert!(rig.service.logs().iter().all(|line| line["level"] != "ERROR"), "{:#?}", rig.service.logs());
}

#[tokio::test]
async fn r09_the_metrics_of_a_routine_run_count_a_loss_as_an_error() {
    let rig = vanished().await;
    rig.rated(routine(10, 11)).await;
    for code in ["RECONCILED_DELETIONS", "SHRUNK_ROLLUPS"] {
        assert_eq!(found(&rig, code, "error", "routine").await.as_deref(), Some("1"));
        assert_eq!(found(&rig, code, "info", "routine").await.unwrap_or("0".into()), "0");
    }
    let runs = rig.metric(r#"rater_runs_total{trigger="routine",state="succeeded"}"#).await;
    assert_eq!(runs.as_deref(), Some("2"));
}

#[tokio::test]
async fn r09_the_metrics_of_a_backfill_count_the_same_loss_as_info() {
    let rig = vanished().await;
    rig.rated(backfill(10, 11)).await;
    for code in ["RECONCILED_DELETIONS", "SHRUNK_ROLLUPS"] {
        assert_eq!(found(&rig, code, "info", "backfill").await.as_deref(), Some("1"));
        assert_eq!(found(&rig, code, "error", "backfill").await.unwrap_or("0".into()), "0");
    }
}

#[tokio::test]
async fn r09_the_command_ends_with_2_after_a_loss_on_a_routine_run_and_again_on_a_retry() {
    let rig = vanished().await;
    let first = rate(&rig, "routine", "nightly");
    assert_eq!(first.code(), Some(2), "{first:?}");
    // A run of its own finds nothing left to delete; the same request finds its run.
    assert_eq!(rate(&rig, "routine", "another").code(), Some(0));
    let again = rate(&rig, "routine", "nightly");
    assert_eq!((again.code(), again.stdout), (Some(2), first.stdout));
}

#[tokio::test]
async fn r09_the_command_ends_with_0_after_the_same_loss_on_a_backfill() {
    let rig = vanished().await;
    let output = rate(&rig, "backfill", "fix");
    assert_eq!((output.code(), output.stderr.as_str()), (Some(0), ""));
    assert!(output.stdout.contains(r#""reconciled_deletions":"1""#), "{output:?}");
}

#[tokio::test]
async fn r09_the_other_findings_are_as_loud_on_both() {
    let rig = Rig::with_events([
        event("drift"),
        event("unpriced").model("acme/unknown"),
        event("nobody").without_auth(),
        event("two").model("ft:x").base("acme/large"),
        event("bases").model("ft:x").base("acme/small"),
        event("negative").tokens(-1, 0, 0),
        event("clamped").auth("auth-2").model("acme/small").tokens(1, 2, 0),
    ])
    .await;
    rig.rated(routine(10, 11)).await;
    rig.reload(&dearer()).await;
    let frozen = RateWindowRequest { rate_basis: rater::proto::RateBasis::Frozen.into(), ..backfill(10, 11) };
    let loud = |result: &RatingResult| {
        let mut found = findings(result);
        found.sort_by_key(|(code, _, _)| *code as i32);
        found
    };
    let (on_routine, on_backfill) = (rig.rated(routine(10, 11)).await, rig.rated(frozen).await);
    assert_eq!(loud(&on_routine), loud(&on_backfill));
    assert_eq!(
        loud(&on_routine),
        [
            (FindingCode::UnpricedEvents, Severity::Error, 1),
            (FindingCode::UnattributableEvents, Severity::Error, 1),
            (FindingCode::AmbiguousBaseEvents, Severity::Error, 2),
            (FindingCode::MalformedEvents, Severity::Error, 1),
            (FindingCode::RateDrift, Severity::Warning, 1),
            (FindingCode::ClampedEvents, Severity::Warning, 1),
        ]
    );
    for trigger in ["routine", "backfill"] {
        assert_eq!(level(&rig, "UNPRICED_EVENTS", trigger).await, "ERROR");
        assert_eq!(level(&rig, "RATE_DRIFT", trigger).await, "WARN");
        assert_eq!(level(&rig, "CLAMPED_EVENTS", trigger).await, "WARN");
    }
}

#[tokio::test]
async fn r09_new_and_grown_rollups_are_no_finding() {
    let rig = Rig::with_events([event("a")]).await;
    for id in ["b", "c"] {
        let result = rig.rated(routine(10, 11)).await;
        assert_eq!((findings(&result), result.severity()), (vec![], Severity::Info));
        rig.insert([event(id)]).await;
    }
}

#[tokio::test]
async fn r09_a_run_that_fails_half_way_still_tells_what_its_committed_chunks_found() {
    let rig = Rig::start(BOOK, &["--chunk-hours", "1"]).await;
    rig.insert([event("a"), event("b").at("2026-06-01T09:15:00Z")]).await;
    rig.rated(routine(9, 11)).await;
    rig.sql("DELETE FROM billing_event").await;
    // Its older hour fails; the newer one has lost a billed rollup for good.
    rig.sql(
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF OLD.window_start = '2026-06-01T09:00Z' THEN RAISE EXCEPTION 'no'; END IF; RETURN OLD; END $$;
         CREATE TRIGGER no BEFORE DELETE ON rated_usage FOR EACH ROW EXECUTE FUNCTION no()",
    )
    .await;
    assert_eq!(rig.refused(routine(9, 11)).await.metadata["hours_committed"], "1");
    assert_eq!(level(&rig, "RECONCILED_DELETIONS", "routine").await, "ERROR");
    assert_eq!(found(&rig, "RECONCILED_DELETIONS", "error", "routine").await.as_deref(), Some("1"));
}

#[tokio::test]
async fn r09_every_series_of_findings_is_there_at_0_before_the_first() {
    let rig = Rig::start(BOOK, &[]).await;
    for (code, on_routine, on_backfill) in [
        ("RECONCILED_DELETIONS", "error", "info"),
        ("SHRUNK_ROLLUPS", "error", "info"),
        ("UNPRICED_EVENTS", "error", "error"),
        ("UNATTRIBUTABLE_EVENTS", "error", "error"),
        ("AMBIGUOUS_BASE_EVENTS", "error", "error"),
        ("MALFORMED_EVENTS", "error", "error"),
        ("UNEXPLAINED_ROLLUPS", "error", "error"),
        ("RATE_DRIFT", "warning", "warning"),
        ("CLAMPED_EVENTS", "warning", "warning"),
    ] {
        for (severity, trigger) in [(on_routine, "routine"), (on_backfill, "backfill")] {
            assert_eq!(found(&rig, code, severity, trigger).await.as_deref(), Some("0"), "{code} {trigger}");
        }
    }
}
