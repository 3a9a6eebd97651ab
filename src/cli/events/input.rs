//! NDJSON of `BillingEvent`, read batch by batch: however long the input, one batch and one
//! line of it are in memory.
//!
//! A line is an event as [`crate::proto_json::event`] takes it, of at most [`MAX_LINE_BYTES`].

use prost::Message;
use tokio::io::{AsyncBufRead, AsyncBufReadExt};

use crate::proto::BillingEvent;
use crate::proto_json::event;

/// Far above any event that could be stored, however it is escaped.
const MAX_LINE_BYTES: usize = 256 * 1024;

/// An encoded batch stays below 2 MiB: one that is past this takes no further event, and an
/// encoded event is not longer than its line.
const FULL_BATCH_BYTES: usize = 2 * 1024 * 1024 - MAX_LINE_BYTES;

/// The input, a line at a time.
pub struct Input<R> {
    reader: R,
    line: u64,
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
    pub fn new(reader: R) -> Input<R> {
        Input { reader, line: 0 }
    }

    /// Up to `size` events; fewer at the end and where they are large; none after it.
    pub async fn batch(&mut self, size: usize) -> Result<Batch, InputError> {
        let mut batch = Batch::default();
        let (mut bytes, mut line) = (0, Vec::new());
        while batch.events.len() < size && bytes < FULL_BATCH_BYTES && self.read_line(&mut line).await? {
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let event = event(&line).map_err(|what| self.error(what))?;
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
}

#[cfg(test)]
#[path = "input_tests.rs"]
mod tests;
