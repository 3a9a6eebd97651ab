use std::time::Duration;

use super::*;

fn failure(code: &'static str, may_pass: bool) -> Failure {
    Failure { code, may_pass, ..bad_answer("as told".into()) }
}

#[test]
fn only_what_the_service_alone_says_is_held_against_an_event() {
    let of = |code, reason: &str, field: &str| {
        let violations = vec![(field.to_owned(), "TOO_LONG: shorten it".to_owned())];
        Failure { reason: reason.into(), violations, ..failure(code, false) }
    };
    for (failed, expected) in [
        (of("INVALID_ARGUMENT", "", "events[0].model"), Blame::Content),
        (of("INVALID_ARGUMENT", "", "events[0]"), Blame::Content),
        (of("ALREADY_EXISTS", "EVENT_CONFLICT", "events[0].request_id"), Blame::Content),
        (of("INTERNAL", "INTERNAL", ""), Blame::Defect),
        (of("INTERNAL", "REFUSED_BY_DATABASE", ""), Blame::Defect),
        // A body that was cut on the way, a batch that is too long, a request that is wrong.
        (of("INVALID_ARGUMENT", "", ""), Blame::Trouble),
        (of("INVALID_ARGUMENT", "", "events"), Blame::Trouble),
        (of("INVALID_ARGUMENT", "", "events[1].model"), Blame::Trouble),
        (of("INVALID_ARGUMENT", "", "events[].model"), Blame::Trouble),
        (of("ALREADY_EXISTS", "REQUEST_ID_REUSED", ""), Blame::Trouble),
        (of("ALREADY_EXISTS", "", "events[0].request_id"), Blame::Trouble),
        (of("OUT_OF_RANGE", "", "events[0].model"), Blame::Trouble),
        (of("INTERNAL", "", ""), Blame::Trouble),
        (of("UNKNOWN", "", ""), Blame::Trouble),
        (of("DATA_LOSS", "INTERNAL", ""), Blame::Trouble),
        (of("FAILED_PRECONDITION", "INTERNAL", ""), Blame::Trouble),
        (of("A_NEW_ONE", "", ""), Blame::Trouble),
    ] {
        assert_eq!(blame(&failed, 1), expected, "{failed:?}");
        let made_here = Failure { may_pass: true, ..failed };
        assert_eq!(blame(&made_here, 1), Blame::Trouble, "{made_here:?}");
    }
    assert_eq!(blame(&of("INVALID_ARGUMENT", "", "events[17].model"), 18), Blame::Content);
}

fn record(event: &BillingEvent) -> Record {
    let appended_at = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
    Record { ordinal: 7, appended_at, payload: event.encode_to_vec() }
}

#[test]
fn a_letter_holds_the_event_that_was_sent() {
    let time = prost_types::Timestamp { seconds: 1_780_272_000, nanos: 123_456_789 };
    let event = BillingEvent {
        request_id: "a\u{0}\u{1f600}\"\n".into(),
        prompt_tokens: i64::MIN,
        cached_tokens: i64::MAX,
        aborted: true,
        event_time: Some(time),
        ..BillingEvent::default()
    };
    let batch = Batch::of(vec![record(&BillingEvent::default()), record(&event)]);
    let rejected = RejectedEvent {
        index: 1,
        request_id: String::new(),
        field: "prompt_tokens".into(),
        reason: "NEGATIVE".into(),
    };
    let letters = batch.letters([(1, Refusal::from(&rejected))].into());
    let [letter] = &letters[..] else { panic!("one letter: {letters:?}") };
    let Content::Event(json) = &letter.content else { panic!("an event: {letter:?}") };
    assert_eq!(proto_json::event(json.to_string().as_bytes()).as_ref(), Ok(&event));
    assert_eq!((letter.code.as_str(), letter.reason.as_str()), ("INVALID_ARGUMENT", "NEGATIVE"));
    assert_eq!(letter.message, "prompt_tokens is negative");
    assert_eq!(letter.spooled_at.map(|at| at.timestamp()), Some(1));
}

#[test]
fn an_event_that_json_cannot_hold_is_kept_as_its_bytes() {
    for time in [
        prost_types::Timestamp { seconds: i64::MAX, nanos: 0 },
        prost_types::Timestamp { seconds: 0, nanos: -1 },
        prost_types::Timestamp { seconds: 0, nanos: 2_000_000_000 },
    ] {
        let event = BillingEvent { event_time: Some(time), ..BillingEvent::default() };
        let record = record(&event);
        let payload = record.payload.clone();
        let letters = Batch::of(vec![record]).alone(&failure("INVALID_ARGUMENT", false));
        assert_eq!(letters[0].content, Content::of_line(&payload), "{time:?}");
    }
}

#[test]
fn a_lone_refusal_has_the_services_words() {
    let refused = Failure {
        violations: vec![("events[0].model".into(), "TOO_LONG: shorten it".into())],
        reason: "EVENT_CONFLICT".into(),
        ..failure("ALREADY_EXISTS", false)
    };
    let letters = Batch::of(vec![record(&BillingEvent::default())]).alone(&refused);
    let letter = &letters[0];
    let said = (letter.code.as_str(), letter.field.as_str(), letter.reason.as_str(), letter.message.as_str());
    assert_eq!(said, ("ALREADY_EXISTS", "model", "EVENT_CONFLICT", "as told"));
}
