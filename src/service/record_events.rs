//! RecordEvents: takes a batch of metered events in.
//!
//! A batch is stored as a whole or not at all, unless `skip_invalid` leaves out those that
//! can never be stored. Repeating a batch is always safe: what is stored already with the
//! same content counts as a duplicate. It refuses more than [`MAX_EVENTS`] at once, and more
//! batches at once than it was given room for ([`Error::Overloaded`]) instead of queueing
//! them.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::Error;
use crate::domain::event::{Event, FieldError, RawEvent, excerpt};
use crate::domain::violation::Violation;
use crate::metrics::Metrics;
use crate::store::events::{Fate, OnConflict};
use crate::store::{Db, detached, events};

/// The most events in one batch.
pub const MAX_EVENTS: usize = 10_000;

/// The batches in flight at once, unless configured.
pub const DEFAULT_MAX_BATCHES: usize = 32;

/// Stable, for programs: the id is known with other content.
const EVENT_CONFLICT: &str = "EVENT_CONFLICT";

/// Where events come in. Cheap to clone; clones share one admission.
#[derive(Debug, Clone)]
pub struct EventIntake {
    db: Db,
    permits: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

/// What was done with a batch: `stored + duplicates + rejected` are its events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Events inserted.
    pub stored: i64,
    /// Events that were stored already, or stand earlier in the batch, with the same content.
    pub duplicates: i64,
    /// Events left out, in the batch's order; empty unless `skip_invalid` was set.
    pub rejected: Vec<Rejected>,
}

/// An event that can never be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Its place in the batch, from 0.
    pub index: usize,
    /// Its id, as it was sent.
    pub request_id: String,
    /// Its first bad field.
    pub field: &'static str,
    /// `EVENT_CONFLICT`, or a reason of [`FieldError`].
    pub reason: &'static str,
}

impl EventIntake {
    /// Takes events in with at most `max_batches` in flight at once.
    pub fn new(db: Db, max_batches: usize, metrics: Arc<Metrics>) -> EventIntake {
        EventIntake { db, permits: Arc::new(Semaphore::new(max_batches)), metrics }
    }

    /// Stores a batch. A caller that goes away does not stop it.
    pub async fn record(&self, events: Vec<RawEvent>, skip_invalid: bool) -> Result<Recorded, Error> {
        if events.len() > MAX_EVENTS {
            let message = format!("has {} events; send at most {MAX_EVENTS} at once", events.len());
            return Err(Error::Invalid(vec![Violation::new("events", "TOO_MANY", message)]));
        }
        let permit = Arc::clone(&self.permits).try_acquire_owned().map_err(|_| Error::Overloaded)?;
        let (db, metrics) = (self.db.clone(), self.metrics.clone());
        detached(async move {
            // Held until the write ends, even when nobody waits for it any more.
            let _permit = permit;
            let recorded = record(&db, events, skip_invalid).await?;
            let rejected = i64::try_from(recorded.rejected.len()).unwrap_or(i64::MAX);
            metrics.recorded_events(recorded.stored, recorded.duplicates, rejected);
            Ok(recorded)
        })
        .await
    }
}

async fn record(db: &Db, raw: Vec<RawEvent>, skip_invalid: bool) -> Result<Recorded, Error> {
    let checked = check(raw);
    if !skip_invalid && !checked.bad.is_empty() {
        return Err(Error::Invalid(checked.bad.into_iter().flat_map(Bad::violations).collect()));
    }
    let on_conflict = if skip_invalid { OnConflict::Skip } else { OnConflict::Refuse };
    let fates = match checked.events.as_slice() {
        [] => Vec::new(),
        valid => events::record(db, valid, on_conflict).await?,
    };
    if !skip_invalid && fates.contains(&Fate::Conflict) {
        return Err(Error::EventConflict(conflicts(&checked, &fates)));
    }
    Ok(recorded(checked, &fates))
}

/// A batch, told apart into what may be stored and what never can.
#[derive(Default)]
struct Checked {
    events: Vec<Event>,
    /// The place in the batch of each of `events`.
    indices: Vec<usize>,
    bad: Vec<Bad>,
}

struct Bad {
    index: usize,
    request_id: String,
    errors: Vec<FieldError>,
}

impl Bad {
    fn violations(self) -> impl Iterator<Item = Violation> {
        let index = self.index;
        self.errors
            .into_iter()
            .map(move |e| Violation::new(format!("events[{index}].{}", e.field), e.reason, e.message))
    }

    fn rejected(self) -> Rejected {
        let (field, reason) = self.errors.first().map_or(("", ""), |e| (e.field, e.reason));
        Rejected { index: self.index, request_id: self.request_id, field, reason }
    }
}

fn check(raw: Vec<RawEvent>) -> Checked {
    let mut checked = Checked::default();
    for (index, raw) in raw.into_iter().enumerate() {
        let request_id = raw.request_id.clone();
        match raw.check() {
            Ok(event) => {
                checked.events.push(event);
                checked.indices.push(index);
            }
            Err(errors) => checked.bad.push(Bad { index, request_id, errors }),
        }
    }
    checked
}

fn conflicts(checked: &Checked, fates: &[Fate]) -> Vec<Violation> {
    let conflicting = fates.iter().enumerate().filter(|(_, fate)| **fate == Fate::Conflict);
    conflicting
        .map(|(at, _)| {
            let id = excerpt(&checked.events[at].request_id);
            let message = format!("{id} is known with other content; give another event an id of its own");
            Violation::new(format!("events[{}].request_id", checked.indices[at]), EVENT_CONFLICT, message)
        })
        .collect()
}

fn recorded(checked: Checked, fates: &[Fate]) -> Recorded {
    let mut recorded = Recorded::default();
    recorded.rejected.extend(checked.bad.into_iter().map(Bad::rejected));
    for ((event, index), fate) in checked.events.into_iter().zip(checked.indices).zip(fates) {
        match fate {
            Fate::Stored => recorded.stored += 1,
            Fate::Duplicate => recorded.duplicates += 1,
            Fate::Conflict => recorded.rejected.push(Rejected {
                index,
                request_id: event.request_id,
                field: "request_id",
                reason: EVENT_CONFLICT,
            }),
        }
    }
    recorded.rejected.sort_by_key(|rejected| rejected.index);
    recorded
}
