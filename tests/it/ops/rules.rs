//! Prometheus' rules: each alert is tried both ways, has its section of the runbook, and the copy
//! for Kubernetes says the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::Value;

use super::tools::tool;
use super::yaml::documents;
use super::{file, text};
use crate::harness::{soak, temp_dir};

const RULES: &str = "ops/prometheus/rules.yaml";
const TESTS: &str = "ops/prometheus/rules_test.yaml";

pub struct Rule {
    pub alert: String,
    pub expr: String,
    labels: Value,
    annotations: Value,
}

pub fn rules() -> Vec<Rule> {
    let document = documents(&text(RULES)).remove(0);
    let groups = document["groups"].as_array().unwrap();
    let rules = groups.iter().flat_map(|group| group["rules"].as_array().unwrap());
    let said = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned();
    rules
        .map(|rule| Rule {
            alert: said(&rule["alert"]),
            expr: said(&rule["expr"]),
            labels: rule["labels"].clone(),
            annotations: rule["annotations"].clone(),
        })
        .collect()
}

pub fn alerts() -> BTreeSet<String> {
    rules().into_iter().map(|rule| rule.alert).collect()
}

#[test]
fn every_alert_says_how_bad_it_is_what_happened_and_where_to_read_on() {
    let rules = rules();
    assert!(rules.len() > 20);
    for Rule { alert, labels, annotations, .. } in &rules {
        assert!(alert.starts_with("Rater"), "{alert}");
        assert!(matches!(labels["severity"].as_str(), Some("critical" | "warning")), "{alert}: {labels}");
        for said in ["summary", "description"] {
            assert!(annotations[said].as_str().is_some_and(|text| text.len() > 10), "{alert} has no {said}");
        }
        let section = format!("docs/RUNBOOK.md#{}", alert.to_lowercase());
        assert_eq!(annotations["runbook_url"], section, "{alert}");
    }
}

#[test]
fn what_a_pager_must_have_is_among_the_alerts() {
    let alerts = alerts();
    for needed in [
        "RaterBilledUsageDeleted",
        "RaterUnpricedEvents",
        "RaterNoRoutineRun",
        "RaterBackfillStandsStill",
        "RaterOldestUnratedHour",
        "RaterSpoolAge",
        "RaterLeaseContention",
        "RaterPricebookRefused",
    ] {
        assert!(alerts.contains(needed), "{needed}");
    }
}

#[test]
fn every_alert_is_tried_where_it_fires_and_where_it_does_not() {
    let tests = documents(&text(TESTS)).remove(0);
    let mut tried: BTreeMap<String, BTreeSet<bool>> = BTreeMap::new();
    for test in tests["tests"].as_array().unwrap() {
        for case in test["alert_rule_test"].as_array().unwrap() {
            let fires = !case["exp_alerts"].as_array().unwrap().is_empty();
            tried.entry(case["alertname"].as_str().unwrap().to_owned()).or_default().insert(fires);
        }
    }
    assert_eq!(tried.keys().cloned().collect::<BTreeSet<_>>(), alerts());
    for (alert, ways) in tried {
        assert_eq!(ways.len(), 2, "{alert} is tried one way only");
    }
}

#[test]
fn promtool_takes_the_rules_and_what_is_expected_of_them() {
    let test = "promtool_takes_the_rules_and_what_is_expected_of_them";
    let Some(checked) = tool(test, "scripts/promtool.sh", &["check", "rules", RULES]) else { return };
    assert_eq!(checked.code(), Some(0), "{checked:?}");
    let tried = tool(test, "scripts/promtool.sh", &["test", "rules", TESTS]).unwrap();
    assert_eq!(tried.code(), Some(0), "{tried:?}");
}

/// The tests of the rules can fail: with a rule that never fires, and with one that always does.
/// All of them in the long version, three in the short one.
#[test]
fn a_rule_that_never_or_always_fires_fails_its_test() {
    let test = "a_rule_that_never_or_always_fires_fails_its_test";
    let whole = text(RULES);
    let exprs: BTreeSet<String> = rules().into_iter().map(|rule| rule.alert).collect();
    let every = if soak() { 1 } else { exprs.len() / 3 };
    for alert in exprs.iter().step_by(every) {
        for (what, expr) in [("never", "vector(1) > 1"), ("always", "vector(1) > 0")] {
            let dir = temp_dir();
            fs::write(dir.path().join("rules.yaml"), with_expr(&whole, alert, expr)).unwrap();
            fs::copy(file(TESTS), dir.path().join("rules_test.yaml")).unwrap();
            let tests = dir.path().join("rules_test.yaml");
            let arguments = ["test", "rules", tests.to_str().unwrap()];
            let Some(tried) = tool(test, "scripts/promtool.sh", &arguments) else { return };
            assert_eq!(tried.code(), Some(1), "{alert} that {what} fires passes: {tried:?}");
            let said = format!("{}{}", tried.stdout, tried.stderr);
            assert!(said.contains(&format!("alertname: {alert}")), "{alert}, {what}: {said}");
        }
    }
}

/// The rules with another expression for one alert.
fn with_expr(rules: &str, alert: &str, expr: &str) -> String {
    let (mut ours, mut skipping, mut out) = (false, false, String::new());
    for line in rules.lines() {
        let key = line.trim_start();
        if key.starts_with("- alert:") {
            ours = key == format!("- alert: {alert}");
        }
        if ours && key.starts_with("expr:") {
            skipping = true;
            out += &format!("        expr: {expr}\n");
            continue;
        }
        // What an expression is folded over is indented deeper.
        skipping &= line.starts_with("          ");
        if !skipping {
            out += line;
            out.push('\n');
        }
    }
    assert_ne!(out, rules);
    out
}

#[test]
fn the_copies_for_kubernetes_are_the_same() {
    let component = documents(&text("k8s/components/monitoring/rules.yaml")).remove(0);
    assert_eq!(component["kind"], "PrometheusRule");
    assert_eq!(component["spec"], documents(&text(RULES)).remove(0), "run `make manifests`");
    let dashboard = text("k8s/components/monitoring/rater.json");
    assert_eq!(dashboard, text("ops/grafana/rater.json"), "run `make manifests`");
}
