//! `rater usage list`.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::harness::{Output, event, run};
use crate::rig::{BOOK, Rig, backfill};

async fn filled() -> Rig {
    let rig = Rig::start(BOOK, &[]).await;
    rig.insert((0..7).map(|n| event(&n.to_string()).auth(&format!("auth,{n}")))).await;
    rig.rated(backfill(10, 11)).await;
    rig
}

fn list(rig: &Rig, more: &[&str]) -> Output {
    let output = run(&rig.service.url(), &[&["usage", "list"], more].concat());
    assert_eq!((output.code(), output.stderr.as_str()), (Some(0), ""), "{more:?}");
    output
}

#[tokio::test]
async fn json_is_a_line_a_row_whatever_the_pages() {
    let rig = filled().await;
    let whole = list(&rig, &["-o", "json"]);
    let rows: Vec<Value> = whole.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 7);
    assert_eq!((&rows[0]["auth_id"], &rows[0]["cost"]), (&"auth,0".into(), &"0.00045".into()));
    assert_eq!(
        (&rows[0]["prompt_tokens"], &rows[0]["window_start"]),
        (&"100".into(), &"2026-06-01T10:00:00Z".into())
    );
    for size in ["1", "2", "3", "7"] {
        assert_eq!(list(&rig, &["-o", "json", "--page-size", size]).stdout, whole.stdout);
    }
    for (limit, lines) in [("0", 0), ("1", 1), ("5", 5), ("100", 7)] {
        let limited = list(&rig, &["-o", "json", "--page-size", "2", "--limit", limit]);
        assert_eq!(limited.stdout.lines().count(), lines, "--limit {limit}");
        assert!(whole.stdout.starts_with(&limited.stdout));
    }
}

#[tokio::test]
async fn csv_has_one_header_and_quotes_what_needs_it() {
    let rig = filled().await;
    let whole = list(&rig, &["-o", "csv"]).stdout;
    assert_eq!(whole.lines().count(), 8);
    assert!(whole.starts_with("window_start,auth_id,"), "{whole}");
    assert!(whole.contains("\n2026-06-01T10:00:00Z,\"auth,0\",resource-1,acme/large,1,100,"), "{whole}");
    assert!(whole.lines().next().unwrap().contains(",price_class,"), "a copy has the whole key: {whole}");
    assert_eq!(list(&rig, &["-o", "csv", "--page-size", "3"]).stdout, whole);
    let none = list(&rig, &["-o", "csv", "--auth-id", "nobody"]).stdout;
    assert_eq!(none.lines().count(), 1);
}

#[tokio::test]
async fn a_table_has_its_headers_and_filters_are_passed_on() {
    let rig = filled().await;
    let narrow = ["--auth-id", "auth,3", "--model-id", "acme/large", "--since", "2026-06-01T10:00:00Z"];
    let table = list(&rig, &narrow).stdout;
    assert_eq!(table.lines().count(), 2, "{table}");
    assert!(table.contains("cost") && table.contains("auth,3") && table.contains("0.00045"), "{table}");
    assert!(!table.contains("auth,4"));
    assert_eq!(list(&rig, &["--until", "2026-06-01T10:00:00Z", "-o", "json"]).stdout, "");
}

#[tokio::test]
async fn a_reader_that_has_enough_ends_it_quietly() {
    let rig = Rig::start(BOOK, &[]).await;
    rig.free_rollups(3_000).await;
    for format in ["json", "csv", "table"] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_rater"))
            .args(["usage", "list", "-o", format, "--server", &rig.service.url()])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &*said), (Some(0), ""), "{format}");
        assert!(!line.is_empty());
    }
}

#[tokio::test]
async fn rows_that_are_wrong_to_ask_for_are_refused_in_one_line() {
    let rig = Rig::start(BOOK, &[]).await;
    let arguments = ["usage", "list", "--since", "2026-06-02T00:00:00Z", "--until", "2026-06-01T00:00:00Z"];
    let output = run(&rig.service.url(), &arguments);
    assert_eq!((output.code(), output.stdout.as_str(), output.stderr.lines().count()), (Some(1), "", 1));
    assert!(output.stderr.contains("filter.until"), "{}", output.stderr);
}
