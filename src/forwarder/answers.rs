//! Lines of events, and what a producer is told about them: one JSON object a line, ascending.
//!
//! `{"line":12}` promises that every line up to 12 is on the disk, but for those that an answer
//! refused; `{"line":7,"refused":"SPOOL_FULL","error":"…"}` says that line 7 was not taken, and with
//! line 0 that the connection was not. A blank line is no line of its own: the next answer covers it.
//! What an event says is not judged
//! here, only that it is one.

use prost::Message;
use serde::Serialize;

use super::AppendError;
use super::lines::Line;
use crate::proto::BillingEvent;
use crate::proto_json;
use crate::spool;

/// The longest line that is taken for an event, and the longest event: far above any that could
/// be stored, however it is escaped.
pub const MAX_EVENT_BYTES: usize = 256 * 1024;

/// Why a line was not taken, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// It is no event; sending it again is in vain.
    NotAnEvent,
    /// It is longer than [`MAX_EVENT_BYTES`].
    LineTooLong,
    /// The spool's limit is reached.
    SpoolFull,
    /// The disk is full.
    DiskFull,
    /// The disk fails.
    SpoolFailed,
    /// The forwarder ends.
    Stopping,
    /// Of a connection: there are as many as there may be.
    TooManyConnections,
}

impl Word {
    /// All of them.
    pub const ALL: [Word; 7] = [
        Word::NotAnEvent,
        Word::LineTooLong,
        Word::SpoolFull,
        Word::DiskFull,
        Word::SpoolFailed,
        Word::Stopping,
        Word::TooManyConnections,
    ];

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Word::NotAnEvent => "NOT_AN_EVENT",
            Word::LineTooLong => "LINE_TOO_LONG",
            Word::SpoolFull => "SPOOL_FULL",
            Word::DiskFull => "DISK_FULL",
            Word::SpoolFailed => "SPOOL_FAILED",
            Word::Stopping => "STOPPING",
            Word::TooManyConnections => "TOO_MANY_CONNECTIONS",
        }
    }
}

impl AppendError {
    /// The same for programs.
    pub fn word(&self) -> Word {
        match self {
            AppendError::NotAnEvent(_) => Word::NotAnEvent,
            AppendError::TooLong { .. } | AppendError::Spool(spool::AppendError::TooLong { .. }) => {
                Word::LineTooLong
            }
            AppendError::Spool(spool::AppendError::Full { .. }) => Word::SpoolFull,
            AppendError::Spool(spool::AppendError::DiskFull(_)) => Word::DiskFull,
            AppendError::Spool(spool::AppendError::Io(_)) => Word::SpoolFailed,
            AppendError::Spool(spool::AppendError::Closed) => Word::Stopping,
        }
    }
}

/// A line that is not taken.
#[derive(Debug)]
pub struct Bad {
    /// From 1.
    pub number: u64,
    /// What it says; none when it is too long to be kept.
    pub text: Option<Vec<u8>>,
    /// What is wrong with it.
    pub error: AppendError,
}

/// Lines that are taken together.
#[derive(Debug, Default)]
pub struct Group {
    /// The encoded events.
    pub payloads: Vec<Vec<u8>>,
    /// The line of each.
    pub numbers: Vec<u64>,
    /// Those between them that are none.
    pub bad: Vec<Bad>,
    /// Whether one has no time of its own.
    pub timeless: bool,
}

impl Group {
    /// Reads the events on `lines`.
    pub fn of(lines: Vec<Line>) -> Group {
        let mut group = Group::default();
        for Line { number, text } in lines {
            let event = match text.as_deref() {
                Some(text) if text.iter().all(u8::is_ascii_whitespace) => continue,
                Some(text) => event(text),
                None => Err(AppendError::TooLong { max_bytes: MAX_EVENT_BYTES }),
            };
            match event {
                Ok(event) => {
                    group.timeless |= event.event_time.is_none();
                    group.payloads.push(event.encode_to_vec());
                    group.numbers.push(number);
                }
                Err(error) => group.bad.push(Bad { number, text, error }),
            }
        }
        group
    }

    /// The answers, each a line of JSON: what is bad is refused; of the rest all was taken, or so
    /// many of the first, and why not more.
    pub fn answers(&self, taken: &Result<(), (usize, AppendError)>) -> String {
        let (count, error) = match taken {
            Ok(()) => (self.numbers.len(), None),
            Err((count, error)) => (*count, Some(error)),
        };
        let (there, refused) = self.numbers.split_at(count.min(self.numbers.len()));
        let bad = self.bad.iter().map(|bad| Answer::refused(bad.number, &bad.error));
        let last = there.last().map(|line| Answer { line: *line, refused: None });
        let not_taken = refused.iter().filter_map(|line| Some(Answer::refused(*line, error?)));
        let mut answers: Vec<Answer> = bad.chain(last).chain(not_taken).collect();
        answers.sort_by_key(|answer| answer.line);
        answers.iter().filter_map(|answer| Some(serde_json::to_string(answer).ok()? + "\n")).collect()
    }
}

/// One event from its JSON.
pub fn event(text: &[u8]) -> Result<BillingEvent, AppendError> {
    if text.len() > MAX_EVENT_BYTES {
        return Err(AppendError::TooLong { max_bytes: MAX_EVENT_BYTES });
    }
    proto_json::event(text).map_err(AppendError::NotAnEvent)
}

#[derive(Debug, Serialize)]
struct Answer {
    line: u64,
    #[serde(flatten)]
    refused: Option<Refused>,
}

#[derive(Debug, Serialize)]
struct Refused {
    refused: &'static str,
    error: String,
}

impl Answer {
    fn refused(line: u64, error: &AppendError) -> Answer {
        Answer { line, refused: Some(Refused { refused: error.word().as_str(), error: error.to_string() }) }
    }
}

/// What a producer is told for whom there is no place.
pub fn no_place(connections: usize) -> String {
    let error = format!("there are {connections} connections already; use fewer, or try again later");
    let refused = Some(Refused { refused: Word::TooManyConnections.as_str(), error });
    serde_json::to_string(&Answer { line: 0, refused }).map(|line| line + "\n").unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(lines: &[&str]) -> Group {
        let lines = (1..).zip(lines).map(|(number, text)| Line { number, text: Some((*text).into()) });
        Group::of(lines.collect())
    }

    const EVENT: &str = r#"{"request_id":"r"}"#;

    #[test]
    fn an_answer_covers_what_is_before_it_and_refusals_stand_in_their_place() {
        let group = group(&[EVENT, "nonsense", "", EVENT, "{}{}", " \t"]);
        assert_eq!(group.payloads.len(), 2);
        let answers = group.answers(&Ok(()));
        let lines: Vec<&str> = answers.lines().collect();
        assert!(
            lines[0].starts_with(r#"{"line":2,"refused":"NOT_AN_EVENT","error":"column 2: "#),
            "{answers}"
        );
        assert_eq!(lines[1], r#"{"line":4}"#);
        assert!(lines[2].starts_with(r#"{"line":5,"refused":"NOT_AN_EVENT""#), "{answers}");
        assert_eq!(lines.len(), 3);
    }

    #[test]
    fn every_line_of_a_group_that_was_not_taken_is_refused() {
        let group = group(&[EVENT, "nonsense", EVENT]);
        let full = AppendError::Spool(spool::AppendError::Full { bytes: 10, max_bytes: 9 });
        let answers = group.answers(&Err((0, full)));
        let refused: Vec<serde_json::Value> =
            answers.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let words: Vec<_> =
            refused.iter().map(|one| (one["line"].as_u64(), one["refused"].as_str())).collect();
        let expected = [(1, "SPOOL_FULL"), (2, "NOT_AN_EVENT"), (3, "SPOOL_FULL")];
        assert_eq!(words, expected.map(|(line, word)| (Some(line), Some(word))));
    }

    #[test]
    fn what_was_taken_of_a_group_is_acknowledged_and_the_rest_refused() {
        let group = group(&[EVENT, "nonsense", EVENT, EVENT, EVENT]);
        let full = AppendError::Spool(spool::AppendError::Full { bytes: 10, max_bytes: 9 });
        let answers = group.answers(&Err((2, full)));
        let starts = [
            r#"{"line":2,"refused":"NOT_AN_EVENT""#,
            r#"{"line":3}"#,
            r#"{"line":4,"refused":"SPOOL_FULL""#,
            r#"{"line":5,"refused":"SPOOL_FULL""#,
        ];
        assert_eq!(answers.lines().count(), 4);
        assert!(answers.lines().zip(starts).all(|(line, start)| line.starts_with(start)), "{answers}");
    }

    #[test]
    fn blank_lines_alone_are_not_answered() {
        assert_eq!(group(&["", "  ", "\t"]).answers(&Ok(())), "");
    }

    #[test]
    fn whatever_is_no_event_is_refused_and_content_is_not_judged() {
        for (text, word) in [
            (&b"\xff\xfe"[..], Word::NotAnEvent),
            (b"\0", Word::NotAnEvent),
            (b"[]", Word::NotAnEvent),
            (b"{\"unknown\":1}", Word::NotAnEvent),
            (b"{\"prompt_tokens\":1e400}", Word::NotAnEvent),
            (&[b' '; MAX_EVENT_BYTES + 1], Word::LineTooLong),
        ] {
            assert_eq!(event(text).expect_err("no event").word(), word);
        }
        for text in
            [r#"{"prompt_tokens":-1}"#, r#"{"prompt_tokens":2147483648}"#, "{}", r#"{"request_id":"\u0000"}"#]
        {
            assert!(event(text.as_bytes()).is_ok(), "{text}");
        }
        let mut longest = EVENT.as_bytes().to_vec();
        longest.resize(MAX_EVENT_BYTES, b' ');
        assert!(event(&longest).is_ok());
    }

    #[test]
    fn an_event_without_a_time_is_noticed() {
        assert!(group(&[EVENT]).timeless);
        assert!(!group(&[r#"{"event_time":"2026-06-01T00:00:00Z"}"#]).timeless);
    }
}
