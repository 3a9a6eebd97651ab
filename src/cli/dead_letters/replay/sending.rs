//! The letters on their way: read, sent, and gone or put back.

use std::time::{Duration, Instant};

use prost::Message;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::cli::console::Console;
use crate::dead_letters::{Content, DeadLetters, Error, Letter, Refused, canonical};
use crate::forwarder::{Blame, Pace, Refusal, blame, refusals};
use crate::grpc::client::Failure;
use crate::proto::{BillingEvent, RecordEventsResponse};
use crate::proto_json;

/// An encoded call stays below 2 MiB, unless one event is larger than that.
const MAX_BYTES: usize = 2 * 1024 * 1024;
/// Events in a row, each alone in its call, with an error that may be theirs or not: now it is not.
const MAX_UNCLEAR: usize = 3;
/// How long a call may still take once one is asked to stop.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was done.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Stored, duplicate or refused.
    pub replayed: u64,
    /// New in the database.
    pub stored: u64,
    /// In the database already.
    pub duplicates: u64,
    /// Letters as before, with one more try.
    pub refused: u64,
    /// As they were.
    pub left: u64,
}

impl Totals {
    pub const HEADERS: &[&str] = &["replayed", "stored", "duplicates", "refused", "left"];

    pub fn cells(&self) -> Vec<String> {
        [self.replayed, self.stored, self.duplicates, self.refused, self.left].map(|n| n.to_string()).into()
    }
}

/// A letter and the event in it.
struct Sendable {
    letter: Letter,
    event: BillingEvent,
}

pub struct Sending<'s, 'c, P> {
    letters: &'s DeadLetters,
    pace: Pace,
    /// Waits until then.
    pause: P,
    stop: CancellationToken,
    console: &'s mut Console<'c>,
    totals: Totals,
    /// Letters that failed alone with what may be their own fault.
    unclear: Vec<(Letter, Failure)>,
}

impl<'s, 'c, P: AsyncFnMut(Instant)> Sending<'s, 'c, P> {
    /// Sends at this pace, until it is told to stop.
    pub fn new(
        letters: &'s DeadLetters,
        pace: Pace,
        pause: P,
        stop: CancellationToken,
        console: &'s mut Console<'c>,
    ) -> Sending<'s, 'c, P> {
        Sending { letters, pace, pause, stop, console, totals: Totals::default(), unclear: Vec::new() }
    }

    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Sends the letters in this order. An error says why it ended before all were sent.
    pub async fn all(
        &mut self,
        ids: Vec<String>,
        mut send: impl AsyncFnMut(Vec<BillingEvent>) -> Result<RecordEventsResponse, Failure>,
    ) -> Result<(), String> {
        let (size, mut ids, mut held) = (self.pace.batch(), ids.into_iter(), None);
        loop {
            let batch = self.batch(&mut ids, &mut held, size)?;
            if batch.is_empty() {
                break;
            }
            // A refused call is sent again in halves, until the event at fault is alone.
            let mut parts = vec![batch];
            while let Some(part) = parts.pop() {
                if let Some((first, second)) = self.part(part, &mut send).await? {
                    parts.extend([second, first]);
                }
            }
        }
        match self.unclear.first() {
            None => Ok(()),
            Some((letter, failure)) => Err(format!("letter {}: {failure}", letter.id)),
        }
    }

    /// The next letters that hold an event. Those that don't go back.
    fn batch(
        &mut self,
        ids: &mut impl Iterator<Item = String>,
        held: &mut Option<Sendable>,
        size: usize,
    ) -> Result<Vec<Sendable>, String> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < size {
            let next = match held.take() {
                Some(next) => next,
                None => match ids.next() {
                    Some(id) => match self.sendable(id)? {
                        Some(next) => next,
                        None => continue,
                    },
                    None => break,
                },
            };
            bytes += next.event.encoded_len() + 5;
            if bytes > MAX_BYTES && !batch.is_empty() {
                *held = Some(next);
                break;
            }
            batch.push(next);
        }
        Ok(batch)
    }

    fn sendable(&mut self, id: String) -> Result<Option<Sendable>, String> {
        let letter = match self.letters.get(&id) {
            Ok(letter) => letter,
            Err(Error::Unknown(_)) => return Ok(None),
            Err(error) => {
                self.console.say_plain(&format!("{id}: {error}"));
                return Ok(None);
            }
        };
        match event(&letter.content) {
            Ok(event) => Ok(Some(Sendable { letter, event })),
            Err(message) => {
                let reason = "NOT_AN_EVENT".into();
                let refusal = Refusal { code: String::new(), field: String::new(), reason, message };
                self.back(vec![(letter, refusal)])?;
                Ok(None)
            }
        }
    }

    /// One call. Its halves, when it must be sent again in two.
    async fn part(
        &mut self,
        mut part: Vec<Sendable>,
        send: &mut impl AsyncFnMut(Vec<BillingEvent>) -> Result<RecordEventsResponse, Failure>,
    ) -> Result<Option<(Vec<Sendable>, Vec<Sendable>)>, String> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => return Err("stopped".into()),
            () = (self.pause)(self.pace.due(part.len())) => {}
        }
        let events = part.iter().map(|sendable| sendable.event.clone()).collect();
        let stop = self.stop.clone();
        let answer = tokio::select! {
            answer = send(events) => answer,
            () = async { stop.cancelled().await; (self.pause)(Instant::now() + PATIENCE).await } => {
                return Err("stopped, with a call that got no answer: its events may be stored or not".into());
            }
        };
        let failure = match answer {
            Ok(response) => return self.answered(part, response).map(|()| None),
            Err(failure) => failure,
        };
        match blame(&failure, part.len()) {
            Blame::Trouble => Err(failure.to_string()),
            Blame::Content | Blame::Defect if part.len() > 1 => {
                let second = part.split_off(part.len() / 2);
                Ok(Some((part, second)))
            }
            Blame::Content => {
                let refusal = Refusal::from(&failure);
                self.back(part.into_iter().map(|sendable| (sendable.letter, refusal.clone())).collect())?;
                Ok(None)
            }
            Blame::Defect => {
                self.unclear.extend(part.into_iter().map(|sendable| (sendable.letter, failure.clone())));
                match self.unclear.len() < MAX_UNCLEAR {
                    true => Ok(None),
                    false => Err(failure.to_string()),
                }
            }
        }
    }

    /// The letters of an answered call: gone, or back. First those that go, which makes room.
    fn answered(&mut self, part: Vec<Sendable>, response: RecordEventsResponse) -> Result<(), String> {
        let (stored, duplicates) = (response.stored, response.duplicates);
        let mut refused = refusals(&response, part.len())
            .map_err(|what| format!("the service's answer does not add up: {what}"))?;
        let (mut gone, mut back) = (Vec::new(), Vec::new());
        for (index, Sendable { letter, .. }) in part.into_iter().enumerate() {
            match refused.remove(&index) {
                Some(refusal) => back.push((letter, refusal)),
                None => gone.push(letter.id),
            }
        }
        self.letters.remove_all(&gone).map_err(|error| error.to_string())?;
        let count = |n: i64| u64::try_from(n).unwrap_or_default();
        self.totals.stored += count(stored);
        self.totals.duplicates += count(duplicates);
        self.totals.replayed += gone.len() as u64;
        // The service does its work, so what it failed at is the events' own.
        let unclear = std::mem::take(&mut self.unclear);
        back.extend(unclear.into_iter().map(|(letter, failure)| (letter, Refusal::from(&failure))));
        self.back(back)
    }

    /// Refused once more: they stay letters, and say so.
    fn back(&mut self, letters: Vec<(Letter, Refusal)>) -> Result<(), String> {
        let mut put = Vec::with_capacity(letters.len());
        for (letter, Refusal { code, field, reason, message }) in letters {
            let what = [&field, &reason, &message].map(String::as_str);
            let what: Vec<&str> = what.into_iter().filter(|text| !text.is_empty()).collect();
            let request = letter.content.request_id().map(|id| format!(" (request_id \"{id}\")"));
            let request = request.unwrap_or_default();
            self.console.say_plain(&format!("{}: refused: {}{request}", letter.id, what.join(" ")));
            put.push(Refused {
                content: letter.content,
                code,
                field,
                reason,
                message,
                spooled_at: letter.spooled_at,
                origin: letter.origin,
            });
        }
        let count = put.len() as u64;
        self.letters.put(put).map_err(|error| error.to_string())?;
        self.totals.refused += count;
        self.totals.replayed += count;
        Ok(())
    }
}

/// The event in a letter, by the rules of today.
fn event(content: &Content) -> Result<BillingEvent, String> {
    match content {
        Content::Event(event) => proto_json::event(canonical(event).as_bytes()),
        Content::Line(line) => proto_json::event(line.as_bytes()),
        Content::Bytes(_) => Err("is no text".into()),
    }
}
