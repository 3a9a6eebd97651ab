//! Rates as they are written: exact or refused (R1), never zero by accident (R11).

use super::*;

const AT: &str = "base_models.m.prompt";

#[track_caller]
fn prompt_is(rate: &str, expected: &str) {
    finds(&prompt(rate, ""), &[&format!("3:15 {expected} {AT}")]);
}

#[test]
fn a_rate_is_a_plain_decimal() {
    for bad in [
        "\"\"",
        "\"1e-7\"",
        "\"+1\"",
        "\" 1\"",
        "\"1 \"",
        "\"1_000\"",
        "\"1,5\"",
        "\"1/2\"",
        "\".5\"",
        "\"1.\"",
        "\"0x1\"",
        "free",
        "no",
        ".nan",
    ] {
        prompt_is(bad, "rate_not_decimal");
    }
    // A block of text ends in a line break.
    let block =
        "version: 1\nbase_models:\n  m:\n    prompt: |\n      1\n    cached: \"0\"\n    completion: \"0\"\n";
    finds(block, &["5:7 rate_not_decimal base_models.m.prompt"]);
    for good in ["\"0.1\"", "'0.1'", "\"00.100\"", "\"0\"", "\"1\""] {
        finds(&prompt(good, ""), &[]);
    }
}

#[test]
fn an_unquoted_number_is_no_rate() {
    for bad in ["0.1", "1", "0", "1e-7", "-1", "+1", ".5", "010", "0x1F", "1_000"] {
        prompt_is(bad, "unquoted_rate");
    }
    finds(&with("gpu_floor_rates: {H100: 2.5}\n"), &["4:25 unquoted_rate gpu_floor_rates.H100"]);
}

#[test]
fn the_message_says_what_to_write() {
    assert!(message(&prompt("3.125e-07", "")).ends_with("write \"0.0000003125\""));
    assert!(message(&prompt("\"1E-6\"", "")).ends_with("\"0.000001\""));
    assert!(message(&prompt("0.10", "")).ends_with("write \"0.1\""));
}

#[test]
fn a_missing_value_is_no_rate() {
    prompt_is("[\"1\"]", "bad_type");
    prompt_is("{a: \"1\"}", "bad_type");
    prompt_is("~", "bad_type");
    let yaml = "version: 1\nbase_models:\n  m:\n    prompt:\n    cached: \"0\"\n    completion: \"0\"\n";
    finds(yaml, &["4:5 bad_type base_models.m.prompt"]);
}

#[test]
fn a_negative_rate_is_refused() {
    prompt_is("\"-1\"", "negative_rate");
    prompt_is("\"-0\"", "negative_rate");
    prompt_is("\"--1\"", "rate_not_decimal");
}

#[test]
fn a_rate_that_cannot_be_kept_exactly_is_refused() {
    prompt_is("\"0.00000000000000000000000000001\"", "rate_too_precise");
    // 28 places fit, but not once they are divided.
    let finest = "\"1.0000000000000000000000000001\"";
    finds(&prompt(finest, ""), &[&format!("3:15 warning rate_will_be_rounded {AT}")]);
    finds(&prompt(finest, "per: 10\n"), &[&format!("3:15 rate_too_precise {AT}")]);
}

#[test]
fn a_thousand_or_more_a_token_is_refused() {
    finds(&prompt("\"999.999\"", ""), &[]);
    prompt_is("\"1000\"", "rate_too_large");
    prompt_is("\"99999999999999999999999999999999999\"", "rate_too_large");
    // After `per`.
    finds(&prompt("\"999999999\"", "per: 1000000\n"), &[]);
    finds(&prompt("\"1000000000\"", "per: 1000000\n"), &[&format!("3:15 rate_too_large {AT}")]);
    // And after rounding.
    finds(&prompt("\"999.5\"", "rate_scale: 0\n"), &[&format!("3:15 rate_too_large {AT}")]);
}

#[test]
fn r11_a_rate_that_rounds_to_zero_is_refused() {
    prompt_is("\"0.0000000000004\"", "rate_rounds_to_zero");
    finds(&prompt("\"0.4\"", "rate_scale: 0\n"), &[&format!("3:15 rate_rounds_to_zero {AT}")]);
    // By `per`.
    finds(&prompt("\"0.0000004\"", "per: 1000000\n"), &[&format!("3:15 rate_rounds_to_zero {AT}")]);
    // Half rounds away from zero, so it is a rate.
    finds(&prompt("\"0.0000000000005\"", ""), &[&format!("3:15 warning rate_will_be_rounded {AT}")]);
}

#[test]
fn r11_a_literal_zero_is_free_on_purpose() {
    for zero in ["\"0\"", "\"0.000\""] {
        let book = book(&prompt(zero, "per: 1000000\n"));
        assert_eq!(book.resolved_rates()[0].rates, rates("0", "0", "0"));
    }
}

#[test]
fn r11_holds_for_a_fine_tunes_own_rate_and_each_dated_entry() {
    let yaml = with(
        r#"fine_tunes:
  "ft:a":
    rate:
      - {prompt: "0.1", cached: "0.1", completion: "0.1"}
      - {effective_from: 2026-07-01T00:00:00Z, prompt: "0.1", cached: "0.1", completion: "0.0000000000001"}
"#,
    );
    finds(&yaml, &[r#"8:90 rate_rounds_to_zero fine_tunes."ft:a".rate[1].completion"#]);
}

#[test]
fn a_rate_finer_than_rate_scale_is_a_warning_and_rounded_half_away_from_zero() {
    let yaml = prompt("\"0.125\"", "rate_scale: 2\n");
    finds(&yaml, &[&format!("3:15 warning rate_will_be_rounded {AT}")]);
    assert_eq!(book(&yaml).resolved_rates()[0].rates, rates("0.13", "0", "0"));
}

#[test]
fn per_divides_every_rate() {
    let book = book(&prompt("\"3.125\"", "per: 1000000\n"));
    assert_eq!(book.resolved_rates()[0].rates, rates("0.000003125", "0", "0"));
}

#[test]
fn gpu_floor_rates_are_checked_as_rates() {
    let yaml = with(
        "gpu_floor_rates:\n  a: \"-1\"\n  b: \"x\"\n  c: \"0.0000000000001\"\n  d: \"1000\"\n  e: [1]\n  f: \"2.5\"\n",
    );
    finds(
        &yaml,
        &[
            "5:6 negative_rate gpu_floor_rates.a",
            "6:6 rate_not_decimal gpu_floor_rates.b",
            "7:6 rate_rounds_to_zero gpu_floor_rates.c",
            "8:6 rate_too_large gpu_floor_rates.d",
            "9:6 bad_type gpu_floor_rates.e",
        ],
    );
}

#[test]
fn factors_and_markups_are_quoted_decimals_too() {
    let cases = [
        ("policy: multiplier, factor: 1.5", "4:49 unquoted_factor fine_tune_premium.factor"),
        ("policy: multiplier, factor: \"x\"", "4:49 factor_not_decimal fine_tune_premium.factor"),
        ("policy: multiplier, factor: \"-1\"", "4:49 negative_factor fine_tune_premium.factor"),
        ("policy: multiplier, factor: [1]", "4:49 bad_type fine_tune_premium.factor"),
        (
            "policy: multiplier, factor: \"0.00000000000000000000000000001\"",
            "4:49 factor_too_precise fine_tune_premium.factor",
        ),
        (
            "policy: multiplier, factor: \"99999999999999999999999999999\"",
            "4:49 factor_too_large fine_tune_premium.factor",
        ),
        ("policy: markup, markup: 1.5", "4:45 unquoted_rate fine_tune_premium.markup"),
        ("policy: markup, markup: \"x\"", "4:45 rate_not_decimal fine_tune_premium.markup"),
        ("policy: markup, markup: \"-1\"", "4:45 negative_rate fine_tune_premium.markup"),
        ("policy: markup, markup: \"1000\"", "4:45 rate_too_large fine_tune_premium.markup"),
    ];
    for (premium, expected) in cases {
        finds(&with(&format!("fine_tune_premium: {{{premium}}}\n")), &[expected]);
    }
}
