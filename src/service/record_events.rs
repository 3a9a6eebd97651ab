//! RecordEvents: takes a batch of metered events in.
//!
//! A batch is stored as a whole or not at all, unless `skip_invalid` leaves out those that
//! can never be stored. Repeating a batch is always safe: what is stored already with the
//! same content counts as a duplicate. It refuses more than [`MAX_EVENTS`] at once, and more
//! batches at once than it was given room for ([`Error::Overloaded`]) instead of queueing
//! them: whoever takes a batch in asks for its [`Place`] before making events of it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

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

/// The same: a rule of the database's own refuses the event, such as a constraint or a trigger of a
/// table that was there before.
const REFUSED_BY_DATABASE: &str = "REFUSED_BY_DATABASE";

/// The same: bytes that are no event, or no batch.
pub const MALFORMED: &str = "MALFORMED";

/// An event as it came: one that may be checked, or bytes that are none.
pub type Sent = Result<RawEvent, Malformed>;

/// Bytes that are no event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed {
    /// Its id, where that much of it could be read.
    pub request_id: String,
    /// For a person.
    pub message: String,
}

/// A batch of too many events.
pub fn too_many(events: usize) -> Error {
    let message = format!("has {events} events; send at most {MAX_EVENTS} at once");
    Error::Invalid(vec![Violation::new("events", "TOO_MANY", message)])
}

/// Where events come in. Cheap to clone; clones share one admission.
#[derive(Debug, Clone)]
pub struct EventIntake {
    db: Db,
    permits: Arc<Semaphore>,
    metrics: Arc<Metrics>,
    patience: Duration,
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
    /// Its first bad field; empty where none is to blame alone.
    pub field: &'static str,
    /// `EVENT_CONFLICT`, `REFUSED_BY_DATABASE`, `MALFORMED`, or a reason of [`FieldError`].
    pub reason: &'static str,
}

impl EventIntake {
    /// Takes events in with at most `max_batches` in flight at once.
    pub fn new(db: Db, max_batches: usize, metrics: Arc<Metrics>) -> EventIntake {
        let permits = Arc::new(Semaphore::new(max_batches));
        EventIntake { db, permits, metrics, patience: events::PATIENCE }
    }

    /// The same with another limit on how long the database may take for a batch.
    pub fn waiting_at_most(self, patience: Duration) -> EventIntake {
        EventIntake { patience, ..self }
    }

    /// Room for a batch, or [`Error::Overloaded`].
    pub fn admit(&self) -> Result<Place, Error> {
        let permit = Arc::clone(&self.permits).try_acquire_owned().map_err(|_| Error::Overloaded)?;
        Ok(Place { intake: self.clone(), permit })
    }

    /// Whether there is room for no other batch right now.
    pub fn is_full(&self) -> bool {
        self.permits.available_permits() == 0
    }

    /// Stores a batch that is here already. A caller that goes away does not stop it.
    pub async fn record(&self, events: Vec<RawEvent>, skip_invalid: bool) -> Result<Recorded, Error> {
        self.admit()?.record(events.into_iter().map(Ok).collect(), skip_invalid).await
    }
}

/// Room for one batch, given back when it is dropped or the batch is done with.
#[derive(Debug)]
pub struct Place {
    intake: EventIntake,
    permit: OwnedSemaphorePermit,
}

impl Place {
    /// Stores the batch that this is the place of. A caller that goes away does not stop it.
    pub async fn record(self, events: Vec<Sent>, skip_invalid: bool) -> Result<Recorded, Error> {
        if events.len() > MAX_EVENTS {
            return Err(too_many(events.len()));
        }
        let Place { intake: EventIntake { db, metrics, patience, .. }, permit } = self;
        detached(async move {
            // Held until the write ends, even when nobody waits for it any more.
            let _permit = permit;
            let recorded = record(&db, events, skip_invalid, patience).await?;
            let rejected = i64::try_from(recorded.rejected.len()).unwrap_or(i64::MAX);
            metrics.recorded_events(recorded.stored, recorded.duplicates, rejected);
            Ok(recorded)
        })
        .await
    }
}

async fn record(db: &Db, sent: Vec<Sent>, skip_invalid: bool, patience: Duration) -> Result<Recorded, Error> {
    let checked = check(sent);
    if !skip_invalid && !checked.bad.is_empty() {
        return Err(Error::Invalid(checked.bad.into_iter().flat_map(Bad::violations).collect()));
    }
    let on_conflict = if skip_invalid { OnConflict::Skip } else { OnConflict::Refuse };
    let fates = match checked.events.as_slice() {
        [] => Vec::new(),
        valid => events::record_within(db, valid, on_conflict, patience).await?,
    };
    if !skip_invalid {
        refuse(&checked, &fates)?;
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
        self.errors.into_iter().map(move |e| Violation::new(place(index, e.field), e.reason, e.message))
    }

    fn rejected(self) -> Rejected {
        let (field, reason) = self.errors.first().map_or(("", ""), |e| (e.field, e.reason));
        Rejected { index: self.index, request_id: self.request_id, field, reason }
    }
}

/// `events[3].model`, or `events[3]` without a field.
fn place(index: usize, field: &str) -> String {
    if field.is_empty() { format!("events[{index}]") } else { format!("events[{index}].{field}") }
}

fn check(sent: Vec<Sent>) -> Checked {
    let mut checked = Checked::default();
    checked.events.reserve_exact(sent.len());
    checked.indices.reserve_exact(sent.len());
    for (index, sent) in sent.into_iter().enumerate() {
        let (request_id, errors) = match sent {
            Ok(raw) => {
                let request_id = raw.request_id.clone();
                match raw.check() {
                    Ok(event) => {
                        checked.events.push(event);
                        checked.indices.push(index);
                        continue;
                    }
                    Err(errors) => (request_id, errors),
                }
            }
            Err(Malformed { request_id, message }) => {
                (request_id, vec![FieldError { field: "", reason: MALFORMED, message }])
            }
        };
        checked.bad.push(Bad { index, request_id, errors });
    }
    checked
}

/// Refuses a batch that must be stored as a whole and can't be.
fn refuse(checked: &Checked, fates: &[Fate]) -> Result<(), Error> {
    let (mut refused, mut conflicts) = (Vec::new(), Vec::new());
    for (at, fate) in fates.iter().enumerate() {
        let index = checked.indices[at];
        let id = || excerpt(&checked.events[at].request_id);
        match fate {
            Fate::Stored | Fate::Duplicate => {}
            Fate::Refused(field) => {
                let message =
                    format!("{} breaks a rule of the database's own, which the service's log names", id());
                refused.push(Violation::new(place(index, field), REFUSED_BY_DATABASE, message));
            }
            Fate::Conflict => {
                let message =
                    format!("{} is known with other content; give another event an id of its own", id());
                conflicts.push(Violation::new(place(index, "request_id"), EVENT_CONFLICT, message));
            }
        }
    }
    match (refused.is_empty(), conflicts.is_empty()) {
        (false, _) => Err(Error::Invalid(refused)),
        (true, false) => Err(Error::EventConflict(conflicts)),
        (true, true) => Ok(()),
    }
}

fn recorded(checked: Checked, fates: &[Fate]) -> Recorded {
    let mut recorded = Recorded::default();
    recorded.rejected.extend(checked.bad.into_iter().map(Bad::rejected));
    for ((event, index), fate) in checked.events.into_iter().zip(checked.indices).zip(fates) {
        let (field, reason) = match fate {
            Fate::Stored => {
                recorded.stored += 1;
                continue;
            }
            Fate::Duplicate => {
                recorded.duplicates += 1;
                continue;
            }
            Fate::Conflict => ("request_id", EVENT_CONFLICT),
            Fate::Refused(field) => (*field, REFUSED_BY_DATABASE),
        };
        recorded.rejected.push(Rejected { index, request_id: event.request_id, field, reason });
    }
    recorded.rejected.sort_by_key(|rejected| rejected.index);
    recorded
}
