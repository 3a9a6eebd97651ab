//! What an answer says about each event of a call.

use std::collections::BTreeMap;

use crate::grpc::client::Failure;
use crate::proto::RecordEventsResponse;

/// Why an event can't be stored as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub code: String,
    pub field: String,
    pub reason: String,
    pub message: String,
}

/// What a call that failed means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// One of its events.
    Content,
    /// Perhaps one of its events.
    Unclear,
    /// None of them.
    Trouble,
}

/// The events that were refused, by their place in the call. An answer that does not add up says
/// nothing about any.
pub fn refused(response: RecordEventsResponse, sent: usize) -> Result<BTreeMap<usize, Refusal>, String> {
    let mut refused = BTreeMap::new();
    let rejected = response.rejected.len();
    for event in response.rejected {
        // What a call without skip_invalid is refused with.
        let code = if event.reason == "EVENT_CONFLICT" { "ALREADY_EXISTS" } else { "INVALID_ARGUMENT" };
        let refusal =
            Refusal { code: code.into(), field: event.field, reason: event.reason, message: String::new() };
        if let Some(index) = usize::try_from(event.index).ok().filter(|index| *index < sent) {
            refused.insert(index, refusal);
        }
    }
    let counted = [response.stored, response.duplicates].map(|count| usize::try_from(count).ok());
    let sum = match counted {
        [Some(stored), Some(duplicates)] => {
            stored.checked_add(duplicates).and_then(|n| n.checked_add(rejected))
        }
        _ => None,
    };
    match sum == Some(sent) && refused.len() == rejected {
        true => Ok(refused),
        false => Err("the service's answer does not add up to what was sent".into()),
    }
}

/// What it means that a whole call failed.
pub fn cause(failure: &Failure) -> Cause {
    match failure.code {
        _ if failure.may_pass => Cause::Trouble,
        "INVALID_ARGUMENT" | "OUT_OF_RANGE" | "ALREADY_EXISTS" => Cause::Content,
        "INTERNAL" | "UNKNOWN" | "DATA_LOSS" => Cause::Unclear,
        _ => Cause::Trouble,
    }
}

impl From<&Failure> for Refusal {
    /// Of a call with one event.
    fn from(failure: &Failure) -> Refusal {
        let first = failure.violations.first();
        let field = first.map(|(field, _)| field.strip_prefix("events[0].").unwrap_or(field));
        let reason = if failure.reason.is_empty() { failure.code } else { &failure.reason };
        Refusal {
            code: failure.code.into(),
            field: field.unwrap_or_default().into(),
            reason: reason.into(),
            message: failure.message.clone(),
        }
    }
}
