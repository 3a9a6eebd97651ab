use std::io::{Seek, read_to_string};
use std::sync::Arc;
use std::time::SystemTime;

use super::*;
use crate::forwarder::seen::{Book, Saved};
use crate::forwarder::verdict::bad_answer;

/// The lines of the log that this leaves, as `LEVEL message…`.
fn said(does: impl FnOnce()) -> Vec<String> {
    let file = Arc::new(tempfile::tempfile().expect("a file"));
    let log = tracing_subscriber::fmt()
        .with_writer(file.clone())
        .without_time()
        .with_target(false)
        .with_ansi(false)
        .finish();
    tracing::subscriber::with_default(log, does);
    (&*file).rewind().expect("a file");
    read_to_string(&*file).expect("text").lines().map(|line| line.trim().to_owned()).collect()
}

#[track_caller]
fn assert_said(lines: &[String], expected: &[&str]) {
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    for (line, start) in lines.iter().zip(expected) {
        assert!(line.starts_with(start), "{line}");
    }
}

#[test]
fn shipping_is_told_once_when_it_fails_and_once_when_it_works_again() {
    let watch = Watch::new(Duration::from_secs(300));
    let failure = bad_answer("gone".into());
    let lines = said(|| {
        watch.shipping_works();
        // One failure alone is nothing to tell.
        watch.shipping_failed(&failure, 1);
        watch.shipping_works();
        for failures in 1..50 {
            watch.shipping_failed(&failure, failures);
        }
        watch.shipping_works();
        watch.shipping_works();
    });
    assert_said(&lines, &["WARN shipping fails", "INFO shipping works again"]);
    assert!(lines[0].contains("gone"), "{}", lines[0]);
}

#[test]
fn a_disk_that_fails_is_told_once_on_each_side() {
    let watch = Watch::new(Duration::from_secs(300));
    let lines = said(|| {
        for _ in 0..3 {
            watch.disk_fails("no space");
            watch.intake_fails("no space");
        }
        for _ in 0..3 {
            watch.intake_works();
            watch.disk_works();
        }
        watch.no_event_time();
        watch.no_event_time();
    });
    let expected = [
        "ERROR the disk fails",
        "ERROR events are refused: the spool can't be written",
        "INFO events are taken in again",
        "INFO the disk works again",
        "WARN events without event_time",
    ];
    assert_said(&lines, &expected);
}

/// A snapshot with this much of a spool of 100 bytes.
fn seen(bytes: u64, change: impl FnOnce(&mut Seen)) -> Seen {
    let mut seen = Book::new(None, Saved::default()).seen();
    (seen.depth.bytes, seen.depth.max_bytes) = (bytes, 100);
    change(&mut seen);
    seen
}

#[test]
fn room_is_told_at_80_percent_when_it_is_full_and_below_70() {
    let watch = Watch::new(Duration::from_secs(300));
    let lines = said(|| {
        for bytes in [0, 79, 80, 85, 75, 81, 70] {
            watch.look(&seen(bytes, |_| {}));
        }
        for _ in 0..3 {
            watch.full(100, 100);
            watch.look(&seen(95, |_| {}));
        }
        watch.intake_works();
        watch.look(&seen(70, |_| {}));
        watch.look(&seen(69, |_| {}));
        watch.look(&seen(10, |_| {}));
    });
    let expected = [
        "WARN the spool is nearly full",
        "ERROR events are refused: the spool is full",
        "INFO the spool has room",
    ];
    assert_said(&lines, &expected);
}

#[test]
fn a_spool_that_is_too_small_for_what_comes_is_full_until_something_is_taken() {
    let watch = Watch::new(Duration::from_secs(300));
    let lines = said(|| {
        watch.intake_works();
        for _ in 0..5 {
            watch.full(10, 100);
            watch.look(&seen(10, |_| {}));
        }
        for _ in 0..5 {
            watch.intake_works();
            watch.look(&seen(10, |_| {}));
        }
    });
    assert_said(&lines, &["ERROR events are refused: the spool is full", "INFO the spool has room"]);
}

#[test]
fn refused_connections_are_told_once_on_each_side() {
    let watch = Watch::new(Duration::from_secs(300));
    let lines = said(|| {
        watch.places();
        (0..3).for_each(|_| watch.crowded(256));
        (0..3).for_each(|_| watch.places());
    });
    assert_said(&lines, &["WARN connections to the socket are refused", "INFO connections to the socket"]);
}

#[test]
fn what_time_shows_is_told_once_for_each_change() {
    let watch = Watch::new(Duration::from_secs(300));
    let old = |seen: &mut Seen| {
        seen.depth.events = 3;
        seen.depth.oldest = Some(SystemTime::now() - Duration::from_secs(301));
    };
    let young = |seen: &mut Seen| {
        seen.depth.events = 3;
        seen.depth.oldest = Some(SystemTime::now() - Duration::from_secs(200));
    };
    let lines = said(|| {
        for _ in 0..3 {
            watch.look(&seen(0, young));
            watch.look(&seen(0, old));
            watch.look(&seen(0, old));
        }
        watch.look(&seen(0, |_| {}));
    });
    let change = ["WARN the oldest event", "INFO no event in the spool waits too long"];
    assert_said(&lines, &change.repeat(3));
    let lines = said(|| {
        watch.look(&seen(0, |seen| seen.dead_letters = 2));
        watch.look(&seen(0, |seen| seen.dead_letters = 3));
        watch.look(&seen(0, |_| {}));
        watch.look(&seen(0, |seen| seen.depth.damaged_ranges = 1));
        watch.look(&seen(0, |seen| seen.depth.damaged_ranges = 1));
        watch.look(&seen(0, |seen| seen.depth.damaged_ranges = 2));
        watch.look(&seen(0, |_| {}));
    });
    let expected = [
        "WARN there are dead letters",
        "INFO there are no dead letters",
        "ERROR the spool was damaged",
        "ERROR the spool was damaged",
        "INFO nothing lies in damaged",
    ];
    assert_said(&lines, &expected);
}
