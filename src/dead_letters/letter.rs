//! What a letter holds.

#![allow(dead_code, unused_imports)]
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
    /// order of an event's fields.
    pub fn id(&self) -> String {
        let (kind, text) = match self {
            Content::Event(event) => ("event", canonical(event)),
            Content::Line(line) => ("line", line.clone()),
            Content::Bytes(bytes) => ("bytes", bytes.clone()),
        };
        let digest = Sha256::new().chain_update(kind).chain_update([0]).chain_update(text).finalize();
        hex::encode(&digest[..16])
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// Made of its content: 32 hex digits.
    pub id: String,
    /// What was refused.
    pub content: Content,
    /// When it was refused first.
    pub first_at: DateTime<Utc>,
    /// When it was refused last.
    pub last_at: DateTime<Utc>,
    /// How often.
    pub tries: u64,
    /// When it was first written to the spool.
    pub spooled_at: Option<DateTime<Utc>>,
    /// The letter that it was before somebody mended it.
    pub mended_from: Option<String>,
    /// The last [`HISTORY`] attempts, oldest first.
    pub history: Vec<Attempt>,
}
