//! `rater rate`, `rater events send`, `rater health`, and what a wrong command line gets.

use serde_json::Value;

use crate::harness::{event, run, run_in};
use crate::rig::{BOOK, Rig};

const WINDOW: [&str; 4] = ["--since", "2026-06-01T10:00:00Z", "--until", "2026-06-01T11:00:00Z"];

fn rate(rig: &Rig, more: &[&str]) -> crate::harness::Output {
    run(&rig.service.url(), &[&["rate"], &WINDOW[..], more].concat())
}

#[tokio::test]
async fn rate_prints_one_json_line_with_the_contracts_names_and_nothing_else() {
    let rig = Rig::with_events([event("a")]).await;
    let output = rate(&rig, &["-o", "json", "--reason", "a fix"]);
    assert_eq!((output.code(), output.stderr.as_str(), output.stdout.lines().count()), (Some(0), "", 1));
    let json: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(json["state"], "RUN_STATE_SUCCEEDED");
    let result = &json["result"];
    assert_eq!(
        (&result["trigger"], &result["rate_basis"]),
        (&"TRIGGER_BACKFILL".into(), &"RATE_BASIS_PRICEBOOK".into())
    );
    assert_eq!((&result["total_cost"], &result["inserted_rollups"]), (&"0.00045".into(), &"1".into()));
    assert_eq!(result["window"]["start"], "2026-06-01T10:00:00Z");
    assert_eq!((&result["findings"], &result["unpriced_events"]), (&Value::Array(vec![]), &"0".into()));
    let kept: (String, String) =
        sqlx::query_as("SELECT reason, request_id FROM rating_run").fetch_one(rig.pool()).await.unwrap();
    assert_eq!(kept.0, "a fix");
    assert!(kept.1.starts_with("cli-"), "it has an id of its own: {}", kept.1);
    assert_eq!(rig.run(json["run_id"].as_str().unwrap()).await.0, "succeeded");
}

#[tokio::test]
async fn rate_ends_with_0_1_or_2() {
    let rig = Rig::with_events([event("a")]).await;
    assert_eq!(rate(&rig, &[]).code(), Some(0));
    rig.insert([event("b").model("acme/unknown")]).await;
    let found = rate(&rig, &[]);
    assert_eq!((found.code(), found.stderr.as_str()), (Some(2), ""));
    assert!(found.stdout.contains("UNPRICED_EVENTS"), "{}", found.stdout);
    // A warning is no error.
    rig.sql("DELETE FROM billing_event WHERE request_id = 'b'").await;
    rig.insert([event("c").auth("c").tokens(1, 2, 3)]).await;
    assert_eq!(rate(&rig, &[]).code(), Some(0));
    let failed = rate(&rig, &["--expected-pricebook-digest", &"0".repeat(64)]);
    assert_eq!((failed.code(), failed.stdout.as_str(), failed.stderr.lines().count()), (Some(1), "", 1));
    assert!(
        failed.stderr.starts_with("rater: FAILED_PRECONDITION: the loaded pricebook"),
        "{}",
        failed.stderr
    );
    let refused = run(
        &rig.service.url(),
        &["rate", "--since", "2026-06-01T10:30:00Z", "--until", "2026-06-01T10:40:00Z"],
    );
    assert_eq!((refused.code(), refused.stderr.lines().count()), (Some(1), 1));
    assert!(refused.stderr.contains("since") && refused.stderr.contains("until"), "{}", refused.stderr);
}

#[tokio::test]
async fn rate_prints_csv_with_a_header() {
    let rig = Rig::with_events([event("a")]).await;
    let output = rate(&rig, &["-o", "csv"]);
    let lines: Vec<Vec<&str>> = output.stdout.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!((lines.len(), lines[0].len()), (2, lines[1].len()));
    let at = |name| lines[1][lines[0].iter().position(|header| *header == name).unwrap()];
    assert_eq!((at("severity"), at("trigger"), at("total_cost")), ("info", "backfill", "0.00045"));
    assert_eq!((at("since"), at("until")), ("2026-06-01T10:00:00Z", "2026-06-01T11:00:00Z"));
}

#[tokio::test]
async fn a_busy_window_is_an_error_at_once() {
    let rig = Rig::with_events([event("a")]).await;
    rig.sql(
        "INSERT INTO rating_lease (run_id, during, expires_at)
         VALUES ('other', '[2026-06-01T10:00Z,2026-06-01T11:00Z)', now() + interval '1 hour')",
    )
    .await;
    let output = rate(&rig, &["-o", "json"]);
    assert_eq!((output.code(), output.stdout.as_str()), (Some(1), ""));
    assert!(output.stderr.starts_with("rater: ABORTED: run other is rating"), "{}", output.stderr);
}

#[test]
fn what_is_wrong_with_a_command_line_is_named() {
    for (arguments, named) in [
        (&["rate", "--since", "yesterday"][..], "--since"),
        (&["rate", "--trigger", "loud"], "--trigger"),
        (&["rate", "--basis", "cheap"], "--basis"),
        (&["rate", "--no-such"], "--no-such"),
        (&["rate", "--retry-for", "10"], "--retry-for"),
        (&["rate", "--pricebook", "/no/such/book.yaml"], "--dry-run"),
        (&["rate", "--dry-run", "--pricebook", "/no/such/book.yaml"], "/no/such/book.yaml"),
        (&["rate", "--dry-run", "--detach"], "--detach"),
        (&["rate", "--dry-run", "--apply", "x"], "--apply"),
        (&["runs", "list", "--state", "lost"], "--state"),
        (&["runs", "show"], "<RUN>"),
        (&["runs", "anomalies", "--group-by", "colour"], "--group-by"),
        (&["usage", "list", "--page-size", "0"], "--page-size"),
        (&["usage", "list", "-o", "xml"], "--output"),
        (&["serve"], "--pricebook"),
        (&["serve", "--pricebook", "x", "--lease-ttl", "10ms"], "--lease-ttl"),
        (&["serve", "--pricebook", "x", "--chunk-hours", "0"], "--chunk-hours"),
        (&["serve", "--pricebook", "x", "--listen", "here"], "--listen"),
        (&["serve", "--pricebook", "/no/such/book.yaml"], "/no/such/book.yaml"),
        (&["migrate", "up"], "RATER_DATABASE_URL"),
        (&["nothing"], "nothing"),
    ] {
        let output = run("", arguments);
        assert_eq!((output.code(), output.stdout.as_str()), (Some(1), ""), "{arguments:?}");
        assert!(output.stderr.contains(named), "{arguments:?}: {}", output.stderr);
    }
}

#[test]
fn serve_without_a_database_names_what_to_set() {
    let dir = crate::harness::temp_dir();
    let book = dir.path().join("book.yaml");
    std::fs::write(&book, BOOK).unwrap();
    let book = book.to_str().unwrap();
    let output =
        run("", &["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--pricebook", book]);
    assert_eq!(output.code(), Some(1));
    assert!(output.stderr.contains("no database: give --database-url"), "{}", output.stderr);
    let wrong = run_in(&[("RATER_DATABASE_URL", "mysql://x")], &["migrate", "status"], "");
    assert_eq!((wrong.code(), wrong.stderr.lines().count()), (Some(1), 1), "{}", wrong.stderr);
}

#[tokio::test]
async fn events_come_in_from_standard_input_and_are_billed() {
    let rig = Rig::start(BOOK, &[]).await;
    let line = |id: &str, more: &str| {
        format!(
            r#"{{"request_id":"{id}","auth_id":"a","resource_id":"r","model":"acme/large","prompt_tokens":100,
            "completion_tokens":"10","event_time":"2026-06-01T10:15:00Z"{more}}}"#
        )
        .replace('\n', " ")
            + "\n"
    };
    let environment = [("RATER_SERVER", rig.service.url())];
    let environment = environment.each_ref().map(|(name, value)| (*name, value.as_str()));
    let input = line("1", "") + &line("2", r#","aborted":true,"cached_tokens":50"#) + &line("1", "");
    let sent = run_in(&environment, &["events", "send", "-", "-o", "json"], &input);
    assert_eq!((sent.code(), sent.stderr.as_str()), (Some(0), ""), "{sent:?}");
    assert_eq!(sent.stdout, "{\"stored\":\"2\",\"duplicates\":\"1\",\"rejected\":[]}\n");
    let rated = rate(&rig, &["-o", "json"]);
    assert!(rated.stdout.contains(r#""total_cost":"0.000765""#), "{}", rated.stdout);
    let wrong = run_in(&environment, &["events", "send", "-"], &(line("3", "") + "{\"request\": 1}\n"));
    assert_eq!(wrong.code(), Some(1));
    assert!(wrong.stderr.contains("stdin:2"), "{}", wrong.stderr);
}

#[tokio::test]
async fn a_reader_that_is_gone_does_not_change_how_rate_ends() {
    let rig = Rig::with_events([event("a"), event("b").model("acme/unknown")]).await;
    for format in ["json", "csv", "table"] {
        let ended = unread(&rig, &[&["rate", "-o", format], &WINDOW[..]].concat());
        assert_eq!(ended, (Some(2), String::new()), "{format}");
    }
}

#[tokio::test]
async fn a_reader_that_is_gone_does_not_change_what_a_probe_gets() {
    let rig = Rig::start(BOOK, &[]).await;
    assert_eq!(unread(&rig, &["health"]), (Some(0), String::new()));
}

/// The exit code and the standard error of a command whose standard output nobody reads.
fn unread(rig: &Rig, arguments: &[&str]) -> (Option<i32>, String) {
    use std::process::{Command, Stdio};
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = Command::new(env!("CARGO_BIN_EXE_rater"))
        .args(arguments)
        .args(["--server", &rig.service.url()])
        .stdout(writer)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}
