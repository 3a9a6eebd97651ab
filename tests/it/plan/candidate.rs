//! A dry run with a pricebook that is not in force: what the traffic would cost by it.

use rater::proto::{GetPricebookRequest, RateWindowRequest};

use super::{applying, changed, done, dry, named, planned};
use crate::harness::{event, run};
use crate::rig::{BOOK, Rig, backfill, dearer, routine};

fn with(candidate: &str, request: RateWindowRequest) -> RateWindowRequest {
    RateWindowRequest { pricebook_yaml: candidate.into(), ..request }
}

#[tokio::test]
async fn a_candidate_plans_what_it_then_bills_when_it_is_in_force() {
    let rig = changed(&["--chunk-hours", "3"]).await;
    let loaded = planned(&rig, backfill(8, 12)).await;
    let plan = planned(&rig, with(&dearer(), backfill(8, 12))).await;
    // Two more of acme/large are billed at its double price; acme/small keeps its own.
    assert_eq!((loaded.total_cost.as_str(), plan.total_cost.as_str()), ("0.001402", "0.002752"));
    assert_ne!(plan.plan_hash, loaded.plan_hash);
    assert_ne!(plan.pricebook_digest, loaded.pricebook_digest);
    let in_force = rig.client().get_pricebook(GetPricebookRequest::default()).await.unwrap().into_inner();
    assert_eq!(in_force.digest, loaded.pricebook_digest, "it is not put in force");
    assert_eq!(rig.one::<i64>("SELECT count(*) FROM pricebook").await, 1);

    rig.reload(&dearer()).await;
    let result = rig.rated(applying(&plan.plan_hash, backfill(8, 12))).await;
    assert_eq!(result.pricebook_digest, plan.pricebook_digest);
    assert_eq!(done(result), done(plan));
}

#[tokio::test]
async fn a_routine_plan_with_a_candidate_keeps_rates_and_counts_the_drift() {
    let rig = Rig::with_events([event("a")]).await;
    rig.rated(routine(10, 11)).await;
    let plan = planned(&rig, with(&dearer(), routine(10, 11))).await;
    assert_eq!((plan.total_cost.as_str(), plan.rate_drift_rollups), ("0.00045", 1));
    let plan = planned(&rig, with(&dearer(), backfill(10, 11))).await;
    assert_eq!((plan.total_cost.as_str(), plan.rate_drift_rollups), ("0.0009", 0));
}

#[tokio::test]
async fn an_invalid_candidate_gets_all_of_its_diagnostics_by_line_and_column() {
    let rig = Rig::with_events([event("a")]).await;
    let wrong = BOOK.replace(r#""0.0000002""#, "0.0000002").replace(r#""0.000015""#, r#""-1""#);
    let failure = rig.refused(dry(with(&wrong, backfill(10, 11)))).await;
    let validated = run_validate(&wrong);
    assert!(validated.len() >= 2, "{validated:?}");
    assert_eq!(failure.code, "INVALID_ARGUMENT");
    let said: Vec<(String, &str)> = failure
        .violations
        .iter()
        .map(|(field, what)| (field.replace("pricebook_yaml:", ""), what.split(": ").next().unwrap()))
        .collect();
    // `rater validate` says FILE:LINE:COLUMN: error: message [code] of the same.
    let expected: Vec<(String, &str)> = validated
        .iter()
        .map(|line| {
            let place = line.split(": ").next().unwrap().rsplitn(3, ':').collect::<Vec<_>>();
            let code = line.rsplit('[').next().unwrap().trim_end_matches(']');
            (format!("{}:{}", place[1], place[0]), code)
        })
        .collect();
    assert_eq!(said, expected);
    for text in ["", " ", "\n", "not a pricebook", "version: 2\n"] {
        let request = RateWindowRequest { pricebook_yaml: text.into(), ..dry(backfill(10, 11)) };
        let loaded = text.is_empty();
        assert_eq!(
            rig.rate(request).await.is_ok(),
            loaded,
            "only nothing at all is the loaded one: {text:?}"
        );
    }
}

fn run_validate(text: &str) -> Vec<String> {
    let dir = crate::harness::temp_dir();
    let file = dir.path().join("candidate.yaml");
    std::fs::write(&file, text).unwrap();
    let output = run("", &["validate", file.to_str().unwrap()]);
    assert_eq!(output.code(), Some(1), "{output:?}");
    let lines = output.stdout.lines().chain(output.stderr.lines());
    lines.filter(|line| line.ends_with(']')).map(str::to_owned).collect()
}

#[tokio::test]
async fn a_thousand_diagnostics_are_as_many_as_a_status_holds_and_the_rest_is_counted() {
    let rig = Rig::start(BOOK, &[]).await;
    let bad: String = (0..1_000).map(|n| format!("  \"m{n}\": {{prompt: 1}}\n")).collect();
    let failure = rig.refused(dry(with(&format!("version: 1\nbase_models:\n{bad}"), backfill(10, 11)))).await;
    assert_eq!(failure.code, "INVALID_ARGUMENT");
    let (last, listed) = failure.violations.split_last().unwrap();
    assert!(listed.len() < 50 && listed.len() > 5, "{}", listed.len());
    assert!(listed.iter().all(|(field, _)| field.starts_with("pricebook_yaml:")), "{listed:?}");
    assert!(last.0.is_empty() && last.1.starts_with("LEFT_OUT: "), "{last:?}");
}

#[tokio::test]
async fn what_has_no_place_in_a_plan_or_a_run_is_refused_all_at_once() {
    let rig = Rig::with_events([event("a")]).await;
    let plan = || dry(backfill(10, 11));
    let full = RateWindowRequest {
        request_id: "id".into(),
        expected_plan_hash: "0".repeat(64),
        detach: true,
        ..plan()
    };
    for (request, fields) in [
        (RateWindowRequest { request_id: "id".into(), ..plan() }, vec!["request_id"]),
        (applying(&"0".repeat(64), plan()), vec!["expected_plan_hash"]),
        (RateWindowRequest { detach: true, ..plan() }, vec!["detach"]),
        (full.clone(), vec!["request_id", "expected_plan_hash", "detach"]),
        (
            RateWindowRequest { reason: "a\0".into(), ..full },
            vec!["reason", "request_id", "expected_plan_hash", "detach"],
        ),
        (with(&dearer(), backfill(10, 11)), vec!["pricebook_yaml"]),
        (
            with("not a pricebook", applying("x", backfill(10, 11))),
            vec!["expected_plan_hash", "pricebook_yaml"],
        ),
    ] {
        let failure = rig.refused(request.clone()).await;
        assert_eq!(named(&failure), ("INVALID_ARGUMENT", fields), "{request:?}");
    }
    assert_eq!((rig.count("rating_run").await, rig.rows().await.len()), (0, 0));
}
