//! Grafana's dashboard: whole, without places that two panels share, and every expression one that
//! Prometheus takes.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use super::tools::tool;
use super::{metrics_of, text};
use crate::harness::temp_dir;

fn dashboard() -> Value {
    serde_json::from_str(&text("ops/grafana/rater.json")).unwrap()
}

fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    dashboard["panels"].as_array().unwrap().iter()
}

/// Every expression, with the panel that shows it.
pub fn expressions() -> Vec<(String, String)> {
    let dashboard = dashboard();
    let mut found = Vec::new();
    for panel in panels(&dashboard) {
        for target in panel["targets"].as_array().into_iter().flatten() {
            found.push((panel["title"].to_string(), target["expr"].as_str().unwrap().to_owned()));
        }
    }
    found
}

#[test]
fn the_dashboard_is_whole() {
    let dashboard = dashboard();
    assert_eq!(dashboard["uid"], "rater-overview");
    assert!(dashboard["schemaVersion"].as_i64().unwrap() >= 36, "older ones have panels' datasource as text");
    assert!(dashboard.get("id").is_none(), "an id is of one Grafana");
    let variables: Vec<&str> = dashboard["templating"]["list"]
        .as_array()
        .unwrap()
        .iter()
        .map(|variable| variable["name"].as_str().unwrap())
        .collect();
    assert_eq!(variables, ["datasource", "namespace"]);
    let (mut ids, mut taken) = (BTreeSet::new(), BTreeSet::new());
    for panel in panels(&dashboard) {
        let title = &panel["title"];
        assert!(ids.insert(panel["id"].as_i64().unwrap()), "{title} has another one's id");
        let at = |name: &str| panel["gridPos"][name].as_i64().unwrap();
        assert!(at("x") + at("w") <= 24, "{title} is past the edge");
        for x in at("x")..at("x") + at("w") {
            for y in at("y")..at("y") + at("h") {
                assert!(taken.insert((x, y)), "{title} lies over another panel");
            }
        }
        match panel["type"].as_str().unwrap() {
            "row" => assert!(panel["panels"].as_array().unwrap().is_empty() && panel["collapsed"] == false),
            "stat" | "timeseries" => {
                assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{title} has no unit");
                let targets = panel["targets"].as_array().unwrap();
                let letters: BTreeSet<_> = targets.iter().map(|t| t["refId"].as_str().unwrap()).collect();
                assert!(!targets.is_empty() && letters.len() == targets.len(), "{title}");
                for target in targets {
                    assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
                    let expr = target["expr"].as_str().unwrap();
                    let ours = metrics_of(expr).len();
                    let chosen = expr.matches("namespace=~\"$namespace\"").count();
                    assert!(ours > 0 && chosen == expr.matches('{').count(), "{title}: {expr}");
                }
            }
            other => panic!("{title} is a {other}, which nobody has looked at"),
        }
    }
}

#[test]
fn prometheus_takes_every_expression_of_the_dashboard() {
    let test = "prometheus_takes_every_expression_of_the_dashboard";
    let mut rules = String::from("groups:\n  - name: dashboard\n    rules:\n");
    for (n, (_, expr)) in expressions().iter().enumerate() {
        let expr = expr.replace("$__rate_interval", "5m").replace("$namespace", ".*");
        rules += &format!("      - {{record: panel_{n}, expr: '{expr}'}}\n");
    }
    let dir = temp_dir();
    let path = dir.path().join("rules.yaml");
    fs::write(&path, rules).unwrap();
    let arguments = ["check", "rules", path.to_str().unwrap()];
    let Some(checked) = tool(test, "scripts/promtool.sh", &arguments) else { return };
    assert_eq!(checked.code(), Some(0), "{checked:?}");
}
