//! What a dry run says: everything that the run would, its changes in money, and one hash.

use rater::domain::money::Money;
use rater::proto::{CostChange, FindingCode, RatingResult, Severity};

use super::{changed, done, planned};
use crate::harness::event;
use crate::rig::{BOOK, Rig, backfill, findings, routine};

/// Name, cost before and after, rollups inserted, updated and deleted.
type Line<'a> = (&'a str, &'a str, &'a str, [i64; 3]);

fn lines(changes: &[CostChange]) -> Vec<Line<'_>> {
    let rollups = |c: &CostChange| [c.inserted_rollups, c.updated_rollups, c.reconciled_deletions];
    changes.iter().map(|c| (&*c.name, &*c.previous_cost, &*c.total_cost, rollups(c))).collect()
}

/// Each breakdown accounts for all that changes, to the last digit.
fn assert_accounted(plan: &RatingResult) {
    let money = |text: &str| Money::parse(text).unwrap();
    let moved = |total: &str, previous: &str| money(total).minus(money(previous)).unwrap();
    for changes in [&plan.changes_by_model, &plan.changes_by_auth_id] {
        let sum = changes.iter().fold(Money::ZERO, |sum, change| {
            sum.plus(moved(&change.total_cost, &change.previous_cost)).unwrap()
        });
        assert_eq!(sum, moved(&plan.total_cost, &plan.previous_cost));
        let rollups = |count: fn(&CostChange) -> i64| changes.iter().map(count).sum::<i64>();
        assert_eq!(
            [
                rollups(|change| change.inserted_rollups),
                rollups(|change| change.updated_rollups),
                rollups(|change| change.reconciled_deletions)
            ],
            [plan.inserted_rollups, plan.updated_rollups, plan.reconciled_deletions]
        );
    }
}

#[tokio::test]
async fn a_dry_run_reports_what_would_change_and_the_run_does_exactly_that() {
    for (request, loss) in [(backfill(8, 12), Severity::Info), (routine(8, 12), Severity::Error)] {
        let rig = changed(&[]).await;
        let plan = planned(&rig, request.clone()).await;
        assert_eq!((plan.events, plan.rated_events, plan.unpriced_events), (6, 5, 1));
        assert_eq!((plan.rollups, plan.inserted_rollups, plan.updated_rollups), (4, 1, 2));
        assert_eq!((plan.unchanged_rollups, plan.reconciled_deletions, plan.shrunk_rollups), (1, 1, 1));
        assert_eq!((plan.previous_cost.as_str(), plan.total_cost.as_str()), ("0.001826", "0.001402"));
        let mut found = findings(&plan);
        found.sort_by_key(|(code, _, _)| *code as i32);
        assert_eq!(
            found,
            [
                (FindingCode::ReconciledDeletions, loss, 1),
                (FindingCode::UnpricedEvents, Severity::Error, 1),
                (FindingCode::ShrunkRollups, loss, 1)
            ]
        );
        assert_eq!(plan.severity(), Severity::Error);
        // Nothing has happened yet: nobody is woken.
        let level = |line: &serde_json::Value| line["level"] == "ERROR" || line["level"] == "WARN";
        assert!(!rig.service.logs().iter().any(level), "{:#?}", rig.service.logs());
        for trigger in ["routine", "backfill"] {
            let labels = format!(r#"code="UNPRICED_EVENTS",severity="error",trigger="{trigger}""#);
            assert_eq!(rig.metric(&format!("rater_findings_total{{{labels}}}")).await.as_deref(), Some("0"));
        }
        assert_eq!(rig.rated(request).await, done(plan));
    }
}

#[tokio::test]
async fn its_changes_are_named_by_model_and_by_customer_the_largest_first() {
    let rig = changed(&["--chunk-hours", "1"]).await;
    let plan = planned(&rig, backfill(8, 12)).await;
    assert_eq!(
        lines(&plan.changes_by_model),
        [("acme/large", "0.00135", "0.0009", [1, 1, 1]), ("acme/small", "0.000026", "0.000052", [0, 1, 0])]
    );
    assert_eq!(
        lines(&plan.changes_by_auth_id),
        [
            ("auth-2", "0.00045", "0", [0, 0, 1]),
            ("auth-3", "0.0009", "0.00045", [0, 1, 0]),
            ("auth-5", "0", "0.00045", [1, 0, 0]),
            ("auth-4", "0.000026", "0.000052", [0, 1, 0])
        ]
    );
    assert_accounted(&plan);
    let run = rig.rated(backfill(8, 12)).await;
    assert_eq!((run.changes_by_model, run.changes_by_auth_id), (vec![], vec![]));
    // Nothing is left to change.
    let plan = planned(&rig, backfill(8, 12)).await;
    assert_eq!((plan.changes_by_model, plan.changes_by_auth_id), (vec![], vec![]));
    assert_eq!((plan.unchanged_rollups, plan.previous_cost), (4, plan.total_cost));
}

#[tokio::test]
async fn past_a_thousand_customers_the_smallest_changes_are_one_line_without_a_name() {
    let rig = Rig::start(BOOK, &["--chunk-hours", "1"]).await;
    rig.sql(
        "INSERT INTO billing_event (request_id, auth_id, resource_id, model, prompt_tokens, cached_tokens,
             completion_tokens, event_ts)
         SELECT n || '-' || h, 'auth-' || n, 'r', 'acme/large', n, 0, 0,
             timestamptz '2026-06-01T00:15:00Z' + h * interval '1 hour'
         FROM generate_series(1, 1003) n, generate_series(9, 11) h",
    )
    .await;
    let plan = planned(&rig, backfill(9, 12)).await;
    assert_accounted(&plan);
    let changes = lines(&plan.changes_by_auth_id);
    assert_eq!(changes.len(), 1_001);
    assert_eq!(changes[0], ("auth-1003", "0", "0.009027", [3, 0, 0]));
    assert_eq!(changes[999], ("auth-4", "0", "0.000036", [3, 0, 0]));
    // 3 × (1 + 2 + 3) tokens.
    assert_eq!(changes[1_000], ("", "0", "0.000054", [9, 0, 0]));
}

#[tokio::test]
async fn a_dry_run_is_refused_what_its_run_would_be_refused() {
    let rig = Rig::with_events([event("a")]).await;
    rig.rated(backfill(10, 11)).await;
    rig.sql("UPDATE rated_usage SET currency_code = 'EUR'").await;
    let (plan, run) = (rig.refused(super::dry(backfill(9, 12))).await, rig.refused(backfill(9, 12)).await);
    assert_eq!((plan.code, plan.reason.as_str()), ("FAILED_PRECONDITION", "CURRENCY_MISMATCH"));
    assert_eq!((plan.code, plan.reason), (run.code, run.reason));
    let open =
        rig.one::<String>("SELECT to_char(now() + interval '2 hours', 'YYYY-MM-DD\"T\"HH24:00:00TZH:00')");
    let until = Some(crate::rig::timestamp(&open.await));
    let request = rater::proto::RateWindowRequest { until, ..backfill(10, 11) };
    assert_eq!(rig.refused(super::dry(request)).await.reason, "WINDOW_NOT_CLOSED");
    assert_eq!(rig.count("rating_run").await, 1);
}

#[tokio::test]
async fn a_plan_has_one_hash_whatever_the_chunks_the_run_and_the_time() {
    let mut hashes = Vec::new();
    for arguments in [&[][..], &["--chunk-hours", "1", "--parallel", "4"], &["--chunk-hours", "3"]] {
        let rig = changed(arguments).await;
        hashes.push(planned(&rig, backfill(8, 12)).await.plan_hash);
        // Runs of other hours take ids and fences.
        rig.rated(backfill(1, 2)).await;
        hashes.push(planned(&rig, backfill(8, 12)).await.plan_hash);
    }
    hashes.dedup();
    assert_eq!(hashes.len(), 1, "{hashes:?}");
}
