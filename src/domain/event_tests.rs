use super::*;

fn raw() -> RawEvent {
    RawEvent { request_id: "r".into(), ..RawEvent::default() }
}

/// Field and reason of each error.
fn errors(raw: RawEvent) -> Vec<(&'static str, &'static str)> {
    raw.check().err().unwrap_or_default().iter().map(|e| (e.field, e.reason)).collect()
}

fn time(seconds: i64, nanos: i32) -> Result<Option<i64>, Vec<FieldError>> {
    let event = RawEvent { event_time: Some((seconds, nanos)), ..raw() }.check()?;
    Ok(event.event_time.map(|t| t.timestamp_nanos_opt().unwrap_or(i64::MIN)))
}

#[test]
fn an_event_without_identity_is_fine_and_empty_text_is_null() {
    let event = raw().check().expect("identity may be missing");
    assert_eq!(event.request_id, "r");
    assert_eq!(
        [event.auth_id, event.user_id, event.group_id, event.resource_id, event.resource_type, event.model],
        [const { None }; 6]
    );
    assert_eq!([event.base_model, event.adapter, event.finish_reason, event.gpu_type], [const { None }; 4]);
    assert_eq!(event.event_time, None);
}

#[test]
fn a_missing_request_id_is_refused() {
    assert_eq!(errors(RawEvent::default()), [("request_id", "MISSING")]);
}

type Field = fn(&mut RawEvent) -> &mut String;
const TEXTS: [(&str, usize, Field); 11] = [
    ("request_id", 255, |e| &mut e.request_id),
    ("auth_id", 64, |e| &mut e.auth_id),
    ("user_id", 32, |e| &mut e.user_id),
    ("group_id", 32, |e| &mut e.group_id),
    ("resource_id", 64, |e| &mut e.resource_id),
    ("resource_type", 64, |e| &mut e.resource_type),
    ("model", 255, |e| &mut e.model),
    ("base_model", 255, |e| &mut e.base_model),
    ("adapter", 255, |e| &mut e.adapter),
    ("finish_reason", 64, |e| &mut e.finish_reason),
    ("gpu_type", 64, |e| &mut e.gpu_type),
];

#[test]
fn text_is_measured_in_characters() {
    for (field, limit, get) in TEXTS {
        let mut fits = raw();
        *get(&mut fits) = "é".repeat(limit);
        assert_eq!(errors(fits), [], "{field} of {limit}");
        let mut long = raw();
        *get(&mut long) = "é".repeat(limit + 1);
        assert_eq!(errors(long), [(field, "TOO_LONG")]);
    }
}

#[test]
fn a_nul_character_is_refused_in_every_text() {
    for (field, _, get) in TEXTS {
        let mut event = raw();
        *get(&mut event) = "a\0b".into();
        assert_eq!(errors(event), [(field, "NUL_CHARACTER")]);
    }
}

#[test]
fn token_counts_fit_an_integer() {
    for tokens in [0, 1, i64::from(i32::MAX)] {
        let event = RawEvent { prompt_tokens: tokens, ..raw() }.check().expect("fits");
        assert_eq!(i64::from(event.prompt_tokens), tokens);
    }
    for (tokens, reason) in
        [(-1, "NEGATIVE"), (i64::MIN, "NEGATIVE"), (1 << 31, "TOO_LARGE"), (i64::MAX, "TOO_LARGE")]
    {
        let event =
            RawEvent { prompt_tokens: tokens, cached_tokens: tokens, completion_tokens: tokens, ..raw() };
        let fields = ["prompt_tokens", "cached_tokens", "completion_tokens"];
        assert_eq!(errors(event), fields.map(|field| (field, reason)));
    }
}

#[test]
fn times_are_rounded_down_to_the_microsecond() {
    assert_eq!(time(1, 999_999_999), Ok(Some(1_999_999_000)));
    assert_eq!(time(1, 1_999), Ok(Some(1_000_001_000)));
    // 1.5 microseconds before 1970 is 2 before it, not 1.
    assert_eq!(time(-1, 999_998_500), Ok(Some(-2_000)));
    assert_eq!(time(-1, 999_999_999), Ok(Some(-1_000)));
}

#[test]
fn times_lie_in_the_years_1_to_9999() {
    for (seconds, nanos) in [(-62_135_596_800, 0), (253_402_300_799, 999_999_999)] {
        assert!(time(seconds, nanos).is_ok(), "{seconds}");
    }
    let outside = [
        (-62_135_596_801, 999_999_999),
        (253_402_300_800, 0),
        (0, -1),
        (0, 1_000_000_000),
        (i64::MIN, i32::MIN),
    ];
    for (seconds, nanos) in outside {
        let event = RawEvent { event_time: Some((seconds, nanos)), ..raw() };
        assert_eq!(errors(event), [("event_time", "OUT_OF_RANGE")], "{seconds} {nanos}");
    }
}

#[test]
fn every_bad_field_is_named_at_once_in_the_contracts_order() {
    let event = RawEvent {
        user_id: "u".repeat(33),
        prompt_tokens: -1,
        gpu_type: "\0".into(),
        event_time: Some((0, -1)),
        ..RawEvent::default()
    };
    let expected = [
        ("request_id", "MISSING"),
        ("user_id", "TOO_LONG"),
        ("prompt_tokens", "NEGATIVE"),
        ("gpu_type", "NUL_CHARACTER"),
        ("event_time", "OUT_OF_RANGE"),
    ];
    assert_eq!(errors(event), expected);
}

#[test]
fn messages_quote_a_short_escaped_excerpt() {
    let hostile = format!("\n\u{1b}[31m{}", "x".repeat(1_000_000));
    let errors = RawEvent { model: hostile, ..raw() }.check().expect_err("too long");
    assert!(errors[0].message.len() < 200, "{}", errors[0].message.len());
    assert!(!errors[0].message.contains(|c: char| c.is_control()), "{}", errors[0].message);
}
