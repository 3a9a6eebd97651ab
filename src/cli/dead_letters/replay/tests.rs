//! Against a send that does as it is told, whose pauses take no time, and a service likewise.

use std::io::ErrorKind;

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::dead_letters::{Content, Refused};
use crate::grpc::client::scripted::{Does, serve};
use crate::proto::{RecordEventsResponse, RejectedEvent};

fn content(id: usize) -> Content {
    Content::Event(json!({"request_id": format!("r{id:05}")}))
}

fn refused(content: Content) -> Refused {
    let [code, field, reason, message] = ["INVALID_ARGUMENT", "model", "TOO_LONG", ""].map(String::from);
    Refused { content, code, field, reason, message, spooled_at: None, origin: None }
}

/// Letters of events, the first the oldest.
fn spool(events: usize) -> (TempDir, DeadLetters) {
    let dir = tempfile::tempdir().expect("a folder");
    let letters = DeadLetters::of(dir.path());
    // One by one, up to where that takes too long.
    let size = if events > 64 { events } else { 1 };
    for ids in (0..events).collect::<Vec<_>>().chunks(size) {
        letters.put(ids.iter().map(|id| refused(content(*id))).collect()).expect("put");
    }
    (dir, letters)
}

/// How the service stands to an event.
#[derive(Clone, Copy, PartialEq)]
enum To {
    Store,
    Know,
    Reject,
    Fail(&'static str),
}

fn failure(code: &'static str) -> Failure {
    Failure {
        code,
        message: "no".into(),
        // What the service fails over, it says.
        reason: if code == "INTERNAL" { code.into() } else { String::new() },
        metadata: Default::default(),
        violations: vec![("events[0].model".into(), "is too long".into())],
        retry_after: None,
        may_pass: matches!(code, "UNAVAILABLE" | "RESOURCE_EXHAUSTED"),
    }
}

/// What a service does that stands so to its events; a failure is the whole call's.
async fn answer(events: &[BillingEvent], to: impl Fn(usize) -> To) -> Result<RecordEventsResponse, Failure> {
    let mut response = RecordEventsResponse::default();
    for (index, event) in events.iter().enumerate() {
        match to(event.request_id.trim_start_matches('r').parse().expect("a number")) {
            To::Store => response.stored += 1,
            To::Know => response.duplicates += 1,
            To::Fail(code) => return Err(failure(code)),
            To::Reject => response.rejected.push(RejectedEvent {
                index: index as i32,
                request_id: event.request_id.clone(),
                field: "model".into(),
                reason: "TOO_LONG".into(),
            }),
        }
    }
    Ok(response)
}

/// What a replay of everything came to, with when and how large each call was.
struct Ran {
    ended: Result<(), String>,
    totals: Totals,
    err: String,
    calls: Vec<(Duration, usize)>,
    sent: Vec<String>,
}

async fn replay(letters: &DeadLetters, rate: u32, to: impl Fn(usize) -> To) -> Ran {
    let (began, mut calls, mut sent, mut err) = (Instant::now(), Vec::new(), Vec::new(), Vec::new());
    let mut console = Console::to(std::io::sink(), &mut err);
    let ids = in_order(letters, letters.ids().expect("ids"), &mut console);
    let now = std::cell::Cell::new(began);
    let pause = async |until: Instant| now.set(until);
    let mut sending = Sending::new(letters, Pace::of(rate), pause, CancellationToken::new(), &mut console);
    let ended = sending
        .all(ids, async |events: Vec<BillingEvent>| {
            calls.push((now.get() - began, events.len()));
            sent.extend(events.iter().map(|event| event.request_id.clone()));
            answer(&events, &to).await
        })
        .await;
    let totals = sending.totals();
    drop(console);
    Ran { ended, totals, err: String::from_utf8(err).expect("UTF-8"), calls, sent }
}

/// The numbers of the letters that are there, and how often each was refused.
fn there(letters: &DeadLetters) -> Vec<(String, u64)> {
    let entries = letters.list().expect("listed").into_iter();
    entries
        .map(|entry| match entry {
            crate::dead_letters::Entry::Letter(letter) => {
                (letter.content.request_id().unwrap_or_default().to_owned(), letter.tries)
            }
            damaged => panic!("{damaged:?}"),
        })
        .collect()
}

#[tokio::test]
async fn no_second_has_more_events_than_the_rate() {
    for (rate, events) in [(1, 5), (7, 30), (100, 120), (3_000, 400)] {
        let (_dir, letters) = spool(events);
        let ran = replay(&letters, rate, |_| To::Store).await;
        assert_eq!(
            (ran.ended, ran.totals.stored, letters.count().expect("none")),
            (Ok(()), events as u64, 0)
        );
        for (from, _) in &ran.calls {
            let second =
                ran.calls.iter().filter(|(at, _)| at >= from && *at < *from + Duration::from_secs(1));
            let sent: usize = second.map(|(_, events)| events).sum();
            assert!(sent <= rate as usize, "{sent} events in a second, at a rate of {rate}");
        }
    }
}

#[tokio::test]
async fn calls_that_are_sent_again_in_halves_keep_to_the_rate() {
    let (_dir, letters) = spool(64);
    let bad = |id| if id == 21 { To::Fail("INVALID_ARGUMENT") } else { To::Store };
    let ran = replay(&letters, 640, bad).await;
    assert_eq!(ran.totals, Totals { replayed: 64, stored: 63, duplicates: 0, refused: 1, left: 0 });
    assert_eq!(ran.calls.iter().map(|call| call.1).take(7).collect::<Vec<_>>(), [64, 32, 16, 16, 8, 4, 4]);
    for pair in ran.calls.windows(2) {
        let due = Duration::from_micros(pair[0].1 as u64 * 1_000_000 / 640);
        assert!(pair[1].0 - pair[0].0 >= due, "{pair:?}");
    }
    assert_eq!(there(&letters), [("r00021".into(), 2)]);
}

#[tokio::test]
async fn what_is_stored_goes_and_what_is_refused_goes_back_with_its_history() {
    let (_dir, letters) = spool(30);
    letters.put(vec![refused(Content::Line("{\"request_id\": ".into()))]).expect("put");
    letters.put(vec![refused(Content::Line("{\"requestId\":\"r00030\"}".into()))]).expect("put");
    let to = |id| match id {
        3 | 17 => To::Reject,
        5 => To::Know,
        _ => To::Store,
    };
    let ran = replay(&letters, 100, to).await;
    assert_eq!(ran.ended, Ok(()));
    assert_eq!(ran.totals, Totals { replayed: 32, stored: 28, duplicates: 1, refused: 3, left: 0 });
    let mut in_order = ran.sent.clone();
    in_order.sort();
    assert_eq!(ran.sent, in_order, "oldest first");
    assert_eq!(there(&letters), [("r00003".into(), 2), ("r00017".into(), 2), (String::new(), 2)]);
    assert_eq!(ran.err.lines().count(), 3);
    assert!(ran.err.contains("refused: model TOO_LONG (request_id \"r00003\")"), "{}", ran.err);
    assert!(ran.err.contains("refused: NOT_AN_EVENT column"), "{}", ran.err);
    let letter = letters.get(&content(3).id(None)).expect("there");
    assert_eq!(letter.history.len(), 2);
}

#[tokio::test]
async fn trouble_ends_it_and_changes_no_letter() {
    let troubles =
        ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "PERMISSION_DENIED", "UNAUTHENTICATED", "UNIMPLEMENTED"];
    for code in troubles.into_iter().chain(["INTERNAL", "UNKNOWN", "FAILED_PRECONDITION", "NOT_FOUND"]) {
        let (_dir, letters) = spool(25);
        let before = letters.list().expect("listed");
        let ran = replay(&letters, 100, |id| if id < 10 { To::Store } else { To::Fail(code) }).await;
        assert!(ran.ended.expect_err("trouble").contains(code));
        assert_eq!((ran.totals.stored, ran.totals.replayed), (10, 10), "{code}");
        assert_eq!(letters.list().expect("listed"), before[10..], "{code}");
    }
}

#[tokio::test]
async fn an_event_that_breaks_the_service_holds_no_other() {
    let (_dir, letters) = spool(40);
    let ran = replay(&letters, 100, |id| if id == 12 { To::Fail("INTERNAL") } else { To::Store }).await;
    assert_eq!(ran.ended, Ok(()));
    assert_eq!(ran.totals, Totals { replayed: 40, stored: 39, duplicates: 0, refused: 1, left: 0 });
    assert_eq!(there(&letters), [("r00012".into(), 2)]);
    // Without an event after it that is stored, nothing shows that it is the event.
    let ran = replay(&letters, 100, |_| To::Fail("INTERNAL")).await;
    assert!(ran.ended.expect_err("unclear").contains("INTERNAL"));
    assert_eq!((ran.totals.replayed, there(&letters)), (0, vec![("r00012".into(), 2)]));
}

#[tokio::test]
async fn an_answer_that_does_not_add_up_takes_no_letter() {
    let (_dir, letters) = spool(3);
    let rejected = |index| RejectedEvent { index, ..RejectedEvent::default() };
    for (stored, rejected) in [
        (2, vec![]),
        (4, vec![]),
        (-1, vec![]),
        (i64::MAX, vec![rejected(0)]),
        (2, vec![rejected(3)]),
        (2, vec![rejected(-1)]),
        (1, vec![rejected(1), rejected(1)]),
    ] {
        let mut console = Console::to(std::io::sink(), std::io::sink());
        let mut sending =
            Sending::new(&letters, Pace::of(100), async |_| (), CancellationToken::new(), &mut console);
        let response = RecordEventsResponse { stored, duplicates: 0, rejected };
        let ended = sending.all(letters.ids().expect("ids"), async |_| Ok(response.clone())).await;
        assert!(ended.expect_err("refused").contains("does not add up"));
        assert_eq!(letters.count().expect("counted"), 3);
    }
}

#[tokio::test]
async fn a_stop_ends_it_between_calls() {
    let (_dir, letters) = spool(50);
    let stop = CancellationToken::new();
    let mut console = Console::to(std::io::sink(), std::io::sink());
    let sleep = async |until: Instant| tokio::time::sleep_until(until.into()).await;
    let mut sending = Sending::new(&letters, Pace::of(100), sleep, stop.clone(), &mut console);
    let ids =
        in_order(&letters, letters.ids().expect("ids"), &mut Console::to(std::io::sink(), std::io::sink()));
    let mut calls = 0;
    let ended = sending
        .all(ids.clone(), async |events: Vec<BillingEvent>| {
            calls += 1;
            if calls == 2 {
                stop.cancel();
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            answer(&events, |_| To::Store).await
        })
        .await;
    assert_eq!(ended, Err("stopped".into()));
    assert_eq!(
        (sending.totals().stored, letters.count().expect("counted")),
        (20, 30),
        "the call was awaited"
    );
    // One that gets no answer is not awaited for ever.
    let stop = CancellationToken::new();
    let mut sending = Sending::new(&letters, Pace::of(100), async |_| (), stop.clone(), &mut console);
    let hangs = async |_| {
        stop.cancel();
        std::future::pending().await
    };
    assert!(sending.all(ids, hangs).await.expect_err("stopped").contains("no answer"));
    assert_eq!(letters.count().expect("counted"), 30);
}

#[derive(clap::Parser)]
struct Cli {
    #[command(subcommand)]
    command: super::super::Command,
}

/// Runs `rater dead-letters replay` against a service with this script.
async fn command(
    spool: &TempDir,
    script: Vec<Does>,
    arguments: &[&str],
) -> (Result<bool, String>, String, String) {
    let service = serve(script, 0).await;
    let (url, dir) = (service.server().url, spool.path().display().to_string());
    let all = [&["x", "replay", "--spool", &dir, "--server", &url], arguments].concat();
    let cli = <Cli as clap::Parser>::try_parse_from(all).expect("valid arguments");
    let super::super::Command::Replay(replay) = cli.command else { panic!("a replay") };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut console = Console::to(&mut out, &mut err);
    let ended = replay.replay(&mut console, CancellationToken::new()).await;
    drop(console);
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (ended.map(|code| code == ExitCode::SUCCESS), text(out), text(err))
}

#[tokio::test]
async fn it_is_a_success_only_when_all_that_was_named_is_stored() {
    let (dir, letters) = spool(3);
    let none = command(&dir, vec![], &[]).await.0.expect_err("what?");
    assert_eq!(none, "say which letters: their ids, or --all");
    assert!(command(&dir, vec![], &["--all", "abc"]).await.0.is_err());
    assert!(command(&dir, vec![], &["nosuch"]).await.0.expect_err("unknown").contains("no letter nosuch"));
    let rejected =
        RejectedEvent { index: 0, field: "model".into(), reason: "MISSING".into(), request_id: "".into() };
    let one = content(0).id(None);
    let ran = command(&dir, vec![Does::Rejects(vec![rejected])], &[&one[..20], "-o", "csv"]).await;
    assert_eq!((ran.0, ran.1.as_str()), (Ok(false), "replayed,stored,duplicates,refused,left\n1,0,0,1,0\n"));
    let ran = command(&dir, vec![], &[&one, "-o", "json"]).await;
    assert_eq!((ran.0, ran.2.as_str()), (Ok(true), ""));
    assert_eq!(ran.1, "{\"replayed\":1,\"stored\":1,\"duplicates\":0,\"refused\":0,\"left\":0}\n");
    std::fs::write(letters.dir().join("notes"), "x").expect("written");
    let ran = command(&dir, vec![], &["--all", "-o", "csv"]).await;
    assert_eq!((ran.0, ran.1.lines().last()), (Ok(false), Some("2,2,0,0,1")));
    assert!(ran.2.contains("notes: letter notes can't be read"), "{}", ran.2);
}

#[tokio::test]
async fn a_service_that_stays_away_leaves_every_letter_as_it_is() {
    let (dir, letters) = spool(12);
    let before = letters.list().expect("listed");
    let script = (0..100).map(|_| Does::Fails(ErrorKind::ConnectionRefused)).collect();
    let ran = command(&dir, script, &["--all", "--retry-for", "300ms", "-o", "csv"]).await;
    assert_eq!((ran.0, ran.1.lines().last()), (Ok(false), Some("0,0,0,0,12")));
    assert!(ran.2.ends_with("UNAVAILABLE: later; 12 letters are left as they are\n"), "{}", ran.2);
    assert_eq!(letters.list().expect("listed"), before);
}
