//! What the answer to a batch means, event by event: stored, refused for its own content, or
//! nothing yet. Where the answer doesn't say for certain that it is the event, it is not.

use std::collections::{BTreeMap, HashMap};
use std::time::SystemTime;

use chrono::{DateTime, Utc};
use prost::Message;

use crate::dead_letters::{Content, Refused};
use crate::grpc::client::Failure;
use crate::proto::{BillingEvent, RecordEventsResponse, RejectedEvent};
use crate::proto_json;
use crate::spool::Record;

/// An answer that can't be true.
pub const BAD_ANSWER: &str = "BAD_ANSWER";
/// A record that holds no event.
pub const UNREADABLE: &str = "UNREADABLE";

/// The reason of an event whose request_id is known with other content.
const EVENT_CONFLICT: &str = "EVENT_CONFLICT";

/// Why a call failed, as far as it tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The service says which event is wrong.
    Content,
    /// The service itself failed over it. It may be an event; it may be the service.
    Defect,
    /// The way there, or the service: whatever is sent.
    Trouble,
}

/// Why an event can't be stored as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// As the protocol writes it.
    pub code: String,
    /// Of the event.
    pub field: String,
    /// For programs.
    pub reason: String,
    /// For a person; empty where the field and the reason say all.
    pub message: String,
}

impl From<&RejectedEvent> for Refusal {
    fn from(rejected: &RejectedEvent) -> Refusal {
        let RejectedEvent { field, reason, .. } = rejected;
        // What a call without skip_invalid is refused with.
        let code = if reason == EVENT_CONFLICT { "ALREADY_EXISTS" } else { "INVALID_ARGUMENT" };
        Refusal { code: code.into(), field: field.clone(), reason: reason.clone(), message: String::new() }
    }
}

impl From<&Failure> for Refusal {
    /// Of a call with one event.
    fn from(failure: &Failure) -> Refusal {
        let field = failure.violations.first().map_or("", |(field, _)| field);
        let reason = if failure.reason.is_empty() { failure.code } else { &failure.reason };
        Refusal {
            code: failure.code.into(),
            field: field.strip_prefix("events[0].").unwrap_or(field).into(),
            reason: reason.into(),
            message: failure.message.clone(),
        }
    }
}

/// Whom the failure of a call with so many events is to be put down to. A code alone says little:
/// proxies, old versions and broken connections use the same ones, so it takes what only the
/// service says.
pub fn blame(failure: &Failure, events: usize) -> Blame {
    match (failure.code, failure.reason.as_str()) {
        // Made up on this side, where a connection broke.
        _ if failure.may_pass => Blame::Trouble,
        ("INVALID_ARGUMENT", _) if names_an_event(failure, events) => Blame::Content,
        ("ALREADY_EXISTS", EVENT_CONFLICT) => Blame::Content,
        ("INTERNAL", "INTERNAL" | "REFUSED_BY_DATABASE") => Blame::Defect,
        _ => Blame::Trouble,
    }
}

/// Whether a field of `events[INDEX]` is named that was sent.
fn names_an_event(failure: &Failure, events: usize) -> bool {
    failure.violations.iter().any(|(field, _)| {
        let index = field.strip_prefix("events[").and_then(|rest| rest.split_once(']'));
        index.and_then(|(index, _)| index.parse().ok()).is_some_and(|index: usize| index < events)
    })
}

/// The events of some records, in order.
#[derive(Debug)]
pub struct Batch {
    /// As they came out of the spool.
    pub records: Vec<Record>,
    /// What is sent.
    pub events: Vec<BillingEvent>,
    /// The record of each event.
    places: Vec<usize>,
    /// The records that hold no event.
    unreadable: Vec<usize>,
}

impl Batch {
    /// Reads the events of `records`.
    pub fn of(records: Vec<Record>) -> Batch {
        let (mut events, mut places, mut unreadable) = (Vec::new(), Vec::new(), Vec::new());
        for (place, record) in records.iter().enumerate() {
            match BillingEvent::decode(record.payload.as_slice()) {
                Ok(event) => {
                    events.push(event);
                    places.push(place);
                }
                Err(_) => unreadable.push(place),
            }
        }
        Batch { records, events, places, unreadable }
    }

    /// The letters of what was refused, by its place among the events.
    pub fn letters(&self, mut refused: BTreeMap<usize, Refusal>) -> Vec<Refused> {
        let events = self.events.iter().zip(&self.places).enumerate();
        let refused = events.filter_map(|(index, (event, place))| {
            Some(letter(event, &self.records[*place], refused.remove(&index)?))
        });
        refused.chain(self.unreadable()).collect()
    }

    /// The letter of the only event, which the service refused on its own.
    pub fn alone(&self, failure: &Failure) -> Vec<Refused> {
        self.letters([(0, Refusal::from(failure))].into())
    }

    fn unreadable(&self) -> impl Iterator<Item = Refused> {
        self.unreadable.iter().map(|place| {
            let record = &self.records[*place];
            Refused {
                content: Content::of_line(&record.payload),
                code: String::new(),
                field: String::new(),
                reason: UNREADABLE.into(),
                message: "the spool held this where an event belongs; it is whole, and no event".into(),
                spooled_at: Some(utc(record.appended_at)),
                origin: Some(origin(record)),
            }
        })
    }
}

fn letter(event: &BillingEvent, record: &Record, refusal: Refusal) -> Refused {
    let Refusal { code, field, reason, mut message } = refusal;
    if message.is_empty() {
        message = match reason.as_str() {
            EVENT_CONFLICT => "the request_id is known with other content".into(),
            reason => format!("{field} is {}", reason.to_lowercase().replace('_', " ")),
        };
    }
    Refused {
        content: content(event, &record.payload),
        code,
        field,
        reason,
        message,
        spooled_at: Some(utc(record.appended_at)),
        origin: Some(origin(record)),
    }
}

/// An event in the contract's JSON; where that would not be the same event again (a time that
/// JSON can't write), its bytes as they were.
fn content(event: &BillingEvent, payload: &[u8]) -> Content {
    let json = proto_json::json_line("rating.v1.BillingEvent", event).ok();
    let same = json.filter(|json| proto_json::event(json.as_bytes()).as_ref() == Ok(event));
    match same.and_then(|json| serde_json::from_str(&json).ok()) {
        Some(json) => Content::Event(json),
        None => Content::of_line(payload),
    }
}

/// The same when the record is shipped again: its ordinal is the spool's for ever.
fn origin(record: &Record) -> String {
    format!("record {}", record.ordinal)
}

fn utc(time: SystemTime) -> DateTime<Utc> {
    time.into()
}

/// The events that were refused, by their place in the call; or what is wrong with an answer for so
/// many events. One that does not add up says nothing about any.
pub fn refusals(response: &RecordEventsResponse, events: usize) -> Result<BTreeMap<usize, Refusal>, String> {
    let RecordEventsResponse { stored, duplicates, rejected } = response;
    let mut refusals = BTreeMap::new();
    for one in rejected {
        let place = usize::try_from(one.index).ok().filter(|index| *index < events);
        let place =
            place.ok_or_else(|| format!("event {} is rejected, and {events} were sent", one.index))?;
        if refusals.insert(place, Refusal::from(one)).is_some() {
            return Err(format!("event {place} of {events} is rejected twice"));
        }
    }
    let rejected = i64::try_from(rejected.len()).unwrap_or(i64::MAX);
    let sum = stored.checked_add(*duplicates).and_then(|sum| sum.checked_add(rejected));
    let whole = *stored >= 0 && *duplicates >= 0 && sum == i64::try_from(events).ok();
    whole.then_some(refusals).ok_or_else(|| {
        format!("{stored} stored, {duplicates} duplicates and {rejected} rejected are not the {events} sent")
    })
}

/// The failure that such an answer amounts to.
pub fn bad_answer(what: String) -> Failure {
    Failure {
        code: BAD_ANSWER,
        message: what,
        reason: String::new(),
        metadata: HashMap::new(),
        violations: Vec::new(),
        retry_after: None,
        may_pass: true,
    }
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
