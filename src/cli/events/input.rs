//! NDJSON of `BillingEvent`, read batch by batch: however long the input, one batch and one
//! line of it are in memory.
//!
//! A line is an event in proto3's JSON mapping, with the proto's field names or their
//! lowerCamelCase forms. It refuses what it can't take literally: unknown fields, a field
//! that stands twice, more than one value on a line, a line past [`MAX_LINE_BYTES`].

use std::fmt;

use prost::Message;
use prost_reflect::{DynamicMessage, MessageDescriptor};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use tokio::io::{AsyncBufRead, AsyncBufReadExt};

use crate::cli::output::{descriptor, printable};
use crate::proto::BillingEvent;

/// Far above any event that could be stored, however it is escaped.
const MAX_LINE_BYTES: usize = 256 * 1024;

/// An encoded batch stays below 2 MiB: one that is past this takes no further event, and an
/// encoded event is not longer than its line.
const FULL_BATCH_BYTES: usize = 2 * 1024 * 1024 - MAX_LINE_BYTES;

/// The input, a line at a time.
pub struct Input<R> {
    reader: R,
    line: u64,
    event: MessageDescriptor,
}

/// Events that go together, and the lines (from 1) that they stand on.
#[derive(Debug, Default)]
pub struct Batch {
    /// In the input's order.
    pub events: Vec<BillingEvent>,
    /// The line of each event.
    pub lines: Vec<u64>,
}

/// A line that is no event, or can't be read.
#[derive(Debug, PartialEq, Eq)]
pub struct InputError {
    /// From 1.
    pub line: u64,
    /// What is wrong with it.
    pub what: String,
}

impl<R: AsyncBufRead + Unpin> Input<R> {
    /// Reads from `reader`.
    pub fn new(reader: R) -> Result<Input<R>, String> {
        let event = descriptor("rating.v1.BillingEvent").ok_or("the contract has no BillingEvent")?;
        Ok(Input { reader, line: 0, event })
    }

    /// Up to `size` events; fewer at the end and where they are large; none after it.
    pub async fn batch(&mut self, size: usize) -> Result<Batch, InputError> {
        let mut batch = Batch::default();
        let (mut bytes, mut line) = (0, Vec::new());
        while batch.events.len() < size && bytes < FULL_BATCH_BYTES && self.read_line(&mut line).await? {
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let event = self.parse(&line).map_err(|what| self.error(what))?;
            // The tag and the length in front of it take up to 5 bytes.
            bytes += event.encoded_len() + 5;
            batch.events.push(event);
            batch.lines.push(self.line);
        }
        Ok(batch)
    }

    fn error(&self, what: String) -> InputError {
        InputError { line: self.line, what }
    }

    /// The next line without its end; false after the last.
    async fn read_line(&mut self, line: &mut Vec<u8>) -> Result<bool, InputError> {
        line.clear();
        self.line += 1;
        loop {
            let filled = self.reader.fill_buf().await;
            let buffer = filled
                .map_err(|error| InputError { line: self.line, what: format!("can't be read: {error}") })?;
            if buffer.is_empty() {
                return Ok(!line.is_empty());
            }
            let end = buffer.iter().position(|byte| *byte == b'\n');
            line.extend_from_slice(&buffer[..end.unwrap_or(buffer.len())]);
            let used = end.map_or(buffer.len(), |end| end + 1);
            self.reader.consume(used);
            if line.len() > MAX_LINE_BYTES {
                return Err(
                    self.error(format!("is longer than {MAX_LINE_BYTES} bytes; put one event on a line"))
                );
            }
            if end.is_some() {
                return Ok(true);
            }
        }
    }

    fn parse(&self, line: &[u8]) -> Result<BillingEvent, String> {
        let Names(names) = serde_json::from_slice(line).map_err(|error| describe(&error))?;
        let mut seen = Vec::with_capacity(names.len());
        for name in &names {
            let field =
                self.event.get_field_by_json_name(name).or_else(|| self.event.get_field_by_name(name));
            let Some(field) = field else {
                return Err(format!(
                    "there is no field \"{}\"; write it as the contract does, or leave it out",
                    short(name)
                ));
            };
            if seen.contains(&field.number()) {
                return Err(format!("\"{}\" stands twice; keep one of them", field.name()));
            }
            seen.push(field.number());
        }
        let mut json = serde_json::Deserializer::from_slice(line);
        let message =
            DynamicMessage::deserialize(self.event.clone(), &mut json).map_err(|error| describe(&error))?;
        message.transcode_to().map_err(|error| error.to_string())
    }
}

/// Its column and what is wrong, without the line, which is always the first for the parser.
fn describe(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let what = short(text.strip_suffix(&place).unwrap_or(&text));
    format!("column {}: {what}; write one JSON object with the fields of BillingEvent", error.column())
}

/// Fit for a message, whatever the input holds.
fn short(text: &str) -> String {
    printable(&text.chars().take(120).collect::<String>())
}

/// The names in one JSON object, all of them: a parser into a message keeps the last of two.
struct Names(Vec<String>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Names, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Names;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Names, A::Error> {
                let mut names = Vec::new();
                while let Some((name, IgnoredAny)) = map.next_entry()? {
                    names.push(name);
                }
                Ok(Names(names))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
#[path = "input_tests.rs"]
mod tests;
