//! Letters from refused to stored, with the real binary, a real service and PostgreSQL.

mod disk;
mod kills;
mod many;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rater::dead_letters::{Content, DeadLetters, Refused};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Output, run, run_in, temp_dir};
use crate::rig::{BOOK, Rig, eventually};

/// An event that is billed.
fn event(id: &str) -> Value {
    let (auth, resource, time) = ("a", "r", "2026-06-01T10:15:00Z");
    json!({
        "request_id": id, "auth_id": auth, "resource_id": resource, "model": "acme/large",
        "prompt_tokens": "100", "completion_tokens": "10", "event_time": time,
    })
}

/// The same, but refused.
fn poison(id: &str) -> Value {
    let mut event = event(id);
    event["prompt_tokens"] = "-1".into();
    event
}

fn refused(content: Content) -> Refused {
    let [code, field, reason] = ["INVALID_ARGUMENT", "prompt_tokens", "NEGATIVE"].map(String::from);
    Refused { content, code, field, reason, message: String::new(), spooled_at: None, origin: None }
}

fn put(spool: &Path, events: impl IntoIterator<Item = Value>) {
    let letters = events.into_iter().map(|event| refused(Content::Event(event))).collect();
    DeadLetters::of(spool).put(letters).unwrap();
}

/// `rater dead-letters COMMAND --spool DIR ARGUMENTS`.
fn letters(rig: &Rig, spool: &Path, arguments: &[&str]) -> Output {
    let spool = ["--spool", spool.to_str().unwrap()];
    run(&rig.service.url(), &[&["dead-letters"], arguments, &spool].concat())
}

/// What a replay printed: replayed, stored, duplicates, refused, left.
fn totals(output: &Output) -> Vec<u64> {
    let line = output.stdout.lines().last().unwrap_or_default();
    line.split(',').map(|count| count.parse().unwrap_or_else(|_| panic!("{output:?}"))).collect()
}

/// Every file and what it holds.
fn files(spool: &Path) -> Vec<(String, String)> {
    let mut files: Vec<_> = fs::read_dir(spool.join("dead-letters"))
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            (entry.file_name().to_string_lossy().into_owned(), fs::read_to_string(entry.path()).unwrap())
        })
        .collect();
    files.sort();
    files
}

/// A replay of everything that goes on by itself.
fn replaying(url: &str, spool: &Path, arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_rater"))
        .args(["dead-letters", "replay", "--all", "-o", "csv", "--server", url, "--spool"])
        .arg(spool)
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

async fn stored(rig: &Rig) -> i64 {
    rig.count("billing_event").await
}

#[tokio::test]
async fn a_refused_event_is_mended_sent_again_and_stored_once() {
    let (rig, spool) = (Rig::start(BOOK, &[]).await, temp_dir());
    put(spool.path(), [poison("one")]);
    let again = letters(&rig, spool.path(), &["replay", "--all", "-o", "csv"]);
    assert_eq!((again.code(), totals(&again)), (Some(1), vec![1, 0, 0, 1, 0]));
    assert!(
        again.stderr.contains("refused: prompt_tokens NEGATIVE (request_id \"one\")"),
        "{}",
        again.stderr
    );
    let listed = letters(&rig, spool.path(), &["list", "-o", "json"]);
    let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
    assert_eq!(
        (&listed["tries"], &listed["reason"], &listed["request_id"]),
        (&2.into(), &"NEGATIVE".into(), &"one".into())
    );
    let id = listed["id"].as_str().unwrap();

    let shown = letters(&rig, spool.path(), &["show", &id[..10], "--event"]);
    let mended = shown.stdout.replace("\"-1\"", "\"100\"");
    let spool_variable = [("RATER_SPOOL", spool.path().to_str().unwrap())];
    let mended = run_in(&spool_variable, &["dead-letters", "mend", id, "-", "-o", "json"], &mended);
    assert_eq!(mended.code(), Some(0), "{mended:?}");
    assert!(mended.stderr.contains("replay"), "{}", mended.stderr);
    let mended: Value = serde_json::from_str(&mended.stdout).unwrap();
    let new = mended["id"].as_str().unwrap();
    assert_eq!((stored(&rig).await, mended["mended_from"].as_str()), (0, Some(id)));

    let sent = letters(&rig, spool.path(), &["replay", new, "-o", "csv"]);
    assert_eq!((sent.code(), totals(&sent), sent.stderr.as_str()), (Some(0), vec![1, 1, 0, 0, 0], ""));
    assert_eq!(letters(&rig, spool.path(), &["list", "-o", "json"]).stdout, "");
    put(spool.path(), [event("one")]);
    let known = letters(&rig, spool.path(), &["replay", "--all", "-o", "csv"]);
    assert_eq!((known.code(), totals(&known)), (Some(0), vec![1, 0, 1, 0, 0]));
    assert_eq!(stored(&rig).await, 1);
}

#[tokio::test]
async fn one_event_that_is_refused_holds_no_other() {
    let (rig, spool) = (Rig::start(BOOK, &[]).await, temp_dir());
    let events = (0..60).map(|n| if n % 10 == 3 { poison(&n.to_string()) } else { event(&n.to_string()) });
    put(spool.path(), events);
    let lines = [Content::of_line(b"{\"request_id\""), Content::of_line(b"\xff\xfe")];
    let fits = Content::Line(event("a line").to_string());
    let lines = lines.into_iter().chain([fits]).map(refused).collect();
    DeadLetters::of(spool.path()).put(lines).unwrap();
    let sent = letters(&rig, spool.path(), &["replay", "--all", "--rate", "1000", "-o", "csv"]);
    assert_eq!((sent.code(), totals(&sent)), (Some(1), vec![63, 55, 0, 8, 0]), "{}", sent.stderr);
    assert_eq!((stored(&rig).await, sent.stderr.lines().count()), (55, 8));
    assert_eq!(DeadLetters::of(spool.path()).count().unwrap(), 8);
}

#[tokio::test]
async fn a_replay_during_an_outage_leaves_every_letter_as_it_is() {
    let (rig, spool) = (Rig::start(BOOK, &[]).await, temp_dir());
    put(spool.path(), (0..20).map(|n| event(&n.to_string())));
    let before = files(spool.path());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nowhere = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let dir = spool.path().to_str().unwrap();
    let away = run(&nowhere, &["dead-letters", "replay", "--all", "--spool", dir]);
    assert_eq!(
        (away.code(), away.stdout.as_str(), away.stderr.lines().count()),
        (Some(1), "", 1),
        "{away:?}"
    );
    assert_eq!(files(spool.path()), before);

    // A database that does not answer.
    let mut hold = rig.pool().begin().await.unwrap();
    sqlx::query("LOCK TABLE billing_event IN ACCESS EXCLUSIVE MODE").execute(&mut *hold).await.unwrap();
    let stuck = letters(&rig, spool.path(), &["replay", "--all", "--retry-for", "1s", "-o", "csv"]);
    assert_eq!((stuck.code(), totals(&stuck)), (Some(1), vec![0, 0, 0, 0, 20]), "{}", stuck.stderr);
    assert_eq!(files(spool.path()), before);
    hold.rollback().await.unwrap();
    let sent = letters(&rig, spool.path(), &["replay", "--all", "-o", "csv"]);
    let totals = totals(&sent);
    assert_eq!(
        (sent.code(), totals[1] + totals[2], stored(&rig).await),
        (Some(0), 20, 20),
        "{}",
        sent.stderr
    );
}

#[tokio::test]
async fn replays_at_the_same_time_store_each_event_once() {
    let (rig, spool) = (Rig::start(BOOK, &[]).await, temp_dir());
    put(spool.path(), (0..40).map(|n| event(&n.to_string())));
    let url = rig.service.url();
    let children: Vec<Child> = (0..4).map(|_| replaying(&url, spool.path(), &["--rate", "200"])).collect();
    let mut ended = 0;
    for child in children {
        let output = child.wait_with_output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() || err.contains("another replay, mend or drop"), "{err}");
        ended += usize::from(output.status.success());
    }
    assert!(ended >= 1);
    let last = letters(&rig, spool.path(), &["replay", "--all", "-o", "csv"]);
    assert_eq!((last.code(), totals(&last), stored(&rig).await), (Some(0), vec![0; 5], 40));
}

#[tokio::test]
async fn ctrl_c_ends_a_replay_between_calls_and_tells_what_was_done() {
    let (rig, spool) = (Rig::start(BOOK, &[]).await, temp_dir());
    put(spool.path(), (0..100).map(|n| event(&n.to_string())));
    let child = replaying(&rig.service.url(), spool.path(), &["--rate", "10"]);
    eventually("something is stored", async || stored(&rig).await > 0).await;
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(1), "{err}");
    let line: Vec<i64> = out.lines().last().unwrap().split(',').map(|count| count.parse().unwrap()).collect();
    let there = stored(&rig).await;
    assert_eq!(line, [there, there, 0, 0, 100 - there]);
    assert!(err.starts_with("rater: stopped; "), "{err}");
    assert_eq!(DeadLetters::of(spool.path()).count().unwrap() as i64, 100 - there);
}

#[tokio::test]
async fn letters_are_seen_to_while_the_spool_is_in_use() {
    let (rig, spool) = (Rig::start(BOOK, &[]).await, temp_dir());
    let in_use = fs::File::create(spool.path().join("lock")).unwrap();
    in_use.lock().unwrap();
    put(spool.path(), [event("one"), poison("two")]);
    let id = Content::Event(poison("two")).id(None);
    assert_eq!(letters(&rig, spool.path(), &["list"]).stdout.lines().count(), 3);
    let mend = ["dead-letters", "mend", &id, "-", "--spool", spool.path().to_str().unwrap()];
    assert_eq!(run_in(&[], &mend, "{\"request_id\":\"two\"}").code(), Some(0));
    let one = Content::Event(event("one")).id(None);
    assert_eq!(letters(&rig, spool.path(), &["replay", &one]).code(), Some(0));
    assert_eq!(letters(&rig, spool.path(), &["drop", "--all", "-o", "csv"]).stdout, "dropped\n1\n");
    assert_eq!(stored(&rig).await, 1);
}

/// A folder in memory, where making a file durable takes no time; elsewhere if there is none.
fn fast_dir() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| temp_dir())
}
