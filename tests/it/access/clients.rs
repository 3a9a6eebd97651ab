//! The command line shows who it is.

use std::fs;

use chrono::Utc;
use serde_json::json;

use super::guarded::{Files, Guarded, subject, uri};
use super::pki::{Pair, Valid};
use super::tokens::claims;
use crate::harness::{self, Output, Process};
use crate::rig::eventually;

const EVENT: &str = r#"{"request_id":"e1","auth_id":"a","resource_id":"r","model":"acme/large","prompt_tokens":1,"cached_tokens":0,"completion_tokens":1}"#;

/// Runs a command with this certificate, or with the token in this file.
fn run(rig: &Guarded, shown: Option<&Pair>, token: &str, arguments: &[&str], input: &str) -> Output {
    let server = rig.files.client(&rig.url(), shown);
    let path =
        |file: Option<std::path::PathBuf>| file.map(|f| f.to_str().unwrap().to_string()).unwrap_or_default();
    let (ca, cert, key) = (path(server.tls_ca), path(server.tls_cert), path(server.tls_key));
    let environment = [
        ("RATER_SERVER", server.url.as_str()),
        ("RATER_TLS_CA", &ca),
        ("RATER_TLS_CERT", &cert),
        ("RATER_TLS_KEY", &key),
        ("RATER_TOKEN_FILE", token),
    ];
    harness::run_in(&environment, arguments, input)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_command_shows_its_certificate_or_its_token() {
    let rig = Files::new().serve(&[]).await;
    let token = rig.files.path("token");
    for (role, arguments, input) in [
        ("orchestrator", &["rate"][..], ""),
        ("orchestrator", &["runs", "list"], ""),
        ("operator", &["runs", "anomalies"], ""),
        ("operator", &["rate", "--dry-run"], ""),
        ("reader", &["usage", "list"], ""),
        ("reader", &["usage", "summary"], ""),
        ("reader", &["usage", "changes"], ""),
        ("ingest", &["events", "send", "-"], EVENT),
    ] {
        let bare = run(&rig, None, "", arguments, input);
        assert_eq!(bare.code(), Some(1), "{arguments:?} without anything: {bare:?}");
        assert!(bare.stderr.contains("UNAUTHENTICATED"), "{arguments:?}: {}", bare.stderr);
        let shown = run(&rig, Some(&rig.files.certificate(role)), "", arguments, input);
        assert_eq!(shown.code(), Some(0), "{arguments:?} as {role}: {shown:?}");
        fs::write(&token, format!("{}\n", rig.files.signer.token(&subject(role)))).unwrap();
        let shown = run(&rig, None, token.to_str().unwrap(), arguments, input);
        assert_eq!(shown.code(), Some(0), "{arguments:?} as {role} by token: {shown:?}");
    }
    let other = run(&rig, Some(&rig.files.certificate("ingest")), "", &["runs", "list"], "");
    assert_eq!(other.code(), Some(1), "{other:?}");
    assert!(other.stderr.contains("PERMISSION_DENIED") && other.stderr.contains("orchestrator"), "{other:?}");
    assert_eq!(run(&rig, None, "", &["health"], "").stdout, "SERVING\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_counts_for_nothing_is_told_in_one_line() {
    let rig = Files::new().serve(&[]).await;
    let over = rig.files.client_ca.issue(&[&format!("uri:{}", uri("operator"))], Valid::Over);
    let output = run(&rig, Some(&over), "", &["runs", "list"], "");
    assert_eq!(output.code(), Some(1), "{output:?}");
    assert_eq!(output.stderr.lines().count(), 1, "{output:?}");
    assert!(output.stderr.to_lowercase().contains("certificate"), "{output:?}");
    let missing = run(&rig, None, "/nowhere/token", &["runs", "list"], "");
    assert!(missing.stderr.contains("--token-file /nowhere/token"), "{missing:?}");
    assert_eq!(missing.stderr.lines().count(), 1, "{missing:?}");
}

#[test]
fn a_token_is_not_sent_where_it_could_be_read_on_its_way() {
    let dir = harness::temp_dir();
    let token = dir.path().join("token");
    fs::write(&token, "secret").unwrap();
    let run = |server: &str, more: &[&str]| {
        let token = token.to_str().unwrap();
        let arguments = [&["runs", "list", "--server", server, "--token-file", token], more].concat();
        harness::run_in(&[], &arguments, "").stderr
    };
    let said = run("http://rater.example:1", &[]);
    assert!(said.contains("could be read on its way") && !said.contains("secret"), "{said}");
    let said = run("http://127.0.0.1:1", &[]);
    assert!(said.contains("can't reach"), "{said}");
    let said = run("http://rater.invalid:1", &["--insecure"]);
    assert!(said.contains("can't reach"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_lives_long_shows_the_token_and_the_certificate_that_are_there_now() {
    let rig = Files::new().serve(&[]).await;
    let files = &rig.files;
    let (token, spool) = (files.path("token"), files.path("spool"));
    let mut old = claims(&subject("ingest"));
    old["exp"] = json!(Utc::now().timestamp() - 3600);
    fs::write(&token, files.signer.sign(&old)).unwrap();
    let input = files.path("events.ndjson");
    fs::write(&input, format!("{EVENT}\n")).unwrap();
    let server = files.client(&rig.url(), None);
    let mut command = harness::rater();
    command
        .args(["events", "forward", "--spool", spool.to_str().unwrap()])
        .env("RATER_SERVER", rig.url())
        .env("RATER_TLS_CA", server.tls_ca.unwrap())
        .env("RATER_TOKEN_FILE", &token)
        .arg(input.to_str().unwrap());
    let process = Process::spawn(command);
    let stored = async || {
        let count: i64 =
            sqlx::query_scalar("SELECT count(*) FROM billing_event").fetch_one(rig.db.pool()).await.unwrap();
        count
    };
    let refused = |line: &serde_json::Value| line.to_string().contains("UNAUTHENTICATED");
    eventually("the old token is refused", async || process.logs().iter().any(refused)).await;
    assert_eq!(stored().await, 0);
    files.write("token", &files.signer.token(&subject("ingest")));
    eventually("the new token counts", async || stored().await == 1).await;
    drop(process);
}
