//! The oracle, held against examples that were worked out by hand.

use super::*;
use crate::domain::pricebook::parse;

const BOOK: &str = r#"version: 1
base_models:
  acme/large: {prompt: "0.000003", cached: "0.0000003", completion: "0.000015"}
  acme/small:
    - {effective_from: 2026-06-01T11:00:00Z, prompt: "0.000001", cached: "0.0000001", completion: "0.000002"}
fine_tune_premium: {policy: multiplier, factor: "1.5"}
fine_tunes:
  ft:own: {rate: {prompt: "0.00001", cached: "0", completion: "0.00002"}}
"#;

fn book(yaml: &str) -> Pricebook {
    parse(yaml).book.expect("a valid book")
}

fn time(text: &str) -> DateTime<Utc> {
    text.parse().expect(text)
}

fn at(clock: &str) -> DateTime<Utc> {
    time(&format!("2026-06-01T{clock}Z"))
}

/// An event of `a` on `r` at 10:15.
fn event(request_id: &str, model: &str, tokens: [i32; 3]) -> Event {
    let [prompt_tokens, cached_tokens, completion_tokens] = tokens.map(Some);
    Event {
        request_id: request_id.to_owned(),
        auth_id: Some("a".to_owned()),
        resource_id: Some("r".to_owned()),
        model: Some(model.to_owned()),
        base_model: None,
        prompt_tokens,
        cached_tokens,
        completion_tokens,
        at: at("10:15:00"),
    }
}

fn with_base(base: &str, event: Event) -> Event {
    Event { base_model: Some(base.to_owned()), ..event }
}

type Held = BTreeMap<RollupKey, Rollup>;

/// The window of 10 and 11 o'clock.
fn rated(book: &Pricebook, trigger: Trigger, basis: RateBasis, events: &[Event], held: &Held) -> Outcome {
    let window = Window { start: at("10:00:00"), end: at("12:00:00") };
    let run = Run { window, trigger, basis, book };
    let outcome = rate(&run, events, held).expect("exact");
    assert!(outcome.counts.conserved(), "{:?}", outcome.counts);
    outcome
}

fn routine(book: &Pricebook, events: &[Event], held: &Held) -> Outcome {
    rated(book, Trigger::Routine, RateBasis::Frozen, events, held)
}

fn backfill(book: &Pricebook, events: &[Event], held: &Held) -> Outcome {
    rated(book, Trigger::Backfill, RateBasis::Pricebook, events, held)
}

fn held_after(outcome: &Outcome) -> Held {
    let row = |(key, settled): (&RollupKey, &Settled)| Some((key.clone(), settled.after.clone()?));
    outcome.rollups.iter().filter_map(row).collect()
}

fn only(outcome: &Outcome) -> (&RollupKey, &Settled) {
    assert_eq!(outcome.rollups.len(), 1, "{outcome:#?}");
    outcome.rollups.first_key_value().expect("one")
}

fn after(outcome: &Outcome) -> &Rollup {
    only(outcome).1.after.as_ref().expect("not deleted")
}

fn kinds(outcome: &Outcome) -> Vec<(AnomalyKind, i64)> {
    outcome.anomalies.iter().map(|(key, anomaly)| (key.kind, anomaly.events)).collect()
}

fn cost(outcome: &Outcome) -> String {
    outcome.counts.total_cost.to_string()
}

#[test]
fn r2_cached_tokens_are_billed_once_and_clamped_by_the_event() {
    let events = [event("1", "acme/large", [1000, 400, 10]), event("2", "acme/large", [10, 30, 0])];
    let outcome = routine(&book(BOOK), &events, &Held::new());
    let row = after(&outcome);
    assert_eq!(row.prompt_tokens, Some(1010));
    assert_eq!(row.billable_prompt_tokens, Some(600));
    assert_eq!(row.cached_tokens, Some(430));
    // 600 × 0.000003 + 430 × 0.0000003 + 10 × 0.000015
    assert_eq!(cost(&outcome), "0.002079");
    assert_eq!(outcome.counts.clamped_events, 1);
    assert_eq!(outcome.counts.rated_events, 2);
}

#[test]
fn r3_an_event_is_withheld_under_the_first_kind_that_applies() {
    let nobody = Event { auth_id: Some(String::new()), ..event("1", "acme/large", [-1, 0, 0]) };
    let events = [
        nobody,
        Event { model: None, ..event("2", "x", [1, 0, 0]) },
        event("3", "unknown", [1, -1, 0]),
        Event { cached_tokens: None, ..event("4", "acme/large", [1, 0, 0]) },
        event("5", "unknown", [1, 0, 0]),
        event("6", "ACME/large", [1, 0, 0]),
        event("7", "acme/small", [1, 0, 0]),
        with_base("acme/large", event("8", "unknown", [1, 0, 0])),
        with_base("", event("9", "ft:x", [1, 0, 0])),
    ];
    let outcome = backfill(&book(BOOK), &events, &Held::new());
    let counts = &outcome.counts;
    assert_eq!((counts.unattributable_events, counts.malformed_events), (2, 2));
    assert_eq!((counts.unpriced_events, counts.rated_events), (5, 0));
    assert!(outcome.rollups.is_empty());
}

#[test]
fn r3_two_base_models_withhold_the_whole_rollup() {
    let later = |event| Event { at: at("11:59:59.999999"), ..event };
    let events = [
        later(with_base("acme/large", event("2", "ft:x", [1, 0, 0]))),
        later(with_base("acme/small", event("1", "ft:x", [2, 0, 0]))),
        later(with_base("acme/small", event("3", "ft:x", [4, 0, 0]))),
        later(with_base("ghost", event("4", "ft:x", [8, 0, 0]))),
        with_base("acme/large", event("5", "ft:x", [1, 0, 0])),
    ];
    let outcome = routine(&book(BOOK), &events, &Held::new());
    let (key, _) = only(&outcome);
    assert_eq!(key.window_start, at("10:00:00"));
    assert_eq!(kinds(&outcome), [(AnomalyKind::Unpriced, 1), (AnomalyKind::AmbiguousBase, 3)]);
    let ambiguous = outcome.anomalies.last_key_value().expect("two").1;
    assert_eq!(ambiguous.base_models, ["acme/large", "acme/small"]);
    assert_eq!((ambiguous.prompt_tokens, ambiguous.sample_request_id.as_str()), (7, "1"));
}

#[test]
fn a_named_model_is_not_ambiguous_and_a_derived_one_gets_the_premium() {
    let own = [
        with_base("acme/large", event("1", "ft:own", [1, 0, 0])),
        with_base("acme/small", event("2", "ft:own", [1, 0, 0])),
    ];
    assert_eq!(cost(&routine(&book(BOOK), &own, &Held::new())), "0.00002");
    let derived = [with_base("acme/large", event("1", "ft:x", [2, 0, 0]))];
    assert_eq!(cost(&routine(&book(BOOK), &derived, &Held::new())), "0.000009");
}

#[test]
fn a_window_is_half_open_and_hours_are_utc() {
    let clocks = ["09:59:59.999999", "10:00:00", "10:59:59.999999", "11:00:00", "12:00:00"];
    let one = |clock| Event { at: at(clock), ..event(clock, "acme/large", [1, 0, 0]) };
    let outcome = routine(&book(BOOK), &clocks.map(one), &Held::new());
    let hours: Vec<_> = outcome.rollups.keys().map(|key| key.window_start).collect();
    assert_eq!(hours, [at("10:00:00"), at("11:00:00")]);
    assert_eq!(outcome.counts.events, 3);
    assert_eq!(hour_of(time("1969-12-31T23:59:59.5Z")), time("1969-12-31T23:00:00Z"));
}

#[test]
fn r5_what_is_not_produced_is_deleted_and_what_lies_outside_stays() {
    let events = [event("1", "acme/large", [1, 0, 0])];
    let held = held_after(&routine(&book(BOOK), &events, &Held::new()));
    let gone = routine(&book(BOOK), &[], &held);
    assert_eq!(only(&gone).1.operation, Operation::Delete);
    assert_eq!((gone.counts.previous_cost.to_string(), cost(&gone)), ("0.000003".into(), "0".into()));
    let moved =
        held.into_iter().map(|(key, row)| (RollupKey { window_start: at("12:00:00"), ..key }, row)).collect();
    assert!(routine(&book(BOOK), &[], &moved).rollups.is_empty());
}

#[test]
fn r6_the_digest_stays_that_of_the_book_the_rate_came_from() {
    let events = [event("1", "acme/large", [1, 0, 0])];
    let one = book(BOOK);
    let held = held_after(&backfill(&one, &events, &Held::new()));
    let other = book(&format!("{BOOK}gpu_floor_rates: {{x: \"1\"}}\n"));
    assert_ne!(one.digest(), other.digest());
    assert_eq!(only(&backfill(&other, &events, &held)).1.operation, Operation::Unchanged);
    let more = [events[0].clone(), event("2", "acme/large", [1, 0, 0])];
    let outcome = backfill(&other, &more, &held);
    assert_eq!(only(&outcome).1.operation, Operation::Update);
    assert_eq!(after(&outcome).digest.as_deref(), Some(one.digest()));
}

#[test]
fn r10_a_routine_run_keeps_rates_and_a_backfill_reprices() {
    let events = [event("1", "acme/large", [1, 0, 0]), event("2", "acme/large", [1, 0, 0])];
    let old = book(BOOK);
    let held = held_after(&routine(&old, &events, &Held::new()));
    let dearer = book(&BOOK.replace("\"0.000003\"", "\"0.000004\""));
    let kept = routine(&dearer, &events[..1], &held);
    assert_eq!(cost(&kept), "0.000003");
    assert_eq!(after(&kept).digest.as_deref(), Some(old.digest()));
    assert_eq!((kept.counts.rate_drift_rollups, kept.counts.shrunk_rollups), (1, 1));
    let repriced = backfill(&dearer, &events, &held);
    assert_eq!(cost(&repriced), "0.000008");
    assert_eq!(after(&repriced).digest.as_deref(), Some(dearer.digest()));
    assert_eq!((repriced.counts.rate_drift_rollups, repriced.counts.shrunk_rollups), (0, 0));
    let frozen = rated(&dearer, Trigger::Backfill, RateBasis::Frozen, &events, &held);
    assert_eq!((only(&frozen).1.operation, only(&frozen).1.drifted), (Operation::Unchanged, true));
}

#[test]
fn r10_a_routine_run_leaves_what_it_cannot_explain_and_a_backfill_prices_it() {
    let events = [event("1", "acme/large", [1, 0, 0])];
    let book = book(BOOK);
    let fine = held_after(&routine(&book, &events, &Held::new()));
    let spoil = |spoil: fn(&mut Rollup)| -> Held {
        let mut held = fine.clone();
        held.values_mut().for_each(spoil);
        held
    };
    let unexplained: [fn(&mut Rollup); 7] = [
        |row| row.cost = Some(Money::ZERO),
        |row| row.cost = None,
        |row| row.cached_rate = None,
        |row| row.completion_tokens = None,
        |row| (row.billable_prompt_tokens, row.prompt_tokens) = (None, None),
        // What a row of ours could not hold, even where the sum is right.
        |row| {
            row.completion_tokens = Some(-1);
            row.cost = Money::parse("-0.000012").ok();
        },
        |row| {
            row.prompt_rate = Rate::parse("0.0000000000001").ok();
            row.cost = Money::parse("0.0000000000001").ok();
        },
    ];
    for held in unexplained.map(spoil) {
        for events in [&events[..], &[]] {
            let outcome = routine(&book, events, &held);
            assert_eq!(only(&outcome).1.operation, Operation::Left);
            assert_eq!((outcome.counts.unexplained_rollups, outcome.counts.unchanged_rollups), (1, 1));
            assert_eq!(outcome.counts.rated_events, events.len() as i64);
            assert_eq!(outcome.counts.total_cost, outcome.counts.previous_cost);
        }
        assert_eq!(only(&backfill(&book, &events, &held)).1.operation, Operation::Update);
        assert_eq!(only(&backfill(&book, &[], &held)).1.operation, Operation::Delete);
        let frozen = rated(&book, Trigger::Backfill, RateBasis::Frozen, &events, &held);
        assert_eq!(after(&frozen), fine.first_key_value().expect("one").1);
    }
    let explained = spoil(|row| row.billable_prompt_tokens = None);
    assert_eq!(only(&routine(&book, &events, &explained)).1.operation, Operation::Update);
}

#[test]
fn r13_another_currency_in_the_window_is_found() {
    let events = [event("1", "acme/large", [1, 0, 0])];
    let held = held_after(&routine(&book(BOOK), &events, &Held::new()));
    let euro = book(&BOOK.replace("version: 1", "version: 1\ncurrency: EUR"));
    assert_eq!(routine(&euro, &events, &held).foreign_currency.as_deref(), Some("USD"));
    assert_eq!(routine(&book(BOOK), &events, &held).foreign_currency, None);
}

#[test]
fn another_price_class_is_not_ours_to_keep() {
    let events = [event("1", "acme/large", [1, 0, 0])];
    let held = held_after(&routine(&book(BOOK), &events, &Held::new()));
    let batch =
        held.into_iter().map(|(key, row)| (RollupKey { price_class: "batch".into(), ..key }, row)).collect();
    let outcome = routine(&book(BOOK), &events, &batch);
    let operations: Vec<_> = outcome.rollups.values().map(|settled| settled.operation).collect();
    assert_eq!(operations, [Operation::Delete, Operation::Insert]);
}

#[test]
fn r4_counts_that_lose_an_event_are_not_conserved() {
    let counts = Counts { events: 3, rated_events: 1, unpriced_events: 1, ..Counts::default() };
    assert!(!counts.conserved());
    assert!(Counts { malformed_events: 1, ..counts }.conserved());
}

#[test]
fn an_anomaly_names_ten_base_models_in_order_of_their_bytes() {
    let events: Vec<Event> =
        (0..12).map(|n| with_base(&format!("b{n}"), event(&n.to_string(), "ft:x", [n, 0, 0]))).collect();
    let outcome = routine(&book(BOOK), &events, &Held::new());
    let anomaly = outcome.anomalies.first_key_value().expect("one").1;
    assert_eq!(anomaly.base_models.join(" "), "b0 b1 b10 b11 b2 b3 b4 b5 b6 b7");
    assert_eq!((anomaly.events, anomaly.prompt_tokens), (12, 66));
}
