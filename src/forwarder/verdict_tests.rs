use std::time::Duration;

use super::*;

fn failure(code: &'static str, may_pass: bool) -> Failure {
    Failure { code, may_pass, ..bad_answer("as told".into()) }
}

#[test]
fn a_code_that_was_made_up_here_is_trouble_whatever_it_is() {
    for (code, expected) in [
        ("INVALID_ARGUMENT", Blame::Content),
        ("OUT_OF_RANGE", Blame::Content),
        ("ALREADY_EXISTS", Blame::Content),
        ("INTERNAL", Blame::Defect),
        ("UNKNOWN", Blame::Defect),
        ("DATA_LOSS", Blame::Defect),
        ("FAILED_PRECONDITION", Blame::Trouble),
        ("OK", Blame::Trouble),
        ("A_NEW_ONE", Blame::Trouble),
    ] {
        assert_eq!(blame(&failure(code, false)), expected, "{code}");
        assert_eq!(blame(&failure(code, true)), Blame::Trouble, "{code}");
    }
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
    let letters = batch.letters(&[rejected]);
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
