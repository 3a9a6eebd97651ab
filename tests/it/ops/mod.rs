//! What a platform team stands on: metrics from the records, alerts, the dashboard, the runbook,
//! the manifests and the image. What is written down about a service is held against the real one.

mod cron;
mod dashboard;
mod image;
mod manifests;
mod records;
mod rules;
mod runbook;
mod tools;
mod yaml;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::harness::{Process, event, field, rater, temp_dir};
use crate::rig::{Rig, backfill, eventually, http_get};

/// A file of the repository.
fn file(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn text(path: &str) -> String {
    fs::read_to_string(file(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The names of our metrics in an expression.
fn metrics_of(expr: &str) -> BTreeSet<String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let words = expr.split(|c| !word(c)).filter(|word| word.starts_with("rater_"));
    words.map(str::to_owned).collect()
}

/// Every series' name that a service and a sender show, once each has done something.
async fn shown() -> BTreeSet<String> {
    let rig = Rig::with_events([event("e-1")]).await;
    rig.rated(backfill(10, 11)).await;
    eventually("the records were looked at", async || {
        let series = r#"rater_run_last_success_timestamp_seconds{trigger="backfill"}"#;
        rig.metric(series).await.is_some()
    })
    .await;
    let dir = temp_dir();
    let mut command = rater();
    command.args(["events", "forward", "--admin-listen", "127.0.0.1:0", "--spool"]);
    command.arg(dir.path().join("spool")).arg("--listen-socket").arg(dir.path().join("socket"));
    command.env("RATER_SERVER", rig.service.url()).env("RATER_RESERVE_BYTES", "0");
    let mut sender = Process::spawn(command);
    let listening = sender.wait_for_log("listening", Duration::from_secs(30)).await;
    let address = field(&listening, "admin_address").as_str().unwrap().to_string();
    let text =
        http_get(rig.service.admin_address(), "/metrics").await + &http_get(&address, "/metrics").await;
    let lines = text.lines().filter(|line| line.starts_with("rater_"));
    lines.map(|line| line.split(['{', ' ']).next().unwrap().to_owned()).collect()
}

/// Series that only a service with these settings has: a certificate that ends, and files of
/// credentials (`access::reload`).
const WITH_SETTINGS: [&str; 2] =
    ["rater_credentials_refused", "rater_tls_certificate_expiry_timestamp_seconds"];

#[tokio::test]
async fn every_metric_of_a_rule_and_of_a_panel_is_shown_by_a_live_process() {
    let mut shown = shown().await;
    shown.extend(WITH_SETTINGS.map(str::to_owned));
    let rules = rules::rules().into_iter().map(|rule| (rule.alert, rule.expr));
    let panels = dashboard::expressions();
    let mut looked_at = 0;
    for (place, expr) in rules.chain(panels) {
        for name in metrics_of(&expr) {
            looked_at += 1;
            assert!(shown.contains(&name), "{place} looks at {name}, which nobody shows: {shown:#?}");
        }
    }
    assert!(looked_at > 50, "only {looked_at} were looked at");
}
