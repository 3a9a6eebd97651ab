//! What the answer to a batch means, event by event: stored, refused for its own content, or
//! nothing yet. Where the answer doesn't say for certain that it is the event, it is not.

use std::collections::HashMap;
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

/// Why a call failed, as far as its code tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// Something that the service says is wrong with what it was sent.
    Content,
    /// The service failed over it. It may be an event; it may be the service.
    Defect,
    /// The way there, or the service: whatever is sent.
    Trouble,
}

/// Whom a failure is to be put down to.
pub fn blame(failure: &Failure) -> Blame {
    match failure.code {
        // Made up on this side, where a connection broke.
        _ if failure.may_pass => Blame::Trouble,
        "INVALID_ARGUMENT" | "OUT_OF_RANGE" | "ALREADY_EXISTS" => Blame::Content,
        "INTERNAL" | "UNKNOWN" | "DATA_LOSS" => Blame::Defect,
        _ => Blame::Trouble,
    }
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

    /// The letters of an answer, which adds up.
    pub fn letters(&self, rejected: &[RejectedEvent]) -> Vec<Refused> {
        let rejections: HashMap<_, _> =
            rejected.iter().filter_map(|one| Some((usize::try_from(one.index).ok()?, one))).collect();
        let events = self.events.iter().zip(&self.places).enumerate();
        let refused = events.filter_map(|(index, (event, place))| {
            let RejectedEvent { field, reason, .. } = rejections.get(&index)?;
            let code = if reason == "EVENT_CONFLICT" { "ALREADY_EXISTS" } else { "INVALID_ARGUMENT" };
            let message = match reason.as_str() {
                "EVENT_CONFLICT" => "the request_id is known with other content".into(),
                reason => format!("{field} is {}", reason.to_lowercase().replace('_', " ")),
            };
            Some(letter(event, &self.records[*place], code, field, reason, message))
        });
        refused.chain(self.unreadable()).collect()
    }

    /// The letter of the only event, which the service refused on its own.
    pub fn alone(&self, failure: &Failure) -> Vec<Refused> {
        let field = failure.violations.first().map_or("", |(field, _)| field);
        let field = field.strip_prefix("events[0].").unwrap_or(field);
        let reason = if failure.reason.is_empty() { failure.code } else { &failure.reason };
        let events = self.events.iter().zip(&self.places);
        let refused = events.map(|(event, place)| {
            letter(event, &self.records[*place], failure.code, field, reason, failure.message.clone())
        });
        refused.chain(self.unreadable()).collect()
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

fn letter(
    event: &BillingEvent,
    record: &Record,
    code: &str,
    field: &str,
    reason: &str,
    message: String,
) -> Refused {
    Refused {
        content: content(event, &record.payload),
        code: code.into(),
        field: field.into(),
        reason: reason.into(),
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

/// What is wrong with an answer for `events` events.
pub fn adds_up(response: &RecordEventsResponse, events: usize) -> Result<(), String> {
    let RecordEventsResponse { stored, duplicates, rejected } = response;
    let mut seen = vec![false; events];
    for one in rejected {
        let place = usize::try_from(one.index).ok().and_then(|index| seen.get_mut(index));
        match place {
            Some(place) if !*place => *place = true,
            Some(_) => return Err(format!("event {} of {events} is rejected twice", one.index)),
            None => return Err(format!("event {} is rejected, and {events} were sent", one.index)),
        }
    }
    let rejected = i64::try_from(rejected.len()).unwrap_or(i64::MAX);
    let sum = stored.checked_add(*duplicates).and_then(|sum| sum.checked_add(rejected));
    let whole = *stored >= 0 && *duplicates >= 0 && sum == i64::try_from(events).ok();
    whole.then_some(()).ok_or_else(|| {
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
