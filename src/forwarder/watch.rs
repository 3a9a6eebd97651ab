//! A line in the log when something becomes bad and when it is good again; once for each change,
//! however often it is tried in between. Only events that are set aside have a line a batch, with
//! their letters. What becomes bad is a warning, and an error where events
//! are refused or gone; what is good again is information.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use super::seen::Seen;
use crate::dead_letters::Refused;
use crate::grpc::client::Failure;

/// Ids of letters in one line.
const SHOWN_LETTERS: usize = 20;
/// Calls that fail one after the other before it is worth a line: one alone is a restart, or a
/// batch that is too large for something on the way.
const FAILURES: usize = 2;

/// Good or bad.
#[derive(Debug, Default)]
struct Flag(AtomicBool);

impl Flag {
    /// Whether that is a change.
    fn turns(&self, bad: bool) -> bool {
        self.0.swap(bad, Ordering::Relaxed) != bad
    }
}

const ROOM: u8 = 0;
const NEARLY_FULL: u8 = 1;
const FULL: u8 = 2;

/// What was told last.
#[derive(Debug, Default)]
pub(super) struct Watch {
    alert_age: Duration,
    shipping: Flag,
    /// Of what is shipped: letters, and what is done.
    disk: Flag,
    /// Of what is taken in.
    intake: Flag,
    age: Flag,
    letters: Flag,
    no_event_time: Flag,
    fullness: AtomicU8,
    /// Whether events were taken in since they were refused for the spool's limit.
    taken: AtomicBool,
    /// Connections are refused.
    crowded: Flag,
    damaged: AtomicU64,
}

impl Watch {
    /// Events that wait longer than this are told of.
    pub fn new(alert_age: Duration) -> Watch {
        Watch { alert_age, ..Watch::default() }
    }

    pub fn shipping_failed(&self, failure: &Failure, failures: usize) {
        if failures >= FAILURES && self.shipping.turns(true) {
            let Failure { code, message, .. } = failure;
            tracing::warn!(
                code,
                error = message,
                "shipping fails: it is tried again, and events wait in the spool"
            );
        }
    }

    pub fn shipping_works(&self) {
        if self.shipping.turns(false) {
            tracing::info!("shipping works again");
        }
    }

    pub fn disk_fails(&self, error: &str) {
        if self.disk.turns(true) {
            tracing::error!(error, "the disk fails: nothing is shipped until it works, and nothing is lost");
        }
    }

    pub fn disk_works(&self) {
        if self.disk.turns(false) {
            tracing::info!("the disk works again");
        }
    }

    /// Events can't be taken in, for another reason than the spool's own limit.
    pub fn intake_fails(&self, error: &str) {
        if self.intake.turns(true) {
            tracing::error!(error, "events are refused: the spool can't be written");
        }
    }

    pub fn intake_works(&self) {
        self.taken.store(true, Ordering::Relaxed);
        if self.intake.turns(false) {
            tracing::info!("events are taken in again");
        }
    }

    /// Events were refused because of the spool's own limit.
    pub fn full(&self, bytes: u64, max_bytes: u64) {
        self.taken.store(false, Ordering::Relaxed);
        if self.fullness.swap(FULL, Ordering::Relaxed) != FULL {
            tracing::error!(bytes, max_bytes, "events are refused: the spool is full");
        }
    }

    /// A producer was refused, since there are as many as there may be.
    pub fn crowded(&self, producers: usize) {
        if self.crowded.turns(true) {
            tracing::warn!(producers, "connections to the socket are refused: there are too many");
        }
    }

    /// There are places for producers.
    pub fn places(&self) {
        if self.crowded.turns(false) {
            tracing::info!("connections to the socket are taken again");
        }
    }

    /// An event came without a time, which is never given one here: sent again with another it
    /// would be another event.
    pub fn no_event_time(&self) {
        if self.no_event_time.turns(true) {
            tracing::warn!(
                "events without event_time come in: they are rated by when they are stored, which an outage makes \
                 later; let producers set it"
            );
        }
    }

    /// Some events of a batch are letters now.
    pub fn dead_lettered(&self, letters: &[Refused], ids: &[String], stored: i64, duplicates: i64) {
        let first = letters.first();
        tracing::warn!(
            rejected = letters.len(),
            stored,
            duplicates,
            letters = ids[..ids.len().min(SHOWN_LETTERS)].join(" "),
            first_reason = first.map_or("", |letter| &letter.reason),
            first_field = first.map_or("", |letter| &letter.field),
            "events were refused for their content and set aside; see `rater dead-letters list`"
        );
    }

    /// Looks at what only time shows.
    pub fn look(&self, seen: &Seen) {
        self.look_at_room(seen.depth.bytes, seen.depth.max_bytes);
        let age = seen.oldest_age().unwrap_or_default();
        let old = age > self.alert_age;
        if self.age.turns(old) {
            let (events, seconds) = (seen.depth.events, age.as_secs());
            match old {
                true => tracing::warn!(events, seconds, "the oldest event in the spool waits too long"),
                false => tracing::info!(events, "no event in the spool waits too long any more"),
            }
        }
        let letters = seen.dead_letters;
        if self.letters.turns(letters > 0) {
            match letters {
                0 => tracing::info!("there are no dead letters any more"),
                _ => tracing::warn!(letters, "there are dead letters; see `rater dead-letters list`"),
            }
        }
        let depth = &seen.depth;
        let before = self.damaged.swap(depth.damaged_ranges, Ordering::Relaxed);
        let (ranges, bytes, missing) = (depth.damaged_ranges, depth.damaged_bytes, depth.missing_records);
        if ranges > before {
            tracing::error!(ranges, bytes, missing, "the spool was damaged; what was there lies in damaged/");
        } else if ranges == 0 && before > 0 {
            tracing::info!("nothing lies in damaged/ any more");
        }
    }

    /// Nearly full from 80 %, and with room again below 70 %; after events were refused, only once
    /// some were taken in: what came may be larger than the room that there is.
    fn look_at_room(&self, bytes: u64, max_bytes: u64) {
        let percent = u128::from(bytes) * 100 / u128::from(max_bytes.max(1));
        let (before, taken) = (self.fullness.load(Ordering::Relaxed), self.taken.load(Ordering::Relaxed));
        if percent >= 80 && before == ROOM {
            self.fullness.store(NEARLY_FULL, Ordering::Relaxed);
            tracing::warn!(bytes, max_bytes, "the spool is nearly full");
        } else if percent < 70 && (before == NEARLY_FULL || before == FULL && taken) {
            self.fullness.store(ROOM, Ordering::Relaxed);
            tracing::info!(bytes, max_bytes, "the spool has room again");
        }
    }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
