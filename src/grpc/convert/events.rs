//! The messages of EventService.

use prost::Message;

use crate::domain::event::RawEvent;
use crate::proto::{BillingEvent, RecordEventsResponse, RejectedEvent};
use crate::service::record_events::{Recorded, Rejected};

/// Answers stay below what a client takes by default (4 MiB), with room to spare.
const MAX_RESPONSE_BYTES: usize = 2 * 1024 * 1024;

/// The characters of a rejected event's id that the answer repeats: all of a valid one.
const MAX_ID_CHARS: usize = 255;

/// An event as it was sent.
pub fn raw_event(event: BillingEvent) -> RawEvent {
    RawEvent {
        request_id: event.request_id,
        auth_id: event.auth_id,
        user_id: event.user_id,
        group_id: event.group_id,
        resource_id: event.resource_id,
        resource_type: event.resource_type,
        model: event.model,
        base_model: event.base_model,
        adapter: event.adapter,
        prompt_tokens: event.prompt_tokens,
        cached_tokens: event.cached_tokens,
        completion_tokens: event.completion_tokens,
        finish_reason: event.finish_reason,
        gpu_type: event.gpu_type,
        aborted: event.aborted,
        event_time: event.event_time.map(|time| (time.seconds, time.nanos)),
    }
}

/// The answer. One that would be too large to receive leaves out the ids of the rejected
/// events, which their indices name as well: a client that could not read the answer would
/// send the batch for ever.
pub fn record_events_response(recorded: Recorded) -> RecordEventsResponse {
    let mut response = RecordEventsResponse {
        stored: recorded.stored,
        duplicates: recorded.duplicates,
        rejected: recorded.rejected.into_iter().map(rejected_event).collect(),
    };
    if response.encoded_len() > MAX_RESPONSE_BYTES {
        response.rejected.iter_mut().for_each(|rejected| rejected.request_id.clear());
    }
    response
}

fn rejected_event(rejected: Rejected) -> RejectedEvent {
    let mut request_id = rejected.request_id;
    if let Some((end, _)) = request_id.char_indices().nth(MAX_ID_CHARS) {
        request_id.truncate(end);
    }
    RejectedEvent {
        // A batch has at most 10,000 events.
        index: i32::try_from(rejected.index).unwrap_or(i32::MAX),
        request_id,
        field: rejected.field.into(),
        reason: rejected.reason.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(events: usize, request_id: &str) -> Recorded {
        let rejected = |index| Rejected {
            index,
            request_id: request_id.into(),
            field: "prompt_tokens",
            reason: "NEGATIVE",
        };
        Recorded { stored: 1, duplicates: 2, rejected: (0..events).map(rejected).collect() }
    }

    #[test]
    fn an_answer_repeats_the_ids_of_rejected_events() {
        let response = record_events_response(recorded(1, &"é".repeat(300)));
        assert_eq!((response.stored, response.duplicates), (1, 2));
        assert_eq!(response.rejected[0].request_id, "é".repeat(255));
        assert_eq!(response.rejected[0].field, "prompt_tokens");
    }

    #[test]
    fn an_answer_fits_whatever_was_rejected() {
        let response = record_events_response(recorded(10_000, &"€".repeat(255)));
        assert!(response.encoded_len() <= MAX_RESPONSE_BYTES, "{}", response.encoded_len());
        assert_eq!(response.rejected.len(), 10_000);
        assert_eq!(response.rejected[9_999].index, 9_999);
    }
}
