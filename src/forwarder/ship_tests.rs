//! Against a service that does as it is told, with records from memory and letters on the disk.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Mutex;
use std::time::{Instant, SystemTime};

use prost::Message;

use super::*;
use crate::dead_letters::{Content, Entry, Letter};
use crate::domain::violation::Violation;
use crate::forwarder::seen::{Saved, Seen};
use crate::grpc::client::scripted::{Does, Judge, Scripted, serve_judged, service};
use crate::proto::{BillingEvent, RejectedEvent};
use crate::spool::{Error, Record};

#[path = "suspect_tests.rs"]
mod suspects;

/// Records from memory.
struct Memory {
    records: VecDeque<Record>,
    letters: DeadLetters,
    /// What was done at once, and how many letters there were then.
    done: Arc<Mutex<Vec<(usize, u64)>>>,
    /// So often `done` fails.
    fails: usize,
}

impl Source for Memory {
    async fn peek(&mut self, records: usize, _: usize) -> Result<Vec<Record>, Error> {
        Ok(self.records.iter().take(records).cloned().collect())
    }

    async fn done(&mut self, count: usize) -> Result<(), Error> {
        if self.fails > 0 {
            self.fails -= 1;
            return Err(Error::NotPeeked { count, peeked: 0 });
        }
        self.done.lock().expect("done").push((count, self.letters.count().expect("letters")));
        self.records.drain(..count);
        Ok(())
    }
}

/// A shipper and what it works on.
struct Scene {
    folder: tempfile::TempDir,
    service: Scripted,
    book: Arc<Book>,
    stop: CancellationToken,
    batch_size: usize,
    fails: usize,
    done: Arc<Mutex<Vec<(usize, u64)>>>,
}

impl Scene {
    async fn new(judge: Judge, batch_size: usize) -> Scene {
        Scene::with_broken(judge, batch_size, 0).await
    }

    async fn with_broken(judge: Judge, batch_size: usize, broken: usize) -> Scene {
        Scene {
            folder: tempfile::tempdir().expect("a folder"),
            service: serve_judged(judge, broken).await,
            book: Arc::new(Book::new(None, Saved::default())),
            stop: CancellationToken::new(),
            batch_size,
            fails: 0,
            done: Arc::default(),
        }
    }

    fn shipper(&self, payloads: Vec<Vec<u8>>) -> Shipper<Memory> {
        let letters = DeadLetters::of(self.folder.path());
        let records = (0..).zip(payloads);
        let records = records.map(|(ordinal, payload)| Record {
            ordinal,
            appended_at: SystemTime::UNIX_EPOCH,
            payload,
        });
        let (records, done) = (records.collect(), self.done.clone());
        let source = Memory { records, letters: letters.clone(), done, fails: self.fails };
        let channel = crate::grpc::client::connect_lazy(&self.service.server()).expect("a URL");
        let millis = Duration::from_millis;
        Shipper::new(
            source,
            Way {
                sender: EventSender::new(channel, Duration::ZERO),
                aside: Aside::Letters(letters),
                book: self.book.clone(),
                watch: Arc::new(Watch::new(Duration::MAX)),
                stop: self.stop.clone(),
                batch_size: self.batch_size,
                pauses: Pauses { first: millis(1), longest: millis(4) },
            },
        )
    }

    /// Ships these to the end.
    async fn ships(&self, ids: &[String]) {
        let ended = self.shipper(encoded(ids)).run();
        let ended = tokio::time::timeout(Duration::from_secs(60), ended).await.expect("it ends");
        assert_eq!(ended, Ok(()));
    }

    fn seen(&self) -> Seen {
        self.book.seen()
    }

    /// The letters' ids of events, and what they were refused for last.
    fn letters(&self) -> BTreeSet<(String, String)> {
        let entries = DeadLetters::of(self.folder.path()).list().expect("letters");
        let letters = entries.into_iter().map(|entry| match entry {
            Entry::Letter(letter) => letter,
            Entry::Damaged { .. } => panic!("damaged"),
        });
        let name = |letter: &Letter| letter.content.request_id().unwrap_or("none").to_owned();
        letters.map(|letter| (name(&letter), letter.history[0].reason.clone())).collect()
    }

    fn holds(&self, stored: &[String]) {
        assert_eq!(self.service.stored(), stored.iter().cloned().collect());
    }
}

fn ids(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| format!("r{n}")).collect()
}

fn encoded(ids: &[String]) -> Vec<Vec<u8>> {
    let event = |id: &String| BillingEvent { request_id: id.clone(), ..BillingEvent::default() };
    ids.iter().map(|id| event(id).encode_to_vec()).collect()
}

/// As the script says, and then everything is stored.
fn script(does: Vec<Does>) -> Judge {
    let mut does = VecDeque::from(does);
    Box::new(move |_| does.pop_front())
}

/// Answers with this whenever one of these is in the batch; its place is told.
fn breaks_over(poison: &[&'static str], with: impl Fn(usize) -> service::Error + Send + 'static) -> Judge {
    let poison = poison.to_vec();
    Box::new(move |request| {
        let hit = request.events.iter().position(|event| poison.contains(&event.request_id.as_str()));
        hit.map(|place| Does::Refuses(with(place)))
    })
}

fn violation(place: usize) -> Vec<Violation> {
    vec![Violation::new(format!("events[{place}].model"), "TOO_LONG", "shorten it")]
}

fn defect() -> Does {
    Does::Refuses(service::Error::Internal)
}

fn without(all: &[String], some: &[&str]) -> Vec<String> {
    all.iter().filter(|id| !some.contains(&id.as_str())).cloned().collect()
}

#[tokio::test]
async fn trouble_that_is_not_the_events_own_is_tried_again_and_never_a_letter() {
    for code in [
        "UNAVAILABLE",
        "RESOURCE_EXHAUSTED",
        "DEADLINE_EXCEEDED",
        "CANCELLED",
        "ABORTED",
        "PERMISSION_DENIED",
        "UNAUTHENTICATED",
        "UNIMPLEMENTED",
        "FAILED_PRECONDITION",
        "NOT_FOUND",
        // Those that the service uses for an event, too, from something else on the way.
        "INVALID_ARGUMENT",
        "OUT_OF_RANGE",
        "ALREADY_EXISTS",
        "INTERNAL",
        "UNKNOWN",
        "DATA_LOSS",
    ] {
        for count in [1, 5] {
            let scene = Scene::new(script((0..20).map(|_| Does::Code(code, None)).collect()), 5).await;
            scene.ships(&ids(0..count)).await;
            scene.holds(&ids(0..count));
            assert!(scene.letters().is_empty(), "{code}");
            assert_eq!((scene.seen().counts.retried, scene.seen().retries[code]), (20, 20));
            assert_eq!(scene.seen().last_error.expect("told").code, code);
        }
    }
}

#[tokio::test]
async fn connections_that_break_are_trouble() {
    let scene = Scene::with_broken(script(vec![]), 2, 5).await;
    scene.ships(&ids(0..6)).await;
    scene.holds(&ids(0..6));
    assert!(scene.letters().is_empty());
    assert!(scene.seen().counts.retried >= 5);
}

#[tokio::test]
async fn a_pause_that_the_service_asks_for_is_kept() {
    let asks = Does::Code("RESOURCE_EXHAUSTED", Some(Duration::from_millis(400)));
    let scene = Scene::new(script(vec![asks]), 5).await;
    let started = Instant::now();
    scene.ships(&ids(0..2)).await;
    assert!(started.elapsed() >= Duration::from_millis(400));
}

#[tokio::test]
async fn a_failure_halves_the_batch_and_a_success_doubles_it() {
    let scene = Scene::new(script((0..3).map(|_| Does::Code("UNAVAILABLE", None)).collect()), 16).await;
    scene.ships(&ids(0..70)).await;
    assert_eq!(scene.service.calls(), [16, 8, 4, 2, 4, 8, 16, 16, 16, 8]);
    scene.holds(&ids(0..70));
    // A limit on the way never stops it.
    let limit: Judge =
        Box::new(|request| (request.events.len() > 5).then_some(Does::Code("RESOURCE_EXHAUSTED", None)));
    let scene = Scene::new(limit, 64).await;
    scene.ships(&ids(0..100)).await;
    scene.holds(&ids(0..100));
}

#[tokio::test]
async fn what_is_rejected_is_a_letter_before_it_is_done_and_the_rest_is_stored() {
    let rejects = |index: i32, reason: &str| RejectedEvent {
        index,
        request_id: "any".into(),
        field: "model".into(),
        reason: reason.into(),
    };
    let rejected = vec![rejects(1, "TOO_LONG"), rejects(3, "EVENT_CONFLICT")];
    let mut scene = Scene::new(script(vec![Does::Rejects(rejected)]), 5).await;
    scene.fails = 3;
    scene.ships(&ids(0..7)).await;
    scene.holds(&without(&ids(0..7), &["r1", "r3"]));
    let letters = [("r1", "TOO_LONG"), ("r3", "EVENT_CONFLICT")];
    assert_eq!(scene.letters(), letters.map(|(id, reason)| (id.into(), reason.into())).into());
    assert_eq!(*scene.done.lock().expect("done"), [(5, 2), (2, 2)]);
    let counts = scene.seen().counts;
    assert_eq!((counts.stored, counts.duplicates, counts.dead_lettered, counts.retried), (5, 0, 2, 0));
    assert_eq!(scene.seen().last_error.expect("of the disk").code, "SPOOL");
}

#[tokio::test]
async fn an_event_that_is_refused_alone_is_a_letter_and_costs_nobody_else() {
    type With = fn(usize) -> service::Error;
    let refusals: [(With, &str); 2] = [
        (|place| service::Error::Invalid(violation(place)), "INVALID_ARGUMENT"),
        (|place| service::Error::EventConflict(violation(place)), "EVENT_CONFLICT"),
    ];
    for (with, reason) in refusals {
        let scene = Scene::new(breaks_over(&["r13", "r14", "r39"], with), 40).await;
        scene.ships(&ids(0..40)).await;
        scene.holds(&without(&ids(0..40), &["r13", "r14", "r39"]));
        let letters = ["r13", "r14", "r39"].map(|id| (id.to_owned(), reason.to_owned()));
        assert_eq!(scene.letters(), letters.into());
    }
}

#[tokio::test]
async fn an_answer_that_does_not_add_up_is_no_answer() {
    let rejected = |index| RejectedEvent { index, ..RejectedEvent::default() };
    let answers = [
        (0, 0, vec![]),
        (2, 0, vec![]),
        (4, 0, vec![]),
        (2, 2, vec![]),
        (-1, 4, vec![]),
        (i64::MAX, i64::MAX, vec![]),
        (2, 0, vec![rejected(3)]),
        (2, 0, vec![rejected(-1)]),
        (1, 0, vec![rejected(1), rejected(1)]),
    ];
    for (stored, duplicates, rejected) in answers {
        let says = Does::Says(RecordEventsResponse { stored, duplicates, rejected });
        let scene = Scene::new(script(vec![says]), 3).await;
        scene.ships(&ids(0..3)).await;
        scene.holds(&ids(0..3));
        assert!(scene.letters().is_empty());
        assert_eq!(scene.seen().last_error.expect("told").code, "BAD_ANSWER");
        assert_eq!(scene.seen().counts.stored, 3);
    }
}

#[tokio::test]
async fn nothing_is_done_while_letters_cannot_be_written() {
    let rejected = vec![RejectedEvent { index: 0, reason: "MISSING".into(), ..RejectedEvent::default() }];
    let scene = Scene::new(script(vec![Does::Rejects(rejected)]), 2).await;
    // A file where the folder belongs.
    let blocked = scene.folder.path().join("dead-letters");
    std::fs::write(&blocked, "").expect("a file");
    let shipping = tokio::spawn(scene.shipper(encoded(&ids(0..4))).run());
    while scene.seen().last_error.is_none() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(scene.seen().last_error.expect("told").code, "DEAD_LETTERS");
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(scene.done.lock().expect("done").is_empty() && !shipping.is_finished());
    assert_eq!(scene.service.calls(), [2], "nothing is shipped past it");
    std::fs::remove_file(&blocked).expect("removed");
    assert_eq!(shipping.await.expect("no panic"), Ok(()));
    scene.holds(&ids(1..4));
    assert_eq!(scene.letters(), [("r0".to_owned(), "MISSING".to_owned())].into());
}

#[tokio::test]
async fn a_record_that_holds_no_event_is_set_aside_whole() {
    let scene = Scene::new(script(vec![]), 3).await;
    let mut payloads = encoded(&ids(0..4));
    payloads[1] = b"\xff\xff\xff".to_vec();
    payloads.push(b"no event".to_vec());
    assert_eq!(scene.shipper(payloads).run().await, Ok(()));
    scene.holds(&without(&ids(0..4), &["r1"]));
    let entries = DeadLetters::of(scene.folder.path()).list().expect("letters");
    let contents: Vec<_> = entries
        .into_iter()
        .map(|entry| match entry {
            Entry::Letter(letter) => letter.content,
            Entry::Damaged { .. } => panic!("damaged"),
        })
        .collect();
    assert!(contents.contains(&Content::Line("no event".into())), "{contents:?}");
    assert!(contents.contains(&Content::of_line(b"\xff\xff\xff")), "{contents:?}");
}

#[tokio::test]
async fn a_stop_ends_a_pause_at_once_and_waits_for_a_call_in_flight() {
    let asks = Does::Code("UNAVAILABLE", Some(Duration::from_secs(60)));
    let scene = Scene::new(script(vec![asks]), 3).await;
    let shipping = tokio::spawn(scene.shipper(encoded(&ids(0..3))).run());
    while scene.service.calls().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    scene.stop.cancel();
    let started = Instant::now();
    assert_eq!(shipping.await.expect("no panic"), Err(Stopped));
    assert!(started.elapsed() < Duration::from_secs(2));
    assert!(scene.done.lock().expect("done").is_empty());
    // A call that is never answered is given up after a while.
    let scene = Scene::new(script(vec![Does::Hangs]), 3).await;
    let shipping = tokio::spawn(scene.shipper(encoded(&ids(0..3))).run());
    while scene.service.calls().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let started = Instant::now();
    scene.stop.cancel();
    assert_eq!(shipping.await.expect("no panic"), Err(Stopped));
    assert!((LAST_CALL..LAST_CALL * 2).contains(&started.elapsed()));
}
