//! A billing event as it comes in and as it is stored.
//!
//! [`RawEvent::check`] promises an [`Event`] that PostgreSQL takes as it is, or every bad
//! field of it at once. Identity may be missing: rating counts such events (R3), so they
//! must be stored. It refuses what could not be stored unchanged: nothing is cut short,
//! clamped or replaced, but for a time, which is kept to the microsecond, rounded down.

use chrono::{DateTime, Utc};

/// A metered request as a producer sent it. Text that is unset is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)] // the fields are those of `BillingEvent` in the contract
pub struct RawEvent {
    pub request_id: String,
    pub auth_id: String,
    pub user_id: String,
    pub group_id: String,
    pub resource_id: String,
    pub resource_type: String,
    pub model: String,
    pub base_model: String,
    pub adapter: String,
    pub prompt_tokens: i64,
    pub cached_tokens: i64,
    pub completion_tokens: i64,
    pub finish_reason: String,
    pub gpu_type: String,
    pub aborted: bool,
    /// Seconds since 1970 and the nanoseconds after them, which count forward even before it.
    pub event_time: Option<(i64, i32)>,
}

/// A metered request as it is stored. Two of them are equal when they have the same content,
/// which makes the second one a duplicate.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // the columns of `billing_event`
pub struct Event {
    pub request_id: String,
    pub auth_id: Option<String>,
    pub user_id: Option<String>,
    pub group_id: Option<String>,
    pub resource_id: Option<String>,
    pub resource_type: Option<String>,
    pub model: Option<String>,
    pub base_model: Option<String>,
    pub adapter: Option<String>,
    pub prompt_tokens: i32,
    pub cached_tokens: i32,
    pub completion_tokens: i32,
    pub finish_reason: Option<String>,
    pub gpu_type: Option<String>,
    pub aborted: bool,
    /// Whole microseconds.
    pub event_time: Option<DateTime<Utc>>,
}

/// One field of an event that can't be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// Its name in the contract.
    pub field: &'static str,
    /// Stable, for programs: `MISSING`, `TOO_LONG`, `NUL_CHARACTER`, `NEGATIVE`, `TOO_LARGE`
    /// or `OUT_OF_RANGE`.
    pub reason: &'static str,
    /// For a person: what is wrong, and what to do.
    pub message: String,
}

/// 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z, the range of a protobuf timestamp.
const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

impl RawEvent {
    /// The event to store, or every field that is wrong, in the order of the contract.
    pub fn check(self) -> Result<Event, Vec<FieldError>> {
        let mut check = Check::default();
        let event = Event {
            request_id: check.required("request_id", self.request_id, 255),
            auth_id: check.text("auth_id", self.auth_id, 64),
            user_id: check.text("user_id", self.user_id, 32),
            group_id: check.text("group_id", self.group_id, 32),
            resource_id: check.text("resource_id", self.resource_id, 64),
            resource_type: check.text("resource_type", self.resource_type, 64),
            model: check.text("model", self.model, 255),
            base_model: check.text("base_model", self.base_model, 255),
            adapter: check.text("adapter", self.adapter, 255),
            prompt_tokens: check.tokens("prompt_tokens", self.prompt_tokens),
            cached_tokens: check.tokens("cached_tokens", self.cached_tokens),
            completion_tokens: check.tokens("completion_tokens", self.completion_tokens),
            finish_reason: check.text("finish_reason", self.finish_reason, 64),
            gpu_type: check.text("gpu_type", self.gpu_type, 64),
            aborted: self.aborted,
            event_time: self.event_time.and_then(|time| check.time("event_time", time)),
        };
        if check.errors.is_empty() { Ok(event) } else { Err(check.errors) }
    }
}

/// Collects what is wrong; a bad field yields a stand-in that never leaves [`RawEvent::check`].
#[derive(Default)]
struct Check {
    errors: Vec<FieldError>,
}

impl Check {
    fn error(&mut self, field: &'static str, reason: &'static str, message: String) {
        self.errors.push(FieldError { field, reason, message });
    }

    fn required(&mut self, field: &'static str, value: String, limit: usize) -> String {
        if value.is_empty() {
            self.error(field, "MISSING", "is empty; give each event an id of its own".into());
        }
        self.text(field, value, limit).unwrap_or_default()
    }

    /// Text of at most `limit` characters, counted as PostgreSQL counts them; empty is None.
    fn text(&mut self, field: &'static str, value: String, limit: usize) -> Option<String> {
        if let Some(at) = value.find('\0') {
            let before = value[..at].chars().count();
            let message = format!(
                "character {} is NUL, which the database can't store; remove it",
                before.saturating_add(1)
            );
            self.error(field, "NUL_CHARACTER", message);
        } else if value.len() > limit {
            let length = value.chars().count();
            if length > limit {
                let message =
                    format!("has {length} characters and {limit} are stored; shorten {}", excerpt(&value));
                self.error(field, "TOO_LONG", message);
            }
        }
        (!value.is_empty()).then_some(value)
    }

    fn tokens(&mut self, field: &'static str, value: i64) -> i32 {
        if value < 0 {
            self.error(field, "NEGATIVE", format!("is {value}; a token count is 0 or more"));
        } else if value > i64::from(i32::MAX) {
            self.error(field, "TOO_LARGE", format!("is {value}; a token count is at most {}", i32::MAX));
        }
        i32::try_from(value).unwrap_or_default()
    }

    fn time(&mut self, field: &'static str, (seconds, nanos): (i64, i32)) -> Option<DateTime<Utc>> {
        if !(0..=999_999_999).contains(&nanos) {
            self.error(field, "OUT_OF_RANGE", format!("has {nanos} nanos; they lie within 0 and 999999999"));
            return None;
        }
        if !SECONDS.contains(&seconds) {
            let message = format!(
                "is {seconds} seconds from 1970, outside the years 1 to 9999; send seconds, not milliseconds"
            );
            self.error(field, "OUT_OF_RANGE", message);
            return None;
        }
        // The nanoseconds count forward from the second, so cutting them rounds down, before
        // 1970 as well.
        DateTime::from_timestamp(seconds, u32::try_from(nanos / 1_000 * 1_000).unwrap_or_default())
    }
}

/// The beginning of a value, quoted and escaped so that it can't break a line or a terminal.
pub fn excerpt(value: &str) -> String {
    const SHOWN: usize = 40;
    let start: String = value.chars().take(SHOWN).collect();
    let more = if start.len() < value.len() { "…" } else { "" };
    format!("\"{}{more}\"", start.escape_debug())
}

#[cfg(test)]
#[path = "event_tests.rs"]
mod tests;
