use std::fs;

use clap::Parser;

use super::*;
use crate::forwarder::{Forwarder, Options};
use crate::grpc::client::Server;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    status: Status,
}

/// Its exit code, what it printed and what it complained of.
fn status(folder: &std::path::Path, arguments: &[&str]) -> (ExitCode, String, Vec<String>) {
    let spool = folder.to_str().expect("text");
    let all = [&["status", "--spool", spool], arguments].concat();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = Cli::try_parse_from(all).expect("valid").status.run(&mut Console::to(&mut out, &mut err));
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (code.expect("a spool"), text(out), text(err).lines().map(str::to_owned).collect())
}

fn json(folder: &std::path::Path) -> Value {
    serde_json::from_str(&status(folder, &["-o", "json"]).1).expect("JSON")
}

async fn forwarder(folder: &std::path::Path) -> Forwarder {
    let server = Server { url: "http://127.0.0.1:1".into(), ..Server::default() };
    Forwarder::open(folder, &server, Options::default()).await.expect("a spool").0
}

#[tokio::test]
async fn a_spool_is_told_with_and_without_its_forwarder() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path().join("spool");
    let running = forwarder(&folder).await;
    let (code, table, complaints) = status(&folder, &[]);
    assert_eq!((code, complaints), (ExitCode::SUCCESS, vec![]));
    assert!(table.contains("running") && table.contains("0 B"), "{table}");
    running.append_json(b"{}").await.expect("room");
    let told = json(&folder);
    assert_eq!((&told["running"], &told["events"]), (&true.into(), &1.into()));
    assert!(told["bytes"].as_u64() > Some(0) && told["oldest_at"].is_string(), "{told}");
    assert_eq!(told["shipped"]["stored"], 0);
    drop(running);
    // The spool's writer is a thread that ends on its own.
    while crate::spool::inspect(&folder).expect("a spool").in_use {
        tokio::task::yield_now().await;
    }
    let (code, csv, complaints) = status(&folder, &["-o", "csv", "--alert-age", "0s"]);
    assert_eq!(code, ExitCode::FAILURE);
    assert!(
        csv.starts_with("running,events,bytes,max_bytes,oldest_at,oldest_age_seconds,stored,duplicates,"),
        "{csv}"
    );
    assert!(csv.contains("\nfalse,1,"), "{csv}");
    assert!(complaints[0].contains("1 events wait, and no forwarder runs"), "{complaints:?}");
}

#[tokio::test]
async fn each_thing_that_is_bad_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path().join("spool");
    let running = forwarder(&folder).await;
    running.append_json(b"{}").await.expect("room");
    let letter = crate::dead_letters::Refused {
        content: crate::dead_letters::Content::Line("x".into()),
        code: String::new(),
        field: String::new(),
        reason: "NOT_AN_EVENT".into(),
        message: String::new(),
        spooled_at: None,
        origin: None,
    };
    running.set_aside(vec![letter]).await.expect("set aside");
    fs::write(folder.join("damaged/00000000000000000001-40-9.bin"), "precious!").expect("a file");
    fs::write(
        folder.join("status.json"),
        r#"{"stored":7,"last_error":{"code":"UNAVAILABLE","message":"gone","at":"2026-06-01T00:00:00Z"},"max_bytes":30}"#,
    )
    .expect("a file");
    let (code, _, complaints) = status(&folder, &[]);
    assert_eq!(code, ExitCode::FAILURE);
    for what in ["shipping fails: UNAVAILABLE: gone", "nearly full", "1 dead letters", "was damaged"] {
        assert!(complaints.iter().any(|line| line.contains(what)), "{what} in {complaints:?}");
    }
    let told = json(&folder);
    assert_eq!((&told["last_error"], &told["dead_letters"]), (&"UNAVAILABLE: gone".into(), &1.into()));
    assert_eq!((&told["shipped"]["stored"], &told["damaged_ranges"]), (&7.into(), &1.into()));
    // One that can't be read is no reason to fail.
    fs::write(folder.join("status.json"), "{").expect("a file");
    assert_eq!(json(&folder)["shipped"]["stored"], 0);
}

#[test]
fn a_folder_that_is_no_spool_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let spool = folder.path().join("none");
    let cli = Cli::try_parse_from(["status", "--spool", spool.to_str().expect("text")]).expect("valid");
    let error = cli.status.run(&mut Console::to(Vec::new(), Vec::new())).expect_err("none");
    assert!(error.contains("--spool"), "{error}");
}
