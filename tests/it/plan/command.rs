//! `rater rate --dry-run` and `--apply`, as an operator uses them.

use serde_json::Value;

use super::changed;
use crate::harness::{Output, event, run};
use crate::rig::{BOOK, Rig, dearer};

const WINDOW: [&str; 4] = ["--since", "2026-06-01T08:00:00Z", "--until", "2026-06-01T12:00:00Z"];

fn rate(rig: &Rig, more: &[&str]) -> Output {
    run(&rig.service.url(), &[&["rate"], &WINDOW[..], more].concat())
}

fn json(output: &Output) -> Value {
    assert_eq!((output.stderr.as_str(), output.stdout.lines().count()), ("", 1), "{output:?}");
    serde_json::from_str(&output.stdout).unwrap()
}

#[tokio::test]
async fn a_plan_is_looked_at_as_a_table_and_its_last_line_applies_it() {
    let rig = changed(&["--chunk-hours", "1"]).await;
    rig.sql("DELETE FROM billing_event WHERE request_id = 'unpriced'").await;
    let plan = rate(&rig, &["--dry-run"]);
    assert_eq!((plan.code(), plan.stderr.as_str()), (Some(0), ""), "{plan:?}");
    let rows: Vec<Vec<&str>> = plan.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    let row = |name: &str| rows.iter().find(|row| row.first() == Some(&name)).unwrap()[1..].to_vec();
    assert_eq!(row("acme/large"), ["0.00135", "0.0009", "-0.00045", "1", "1", "1"]);
    assert_eq!(row("auth-4"), ["0.000026", "0.000052", "+0.000026", "0", "1", "0"]);
    assert_eq!(row("total_cost"), ["0.001402"]);
    assert!(plan.stdout.contains("RECONCILED_DELETIONS"), "{}", plan.stdout);
    assert_eq!(rig.count("rating_run").await, 1, "only the one from before");

    let apply = plan.stdout.lines().last().unwrap().strip_prefix("to apply it: rater ").unwrap();
    let arguments: Vec<&str> = apply.split(' ').chain(["-o", "json"]).collect();
    let applied = run(&rig.service.url(), &arguments);
    assert_eq!(applied.code(), Some(0));
    let result = &json(&applied)["result"];
    assert_eq!(
        (&result["total_cost"], &result["plan_hash"]),
        (&"0.001402".into(), &row("plan_hash")[0].into())
    );
    rig.assert_explained().await;

    let again = rate(&rig, &["--dry-run"]);
    assert_eq!(again.stdout.lines().last(), Some("nothing to apply: nothing would change"));
    let late = run(&rig.service.url(), &arguments);
    assert_eq!((late.code(), late.stdout.as_str(), late.stderr.lines().count()), (Some(1), "", 1));
    assert!(late.stderr.contains("no longer do what the expected plan says"), "{}", late.stderr);
    let now = again.stdout.lines().find_map(|line| line.strip_prefix("plan_hash")).unwrap().trim();
    assert!(late.stderr.contains(now), "it names the plan now: {}", late.stderr);
    assert!(
        late.stderr.contains("not rated: 2026-06-01T08:00:00Z to 2026-06-01T12:00:00Z"),
        "{}",
        late.stderr
    );
}

#[tokio::test]
async fn a_plan_of_the_trailing_hours_is_applied_to_the_same_hours_as_a_routine_run() {
    let rig = Rig::start(BOOK, &[]).await;
    rig.insert([event("a")]).await;
    rig.sql("UPDATE billing_event SET event_ts = now() - interval '2 hours'").await;
    let plan = run(&rig.service.url(), &["rate", "--dry-run"]);
    let apply = plan.stdout.lines().last().unwrap().strip_prefix("to apply it: rater ").unwrap();
    assert!(apply.contains(" --trigger routine --apply "), "{apply}");
    let applied = run(&rig.service.url(), &apply.split(' ').collect::<Vec<_>>());
    assert_eq!((applied.code(), rig.rows().await.len()), (Some(0), 1), "{applied:?}");
}

#[tokio::test]
async fn a_plan_in_json_and_csv_is_the_result_and_nothing_else() {
    let rig = changed(&[]).await;
    let plan = rate(&rig, &["--dry-run", "-o", "json"]);
    // An event without a price.
    assert_eq!(plan.code(), Some(2));
    let answer = json(&plan);
    assert_eq!((&answer["run_id"], &answer["state"]), (&"".into(), &"RUN_STATE_SUCCEEDED".into()));
    let result = &answer["result"];
    assert_eq!((&result["dry_run"], &result["previous_cost"]), (&true.into(), &"0.001826".into()));
    assert_eq!(result["changes_by_auth_id"][0]["name"], "auth-2");
    assert_eq!(result["changes_by_model"][1]["updated_rollups"], "1");
    let csv = rate(&rig, &["--dry-run", "-o", "csv"]);
    assert_eq!((csv.code(), csv.stderr.as_str()), (Some(2), ""));
    let lines: Vec<Vec<&str>> = csv.stdout.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!((lines.len(), lines[0].len()), (2, lines[1].len()));
    let at = |name| lines[1][lines[0].iter().position(|header| *header == name).unwrap()];
    assert_eq!((at("run_id"), at("total_cost"), at("severity")), ("", "0.001402", "error"));
    assert_eq!(Value::from(at("plan_hash")), result["plan_hash"]);
    let applied = rate(&rig, &["--apply", at("plan_hash"), "-o", "csv"]);
    assert_eq!(applied.code(), Some(2), "{applied:?}");
    assert!(applied.stdout.contains(at("plan_hash")), "{applied:?}");
    let wrong = rate(&rig, &["--apply", "abc"]);
    assert_eq!((wrong.code(), wrong.stderr.lines().count()), (Some(1), 1));
    assert!(wrong.stderr.contains("expected_plan_hash"), "{}", wrong.stderr);
}

#[tokio::test]
async fn a_candidate_file_is_planned_with_and_a_bad_one_is_told_line_by_line() {
    let rig = Rig::with_events([event("a")]).await;
    let dir = crate::harness::temp_dir();
    let file = dir.path().join("new.yaml");
    let name = file.to_str().unwrap();
    std::fs::write(&file, dearer()).unwrap();
    let plan = rate(&rig, &["--dry-run", "--pricebook", name]);
    assert_eq!((plan.code(), plan.stderr.as_str()), (Some(0), ""));
    assert!(plan.stdout.contains("0.0009"), "{}", plan.stdout);
    let how = format!("to apply it, once {name} is the service's pricebook: rater rate --since ");
    assert!(plan.stdout.lines().last().unwrap().starts_with(&how), "{}", plan.stdout);

    std::fs::write(&file, BOOK.replace(r#""0.000015""#, "0.000015").replace(r#""1.5""#, r#""x""#)).unwrap();
    let bad = rate(&rig, &["--dry-run", "--pricebook", name, "-o", "json"]);
    assert_eq!((bad.code(), bad.stdout.as_str()), (Some(1), ""));
    let validated = run("", &["validate", name]);
    let errors = |text: &str| text.lines().filter(|line| line.starts_with(name)).count();
    assert_eq!(errors(&bad.stderr), errors(&validated.stdout) + errors(&validated.stderr), "{bad:?}");
    assert!(bad.stderr.lines().all(|line| line.starts_with(&format!("{name}:"))), "{}", bad.stderr);
    let alone = rate(&rig, &["--pricebook", name]);
    assert_eq!((alone.code(), alone.stderr.lines().count()), (Some(1), 1));
    assert_eq!(rig.count("rating_run").await, 0);
}
