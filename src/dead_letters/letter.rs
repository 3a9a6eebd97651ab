//! What a letter holds.

use chrono::{DateTime, SubsecRound, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::domain::text::cut;

/// The attempts that a letter remembers; it counts all of them.
pub const HISTORY: usize = 20;
/// What is kept of each text of an attempt, which are of the service's making.
const MAX_TEXT_BYTES: usize = 1_000;

/// What was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// An event, in the contract's JSON.
    Event(Value),
    /// Input that is no event, as it came.
    Line(String),
    /// The same where it is no text, in base64.
    Bytes(String),
}

impl Content {
    /// Input that is no event; nothing of it is lost where it is no text.
    pub fn of_line(line: &[u8]) -> Content {
        use base64::Engine;
        match str::from_utf8(line) {
            Ok(text) => Content::Line(text.into()),
            Err(_) => Content::Bytes(base64::engine::general_purpose::STANDARD.encode(line)),
        }
    }

    /// The id of a letter with this content: the same content is the same letter, whatever the
    /// order of an event's fields. What has no `request_id` may have come more than once and mean
    /// it each time, so that there the origin makes the difference.
    pub fn id(&self, origin: Option<&str>) -> String {
        let (kind, text) = match self {
            Content::Event(event) => ("event", canonical(event)),
            Content::Line(line) => ("line", line.clone()),
            Content::Bytes(bytes) => ("bytes", bytes.clone()),
        };
        let mut digest = Sha256::new().chain_update(kind).chain_update([0]);
        if let (Some(origin), true) = (origin, self.request_id().is_none_or(str::is_empty)) {
            digest = digest.chain_update(origin).chain_update([0]);
        }
        hex::encode(&digest.chain_update(text).finalize()[..16])
    }

    /// As it can be written and read again: JSON that no parser would take back (nested too
    /// deep, a number past all precision) is kept as text.
    pub(super) fn kept(self) -> Content {
        let Content::Event(event) = &self else { return self };
        let text = canonical(event);
        match serde_json::from_str::<Value>(&text) {
            Ok(again) if again == *event => self,
            _ => Content::Line(text),
        }
    }

    /// An event's `request_id`, as far as it has one.
    pub fn request_id(&self) -> Option<&str> {
        match self {
            Content::Event(event) => event.get("request_id")?.as_str(),
            Content::Line(_) | Content::Bytes(_) => None,
        }
    }
}

/// JSON with its keys in order.
pub fn canonical(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(name, _)| *name);
            let fields = fields.into_iter();
            let fields =
                fields.map(|(name, value)| format!("{}:{}", Value::from(name.as_str()), canonical(value)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(",")),
        plain => plain.to_string(),
    }
}

/// Something that was refused, on its way into the dead letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// What.
    pub content: Content,
    /// The code that the service refused it with, as the protocol writes it: `INVALID_ARGUMENT`.
    pub code: String,
    /// The field at fault; empty where none is named.
    pub field: String,
    /// Why, for programs: `NEGATIVE`, `NOT_AN_EVENT`.
    pub reason: String,
    /// The same for people, as far as there is more to say.
    pub message: String,
    /// When it was written to the spool.
    pub spooled_at: Option<DateTime<Utc>>,
    /// Where it came from: the same each time that the same thing is refused again, and another
    /// for everything else.
    pub origin: Option<String>,
}

/// One time that a letter was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// When that was told.
    pub at: DateTime<Utc>,
    /// As in [`Refused`].
    pub code: String,
    /// As in [`Refused`].
    pub field: String,
    /// As in [`Refused`].
    pub reason: String,
    /// As in [`Refused`].
    pub message: String,
}

/// Something that was refused, and how often.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    /// Made of its content, and of its origin where that has no `request_id`: 32 hex digits.
    pub id: String,
    /// What was refused.
    #[serde(flatten)]
    pub content: Content,
    /// When it was refused first.
    pub first_at: DateTime<Utc>,
    /// When it was refused last.
    pub last_at: DateTime<Utc>,
    /// How often.
    pub tries: u64,
    /// When it was first written to the spool.
    pub spooled_at: Option<DateTime<Utc>>,
    /// As in [`Refused`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// The letter that it was before somebody mended it.
    pub mended_from: Option<String>,
    /// The last [`HISTORY`] attempts, oldest first.
    pub history: Vec<Attempt>,
}

impl Refused {
    /// The id of its letter.
    pub fn id(&self) -> String {
        self.content.clone().kept().id(self.origin.as_deref())
    }

    /// The same as a letter's attempt. Times are kept to the microsecond.
    fn attempt(self, at: DateTime<Utc>) -> Attempt {
        let kept = |text: String| cut(&text, MAX_TEXT_BYTES).to_owned();
        Attempt {
            at: at.trunc_subsecs(6),
            code: kept(self.code),
            field: kept(self.field),
            reason: kept(self.reason),
            message: kept(self.message),
        }
    }
}

impl Letter {
    /// What was refused for the first time.
    pub(super) fn first(refused: Refused, at: DateTime<Utc>) -> Letter {
        let (content, spooled_at) = (refused.content.clone().kept(), refused.spooled_at);
        let origin = refused.origin.clone();
        let attempt = refused.attempt(at);
        Letter {
            id: content.id(origin.as_deref()),
            content,
            origin,
            first_at: attempt.at,
            last_at: attempt.at,
            tries: 1,
            spooled_at: spooled_at.map(|at| at.trunc_subsecs(6)),
            mended_from: None,
            history: vec![attempt],
        }
    }

    /// Refused once more, or the same letter from elsewhere.
    pub(super) fn joined(self, other: Letter) -> Letter {
        let mut history = [self.history, other.history].concat();
        history.sort_by_key(|attempt| attempt.at);
        history.drain(..history.len().saturating_sub(HISTORY));
        Letter {
            first_at: self.first_at.min(other.first_at),
            last_at: self.last_at.max(other.last_at),
            tries: self.tries.saturating_add(other.tries),
            spooled_at: self.spooled_at.into_iter().chain(other.spooled_at).min(),
            mended_from: self.mended_from.or(other.mended_from),
            history,
            ..self
        }
    }

    /// With another content, and everything that has happened.
    pub(super) fn mended(self, content: Content) -> Letter {
        Letter { id: content.id(self.origin.as_deref()), content, mended_from: Some(self.id), ..self }
    }

    /// Whether the other letter has become this one already: mending was cut off before its end.
    pub(super) fn was(&self, other: &Letter) -> bool {
        let holds = |attempt| self.history.len() == HISTORY || self.history.contains(attempt);
        self.mended_from.as_ref() == Some(&other.id) && other.last().is_none_or(holds)
    }

    /// The last attempt; every letter has one.
    pub fn last(&self) -> Option<&Attempt> {
        self.history.last()
    }
}
