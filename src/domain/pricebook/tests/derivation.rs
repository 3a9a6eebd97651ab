//! R11 for derived rates: no fine-tune is free, too dear or inexact by accident, whether the
//! file links it to its base model or the event does.

use super::*;

/// One base model at 3:3, one fine-tune at 7:3, a premium at 4:1, its policy at 5:3.
fn derived(prompt: &str, premium: &str) -> String {
    format!(
        r#"version: 1
base_models:
  m: {{prompt: "{prompt}", cached: "0", completion: "0"}}
fine_tune_premium: {{{premium}}}

fine_tunes:
  "ft:a": {{derived_from: m}}
"#
    )
}

fn both(code: &str) -> [String; 2] {
    [format!("4:1 {code} fine_tune_premium"), format!(r#"7:3 {code} fine_tunes."ft:a""#)]
}

#[track_caller]
fn derives(prompt: &str, premium: &str, code: &str) {
    assert_eq!(findings(&derived(prompt, premium)), both(code));
}

const ZERO: &str = "derived_rate_rounds_to_zero";

#[test]
fn r11_a_derived_rate_that_rounds_to_zero_is_refused() {
    derives("0.000000000001", "policy: multiplier, factor: \"0.4\"", ZERO);
}

#[test]
fn r11_a_factor_of_zero_makes_no_fine_tune_free() {
    derives("0.1", "policy: multiplier, factor: \"0\"", ZERO);
    derives("0.1", "policy: multiplier, factor: \"0.00\"", ZERO);
}

#[test]
fn r11_what_is_free_on_purpose_stays_free() {
    finds(&derived("0", "policy: multiplier, factor: \"0\""), &[]);
    finds(&derived("0", "policy: multiplier, factor: \"1.5\""), &[]);
    finds(&derived("0", "policy: markup, markup: \"0\""), &[]);
}

#[test]
fn r11_a_markup_that_vanishes_on_a_free_base_is_refused() {
    // Once for each component, all of them free; one finding at the premium.
    let at_tune = format!(r#"7:3 {ZERO} fine_tunes."ft:a""#);
    let at_premium = format!("4:1 {ZERO} fine_tune_premium");
    finds(
        &derived("0", "policy: markup, markup: \"0.0000000000001\""),
        &[&at_premium, &at_tune, &at_tune, &at_tune],
    );
}

#[test]
fn r11_is_checked_for_bases_that_only_events_name() {
    let yaml = derived("0.000000000001", "policy: multiplier, factor: \"0.4\"");
    let yaml = yaml.split("\nfine_tunes").next().expect("a head");
    finds(yaml, &[&format!("4:1 {ZERO} fine_tune_premium")]);
    assert!(message(yaml).contains("\"m\""), "{}", message(yaml));
}

#[test]
fn r11_is_checked_at_every_time_that_a_base_and_a_premium_meet() {
    let yaml = r#"version: 1
rate_scale: 2
base_models:
  m:
    - {prompt: "1", cached: "0", completion: "0"}
    - {effective_from: 2026-03-01T00:00:00Z, prompt: "0.01", cached: "0", completion: "0"}
    - {effective_from: 2026-05-01T00:00:00Z, prompt: "1", cached: "0", completion: "0"}
fine_tune_premium:
  - {effective_from: 2026-02-01T00:00:00Z, policy: multiplier, factor: "1.5"}
  - {effective_from: 2026-04-01T00:00:00Z, policy: multiplier, factor: "0.1"}
  - {effective_from: 2026-06-01T00:00:00Z, policy: multiplier, factor: "2"}
fine_tunes:
  "ft:a": {derived_from: m}
"#;
    let at_premium = format!("10:5 {ZERO} fine_tune_premium[1]");
    finds(
        yaml,
        &[
            "9:5 warning derived_rate_will_be_rounded fine_tune_premium[0]",
            &at_premium,
            &format!(r#"13:3 {ZERO} fine_tunes."ft:a""#),
        ],
    );
    // They meet between: the base is at 0.01 until May, the premium at 0.1 from April.
    let told = parse(yaml).diagnostics;
    assert!(told[2].message.contains("2026-04-01T00:00:00Z"), "{}", told[2].message);
    // Where they don't meet, the same two are fine.
    let apart = yaml.replace("2026-05-01", "2026-04-01");
    assert!(parse(&apart).book.is_some(), "{:?}", findings(&apart));
}

#[test]
fn r11_before_the_premium_begins_a_derived_rate_is_the_bases() {
    let yaml = r#"version: 1
base_models:
  m: {prompt: "0.000000000001", cached: "0", completion: "0"}
fine_tune_premium: {effective_from: 2026-02-01T00:00:00Z, policy: multiplier, factor: "0.4"}
"#;
    finds(yaml, &[&format!("4:1 {ZERO} fine_tune_premium")]);
    finds(&yaml.replace("\"0.4\"", "\"2\""), &[]);
}

#[test]
fn a_derived_rate_of_a_thousand_or_more_is_refused() {
    derives("500", "policy: multiplier, factor: \"2\"", "derived_rate_too_large");
    // More than a decimal can hold at all.
    derives("500", "policy: multiplier, factor: \"9999999999999999999999999999\"", "derived_rate_too_large");
    let each = findings(&derived("1", "policy: markup, markup: \"999\""));
    assert_eq!(each, both("derived_rate_too_large"));
}

#[test]
fn r1_a_product_that_cannot_be_kept_exactly_is_refused() {
    derives(
        "0.000000000001",
        "policy: multiplier, factor: \"1.00000000000000001\"",
        "derived_rate_too_precise",
    );
}

#[test]
fn a_derived_rate_finer_than_rate_scale_is_one_warning() {
    let yaml = derived("0.000000000001", "policy: multiplier, factor: \"1.5\"");
    finds(&yaml, &["4:1 warning derived_rate_will_be_rounded fine_tune_premium"]);
    assert_eq!(book(&yaml).resolved_rates()[0].rates.prompt.to_string(), "0.000000000002");
}

#[test]
fn findings_at_the_premium_are_grouped() {
    let models: String = (0..50)
        .map(|n| format!("  m{n}: {{prompt: \"0.1\", cached: \"0.1\", completion: \"0.1\"}}\n"))
        .collect();
    let yaml = format!(
        "version: 1\nbase_models:\n{models}fine_tune_premium: {{policy: multiplier, factor: \"0\"}}\n"
    );
    finds(&yaml, &[&format!("53:1 {ZERO} fine_tune_premium")]);
    assert!(message(&yaml).contains("and 149 more"), "{}", message(&yaml));
}
