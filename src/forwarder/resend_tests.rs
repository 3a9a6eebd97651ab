//! What is kept, to a service that does as it is told.

use std::sync::Mutex;
use std::time::Instant;

use super::*;
use crate::dead_letters::DeadLetters;
use crate::forwarder::{Forwarder, Options};
use crate::grpc::client::connect_lazy;
use crate::grpc::client::scripted::{Does, Judge, serve, service};
use crate::proto::{BillingEvent, RejectedEvent};

fn record(ordinal: u64) -> Record {
    Record { ordinal, appended_at: SystemTime::UNIX_EPOCH, payload: vec![0; 10] }
}

fn records(count: u64) -> mpsc::Receiver<Record> {
    let (sender, receiver) = mpsc::channel(100);
    for ordinal in 0..count {
        sender.try_send(record(ordinal)).expect("room");
    }
    receiver
}

#[tokio::test]
async fn records_come_at_the_pace_that_was_asked_for_and_again_until_they_are_done() {
    let mut kept = Kept::new(records(30), Some(100));
    let started = Instant::now();
    let mut ordinals = Vec::new();
    loop {
        let first = kept.peek(5, 1_000).await.expect("no disk");
        let again = kept.peek(3, 25).await.expect("no disk");
        assert_eq!(again[..], first[..first.len().min(3)]);
        if again.is_empty() {
            break;
        }
        ordinals.extend(again.iter().map(|record| record.ordinal));
        kept.done(again.len()).await.expect("no disk");
    }
    assert_eq!(ordinals, (0..30).collect::<Vec<_>>());
    assert!(started.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn no_more_is_read_than_a_batch_may_hold() {
    let mut kept = Kept::new(records(30), None);
    assert_eq!(kept.peek(1_000, 95).await.expect("no disk").len(), 10);
    assert_eq!(kept.peek(4, 95).await.expect("no disk").len(), 4);
    assert_eq!((kept.waiting.len(), kept.records.len()), (10, 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_or_breaks_the_service_is_told_and_passed_over_and_makes_no_letter() {
    let (folder, before) = (tempfile::tempdir().expect("a folder"), serve(vec![], 0).await);
    let mut options = Options::default();
    options.spool.retain = Duration::from_secs(3_600);
    let (forwarder, shipping) =
        Forwarder::open(folder.path(), &before.server(), options).await.expect("a spool");
    let event = |n| BillingEvent { request_id: format!("r{n}"), ..BillingEvent::default() };
    forwarder.append((0..20).map(event).collect()).await.expect("taken");
    forwarder.close();
    shipping.run(CancellationToken::new()).await;
    assert_eq!(before.stored().len(), 20);

    // Everything is known to it, but for what it refuses.
    before.judges(judge());
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = told.clone();
    let ended = resend(
        folder.path(),
        Again { since: None, rate: None, batch_size: 20 },
        connect_lazy(&before.server()).expect("a URL"),
        move |refused| {
            let id = refused.content.request_id().unwrap_or_default().to_owned();
            tell.lock().expect("told").push((id, refused.reason.clone()));
        },
        CancellationToken::new(),
    );
    let resent = tokio::time::timeout(Duration::from_secs(30), ended).await.expect("it ends");
    let expected = Resent { stored: 0, duplicates: 17, refused: 3, complete: true, unreadable: vec![] };
    assert_eq!(resent.expect("kept"), expected);
    let reasons = [("r3", "TOO_LONG"), ("r7", "INTERNAL"), ("r19", "INTERNAL")];
    assert_eq!(*told.lock().expect("told"), reasons.map(|(id, reason)| (id.to_owned(), reason.to_owned())));
    assert_eq!(DeadLetters::of(folder.path()).count().expect("none"), 0);
}

/// Rejects r3, and fails over r7 and r19.
fn judge() -> Judge {
    Box::new(|request| {
        let place = |id| request.events.iter().position(|event| event.request_id == id);
        if place("r7").or(place("r19")).is_some() {
            return Some(Does::Refuses(service::Error::Internal));
        }
        let index = i32::try_from(place("r3")?).ok()?;
        let reason = "TOO_LONG".into();
        Some(Does::Rejects(vec![RejectedEvent { index, reason, ..RejectedEvent::default() }]))
    })
}
