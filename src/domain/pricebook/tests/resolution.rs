//! Which rate an event gets, from when, and what another pricebook would change.

use super::*;

/// Prices of 1, 2, … stand for whole rates, so that a test reads as what it says.
const DATED: &str = r#"version: 1
base_models:
  always: {prompt: "1", cached: "1", completion: "1"}
  later:
    - {effective_from: 2026-03-01T00:00:00Z, prompt: "2", cached: "2", completion: "2"}
    - {effective_from: 2026-05-01T00:00:00Z, prompt: "3", cached: "3", completion: "3"}
fine_tune_premium:
  - {effective_from: 2026-04-01T00:00:00Z, policy: multiplier, factor: "10"}
  - {effective_from: 2026-06-01T00:00:00Z, policy: markup, markup: "0.5"}
fine_tunes:
  "ft:own": {rate: [{effective_from: 2026-03-01T00:00:00Z, prompt: "7", cached: "7", completion: "7"}]}
  "ft:always": {derived_from: always}
  "ft:later": {derived_from: later}
"#;

const FEBRUARY: &str = "2026-02-01T00:00:00Z";
const MARCH: &str = "2026-03-01T00:00:00Z";
const APRIL: &str = "2026-04-01T00:00:00Z";
const MAY: &str = "2026-05-01T00:00:00Z";
const JUNE: &str = "2026-06-01T00:00:00Z";

#[track_caller]
fn prompt_at(book: &Pricebook, model: &str, base: Option<&str>, time: &str) -> Option<String> {
    let resolved = book.resolve(model, base, utc(time))?;
    Some(resolved.rates.prompt.to_string())
}

#[test]
fn the_example_prices_what_it_says() {
    let book = book(EXAMPLE);
    let at = utc(JUNE);
    let llama = "meta-llama/Llama-3.1-8B-Instruct";
    let of = |model, base| book.resolve(model, base, at);
    assert_eq!(of(llama, None).map(|r| r.rates), Some(rates("0.0000002", "0.00000005", "0.0000006")));
    let derived = Resolved {
        rates: rates("0.0000003", "0.000000075", "0.0000009"),
        derived_from: Some(llama.to_owned()),
        via_event_base: false,
    };
    assert_eq!(of("ft:1f0c2d3e", None), Some(derived.clone()));
    assert_eq!(of("ft:unnamed", Some(llama)), Some(Resolved { via_event_base: true, ..derived.clone() }));
    assert_eq!(of("ft:deadbeef", None), Some(Resolved { derived_from: None, ..derived }));
}

#[test]
fn the_files_word_on_a_model_beats_the_events() {
    let book = book(EXAMPLE);
    // Its own rate and its own base, whatever base the event names.
    for model in ["ft:deadbeef", "ft:1f0c2d3e", "acme/large"] {
        let alone = book.resolve(model, None, utc(JUNE));
        assert!(alone.is_some());
        assert_eq!(book.resolve(model, Some("acme/large"), utc(JUNE)), alone);
    }
}

#[test]
fn r3_nothing_resolves_by_resemblance() {
    let book = book(EXAMPLE);
    for model in ["acme/large ", "ACME/large", "acme/large-2", "acme", "", "gpt", "FT:1f0c2d3e"] {
        assert_eq!(book.resolve(model, Some("acme/large"), utc(JUNE)), None, "{model:?}");
    }
    for base in [None, Some(""), Some("acme/Large"), Some("ft:deadbeef"), Some("ft:1f0c2d3e")] {
        assert_eq!(book.resolve("ft:unnamed", base, utc(JUNE)), None, "{base:?}");
    }
}

#[test]
fn the_rate_in_force_is_the_last_that_started() {
    let book = book(DATED);
    let later = |time| prompt_at(&book, "later", None, time);
    assert_eq!(later("2026-02-28T23:00:00Z"), None);
    assert_eq!(later(MARCH).as_deref(), Some("2"));
    assert_eq!(later("2026-04-30T23:00:00Z").as_deref(), Some("2"));
    assert_eq!(later(MAY).as_deref(), Some("3"));
    assert_eq!(later("2099-01-01T00:00:00Z").as_deref(), Some("3"));
    assert_eq!(prompt_at(&book, "always", None, "1971-01-01T00:00:00Z").as_deref(), Some("1"));
}

#[test]
fn r3_what_the_file_names_and_is_not_in_force_falls_through_to_nothing() {
    let book = book(DATED);
    // The event's base has a rate then; it may not stand in.
    for model in ["later", "ft:own", "ft:later"] {
        assert_eq!(book.resolve(model, Some("always"), utc(FEBRUARY)), None, "{model}");
    }
    let table = book.rate_table(utc(FEBRUARY), utc(MARCH));
    for model in ["later", "ft:own", "ft:later"] {
        let rows: Vec<&RateRow> = table.direct.iter().filter(|row| row.model == model).collect();
        assert_eq!(rows.len(), 1, "{model}");
        assert_eq!((rows[0].from, rows[0].until, rows[0].rates), (None, Some(utc(MARCH)), None), "{model}");
    }
}

#[test]
fn a_premium_is_identity_before_its_first_entry() {
    let book = book(DATED);
    for (model, base) in [("ft:always", None), ("ft:unnamed", Some("always"))] {
        let at = |time| prompt_at(&book, model, base, time);
        assert_eq!(at(MARCH).as_deref(), Some("1"));
        assert_eq!(at(APRIL).as_deref(), Some("10"));
        assert_eq!(at(JUNE).as_deref(), Some("1.5"));
    }
}

#[test]
fn a_fine_tune_follows_its_base_and_the_premium_through_time() {
    let book = book(DATED);
    let at = |time| prompt_at(&book, "ft:later", None, time);
    assert_eq!([at(FEBRUARY), at(MARCH)], [None, Some("2".to_owned())]);
    assert_eq!([at(APRIL), at(MAY), at(JUNE)].map(Option::unwrap_or_default), ["20", "30", "3.5"]);
}

#[test]
fn r1_a_derived_rate_is_rounded_once_after_the_premium() {
    let yaml = r#"version: 1
rate_scale: 2
base_models:
  m: {prompt: "0.014", cached: "0.016", completion: "1"}
fine_tune_premium: {policy: multiplier, factor: "10"}
"#;
    let book = book(yaml);
    let base = book.resolve("m", None, utc(JUNE)).expect("priced");
    assert_eq!(base.rates, rates("0.01", "0.02", "1"));
    let tune = book.resolve("ft:x", Some("m"), utc(JUNE)).expect("priced");
    assert_eq!(tune.rates, rates("0.14", "0.16", "10"));
}

#[test]
fn per_divides_the_markup_and_not_the_factor() {
    let base =
        "version: 1\nper: 1000\nbase_models:\n  m: {prompt: \"1\", cached: \"0.5\", completion: \"2\"}\n";
    let tune = |premium: &str| {
        let book = book(&format!("{base}fine_tune_premium: {premium}\n"));
        book.resolve("ft:x", Some("m"), utc(JUNE)).expect("priced").rates
    };
    assert_eq!(tune("{policy: markup, markup: \"3\"}"), rates("0.004", "0.0035", "0.005"));
    assert_eq!(tune("{policy: multiplier, factor: \"3\"}"), rates("0.003", "0.0015", "0.006"));
    assert_eq!(tune("{policy: identity}"), rates("0.001", "0.0005", "0.002"));
}

#[test]
fn a_rate_table_holds_the_intervals_that_overlap_its_window() {
    let book = book(DATED);
    type Row = (Option<DateTime<Utc>>, Option<DateTime<Utc>>, String);
    let of = |table: &[RateRow], model: &str| -> Vec<Row> {
        let rows = table.iter().filter(|row| row.model == model);
        let rate = |row: &RateRow| row.rates.map_or_else(String::new, |r| r.prompt.to_string());
        rows.map(|row| (row.from, row.until, rate(row))).collect()
    };
    let row = |from: Option<&str>, until: Option<&str>, rate: &str| {
        (from.map(utc), until.map(utc), rate.to_owned())
    };
    let table = book.rate_table(utc("2026-04-15T00:00:00Z"), utc("2026-05-02T00:00:00Z"));
    assert_eq!(of(&table.direct, "always"), [row(None, None, "1")]);
    assert_eq!(of(&table.direct, "later"), [row(Some(MARCH), Some(MAY), "2"), row(Some(MAY), None, "3")]);
    assert_eq!(
        of(&table.direct, "ft:later"),
        [row(Some(APRIL), Some(MAY), "20"), row(Some(MAY), Some(JUNE), "30"),]
    );
    assert_eq!(of(&table.derived, "always"), [row(Some(APRIL), Some(JUNE), "10")]);
    assert_eq!(of(&table.derived, "ft:always"), []);
    // Ends that only touch don't overlap.
    let table = book.rate_table(utc(MARCH), utc(MAY));
    assert_eq!(of(&table.direct, "later"), [row(Some(MARCH), Some(MAY), "2")]);
}

#[test]
fn resolved_rates_are_listed_by_model_and_time() {
    let listed: Vec<String> = book(DATED)
        .resolved_rates()
        .iter()
        .map(|rate| {
            let from = rate.effective_from.map_or_else(|| "ever".to_owned(), |t| t.format("%b").to_string());
            format!("{} {} {from}", rate.model_id, rate.rates.prompt)
        })
        .collect();
    assert_eq!(
        listed,
        [
            "always 1 ever",
            "ft:always 1 ever",
            "ft:always 10 Apr",
            "ft:always 1.5 Jun",
            "ft:later 2 Mar",
            "ft:later 20 Apr",
            "ft:later 30 May",
            "ft:later 3.5 Jun",
            "ft:own 7 Mar",
            "later 2 Mar",
            "later 3 May",
        ]
    );
}

fn changes(from: &str, to: &str) -> Vec<String> {
    let side = |rate: &Option<ResolvedRate>| {
        rate.as_ref().map_or_else(|| "-".to_owned(), |r| format!("{} {}", r.model_id, r.rates.prompt))
    };
    let changes = book(from).changes_to(&book(to));
    changes.iter().map(|change| format!("{} > {}", side(&change.before), side(&change.after))).collect()
}

#[test]
fn the_same_rates_are_no_change() {
    assert_eq!(changes(DATED, DATED), Vec::<String>::new());
    // Nor are other words for them.
    let split = BOOK.replace(
        "{prompt: \"0.000003\", cached: \"0.0000003\", completion: \"0.000015\"}",
        "\n    - {prompt: \"0.0000030\", cached: \"0.0000003\", completion: \"0.000015\"}\n    - {effective_from: 2026-03-01T00:00:00Z, prompt: \"0.000003\", cached: \"0.0000003\", completion: \"0.000015\"}",
    );
    assert_eq!(changes(BOOK, &split), Vec::<String>::new());
}

#[test]
fn changes_are_what_is_in_force_before_and_after() {
    let dearer = DATED.replace("\"3\"", "\"4\"");
    assert_eq!(
        changes(DATED, &dearer),
        ["ft:later 30 > ft:later 40", "ft:later 3.5 > ft:later 4.5", "later 3 > later 4"]
    );
    let renamed = DATED.replace("\"ft:own\"", "\"ft:new\"");
    assert_eq!(changes(DATED, &renamed), ["- > ft:new 7", "ft:own 7 > -"]);
    // A price that is announced: before it is what bills until then.
    let announced = "version: 1\nbase_models:\n  m:\n    - {prompt: \"1\", cached: \"0\", completion: \"0\"}\n    - {effective_from: 2026-03-01T00:00:00Z, prompt: \"2\", cached: \"0\", completion: \"0\"}\n";
    assert_eq!(changes(&prompt("\"1\"", ""), announced), ["m 1 > m 2"]);
    assert_eq!(changes(announced, &prompt("\"1\"", "")), ["m 2 > m 1"]);
}

#[test]
fn the_same_change_is_said_once() {
    let cheaper = DATED.replace("always: {prompt: \"1\"", "always: {prompt: \"5\"");
    let split = |yaml: &str| {
        yaml.replace(
            "fine_tune_premium:\n",
            "fine_tune_premium:\n  - {policy: multiplier, factor: \"1\"}\n  - {effective_from: 2026-01-01T00:00:00Z, policy: identity}\n",
        )
    };
    let once = [
        "always 1 > always 5",
        "ft:always 1 > ft:always 5",
        "ft:always 10 > ft:always 50",
        "ft:always 1.5 > ft:always 5.5",
    ];
    assert_eq!(changes(DATED, &cheaper), once);
    assert_eq!(changes(&split(DATED), &split(&cheaper)), once);
}

#[test]
fn another_base_model_at_the_same_rate_is_a_change() {
    let book = |base: &str| {
        let rate = "{prompt: \"1\", cached: \"0\", completion: \"0\"}";
        format!(
            "version: 1\nbase_models:\n  a: {rate}\n  b: {rate}\nfine_tunes:\n  \"ft:x\": {{derived_from: {base}}}\n"
        )
    };
    assert_eq!(changes(&book("a"), &book("b")), ["ft:x 1 > ft:x 1"]);
}
