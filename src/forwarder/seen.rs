//! What can be seen of a forwarder: counted in one place, read by the log, the metrics and the
//! status file.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::spool::{Depth, Spool};

/// Events, but for `retried`, by what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Taken into the spool.
    pub spooled: u64,
    /// Stored by the service.
    pub stored: u64,
    /// Stored before with the same content, as the service says.
    pub duplicates: u64,
    /// Set aside as dead letters.
    pub dead_lettered: u64,
    /// Calls that failed and were made again.
    pub retried: u64,
}

impl Counts {
    fn add(&mut self, more: Counts) {
        self.spooled += more.spooled;
        self.stored += more.stored;
        self.duplicates += more.duplicates;
        self.dead_lettered += more.dead_lettered;
        self.retried += more.retried;
    }
}

/// Something that went wrong, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mishap {
    /// As the protocol writes it (`UNAVAILABLE`), or a word of ours: `BAD_ANSWER`, `SPOOL`,
    /// `DEAD_LETTERS`.
    pub code: String,
    /// For a person.
    pub message: String,
    /// When.
    pub at: DateTime<Utc>,
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// What waits in the spool.
    pub depth: Depth,
    /// Since this forwarder was opened.
    pub counts: Counts,
    /// Since the spool is used: with what forwarders before it counted, but for what one that
    /// was killed had not written down yet.
    pub ever: Counts,
    /// Calls made again, by the code of the failure.
    pub retries: BTreeMap<&'static str, u64>,
    /// Events that were not taken in, by the word that the producer was told.
    pub refused: BTreeMap<&'static str, u64>,
    /// The letters that lie there now.
    pub dead_letters: u64,
    /// What went wrong last, also when it is over.
    pub last_error: Option<Mishap>,
    /// When the service last answered for a batch.
    pub last_shipped_at: Option<DateTime<Utc>>,
}

impl Seen {
    /// For how long the oldest event waits; nothing where none does.
    pub fn oldest_age(&self) -> Option<std::time::Duration> {
        let oldest = self.depth.oldest.filter(|_| self.depth.events > 0)?;
        Some(SystemTime::now().duration_since(oldest).unwrap_or_default())
    }
}

/// What outlives the process, as far as it was written down.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Saved {
    /// See [`Seen::ever`].
    #[serde(flatten)]
    pub ever: Counts,
    /// See [`Seen::last_error`].
    pub last_error: Option<Mishap>,
    /// See [`Seen::last_shipped_at`].
    pub last_shipped_at: Option<DateTime<Utc>>,
    /// The spool's limit, which only the forwarder knows.
    pub max_bytes: u64,
}

#[derive(Debug, Default)]
struct Counted {
    counts: Counts,
    retries: BTreeMap<&'static str, u64>,
    refused: BTreeMap<&'static str, u64>,
    dead_letters: u64,
    last_error: Option<Mishap>,
    last_shipped_at: Option<DateTime<Utc>>,
}

/// Where everything is counted.
#[derive(Debug)]
pub(super) struct Book {
    /// None once it is closed.
    spool: Mutex<Option<Spool>>,
    /// What the spool held when it was looked at last, after it was closed.
    left: Mutex<Depth>,
    before: Counts,
    counted: Mutex<Counted>,
    saved: Mutex<Option<Saved>>,
}

impl Book {
    /// Goes on from what was saved.
    pub fn new(spool: Option<Spool>, saved: Saved) -> Book {
        let Saved { ever: before, last_error, last_shipped_at, .. } = saved;
        let counted = Counted { last_error, last_shipped_at, ..Counted::default() };
        Book {
            spool: Mutex::new(spool),
            left: Mutex::default(),
            before,
            counted: Mutex::new(counted),
            saved: Mutex::default(),
        }
    }

    pub fn spooled(&self, events: usize) {
        self.lock().counts.spooled += wide(events);
    }

    pub fn refused(&self, reason: &'static str, events: usize) {
        *self.lock().refused.entry(reason).or_default() += wide(events);
    }

    /// A batch is taken care of.
    pub fn shipped(&self, stored: i64, duplicates: i64) {
        let mut counted = self.lock();
        counted.counts.stored += u64::try_from(stored).unwrap_or_default();
        counted.counts.duplicates += u64::try_from(duplicates).unwrap_or_default();
        counted.last_shipped_at = Some(Utc::now());
    }

    pub fn dead_lettered(&self, events: usize) {
        self.lock().counts.dead_lettered += wide(events);
    }

    /// Something failed, and is tried again. A call has its code.
    pub fn failed(&self, code: &'static str, message: &str, call: bool) {
        let mut counted = self.lock();
        counted.last_error = Some(Mishap { code: code.into(), message: message.into(), at: Utc::now() });
        if call {
            counted.counts.retried += 1;
            *counted.retries.entry(code).or_default() += 1;
        }
    }

    pub fn letters(&self, count: u64) {
        self.lock().dead_letters = count;
    }

    /// The spool, unless it was closed. Whoever holds it keeps it open.
    pub fn spool(&self) -> Option<Spool> {
        locked(&self.spool).clone()
    }

    /// Nobody gets the spool any more.
    pub fn close(&self) {
        let spool = locked(&self.spool).take();
        if let Some(spool) = spool {
            self.left(spool.depth());
        }
    }

    /// What the spool holds now.
    pub fn left(&self, depth: Depth) {
        *locked(&self.left) = depth;
    }

    pub fn depth(&self) -> Depth {
        let open = self.spool().map(|spool| spool.depth());
        open.unwrap_or_else(|| locked(&self.left).clone())
    }

    pub fn seen(&self) -> Seen {
        let depth = self.depth();
        let counted = self.lock();
        let mut ever = self.before;
        ever.add(counted.counts);
        Seen {
            depth,
            counts: counted.counts,
            ever,
            retries: counted.retries.clone(),
            refused: counted.refused.clone(),
            dead_letters: counted.dead_letters,
            last_error: counted.last_error.clone(),
            last_shipped_at: counted.last_shipped_at,
        }
    }

    pub fn to_save(&self) -> Saved {
        let Seen { ever, last_error, last_shipped_at, depth, .. } = self.seen();
        Saved { ever, last_error, last_shipped_at, max_bytes: depth.max_bytes }
    }

    /// Whether it is written down already.
    pub fn is_saved(&self, saved: &Saved) -> bool {
        locked(&self.saved).as_ref() == Some(saved)
    }

    /// It is.
    pub fn was_saved(&self, saved: Saved) {
        *locked(&self.saved) = Some(saved);
    }

    fn lock(&self) -> MutexGuard<'_, Counted> {
        locked(&self.counted)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
