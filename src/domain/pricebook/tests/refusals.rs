//! The document as a pricebook: keys, types, ids, times. Rates have a file of their own.

use super::*;

#[test]
fn unknown_keys_are_refused_at_every_level() {
    let yaml = r#"version: 1
models: {}
base_models:
  a: {prompt: "1", cached: "0", completion: "0", output: "1"}
fine_tune_premium: {policy: identity, note: x}
fine_tunes:
  "ft:a": {derived_from: a, base: a}
"#;
    finds(
        yaml,
        &[
            "2:1 unknown_key models",
            "4:50 unknown_key base_models.a.output",
            "5:39 unknown_key fine_tune_premium.note",
            r#"7:29 unknown_key fine_tunes."ft:a".base"#,
        ],
    );
}

#[test]
fn the_version_is_1() {
    let of = |version: &str| BOOK.replace("version: 1", version);
    finds(&of("version: 2"), &["1:10 unknown_version version"]);
    finds(&of("version: 99999999999999999999999"), &["1:10 unknown_version version"]);
    finds(&of("version: \"1\""), &["1:10 bad_type version"]);
    finds(&of("version: 1.0"), &["1:10 bad_type version"]);
    finds(&of("version: 01"), &["1:10 bad_type version"]);
    finds(&of("version:"), &["1:1 bad_type version"]);
    finds(&of("currency: USD"), &["1:1 missing_version version"]);
}

#[test]
fn the_currency_is_three_capitals() {
    assert_eq!(book(BOOK).currency(), "USD");
    assert_eq!(book(&with("currency: \"EUR\"\n")).currency(), "EUR");
    for bad in ["usd", "US", "EURO", "\"\"", "\"US \"", "ÉUR"] {
        finds(&with(&format!("currency: {bad}\n")), &["4:11 bad_currency currency"]);
    }
    finds(&with("currency: [USD]\n"), &["4:11 bad_type currency"]);
}

#[test]
fn rate_scale_goes_from_0_to_12() {
    assert_eq!(book(BOOK).rate_scale(), 12);
    finds(&with("rate_scale: 13\n"), &["4:13 rate_scale_out_of_range rate_scale"]);
    finds(&with("rate_scale: 99999999999999999999\n"), &["4:13 rate_scale_out_of_range rate_scale"]);
    finds(&with("rate_scale: -1\n"), &["4:13 bad_type rate_scale"]);
    finds(&with("rate_scale: \"12\"\n"), &["4:13 bad_type rate_scale"]);
}

#[test]
fn per_is_a_power_of_ten_up_to_a_million() {
    finds(&with("per: 1\n"), &[]);
    for bad in ["0", "2", "20", "10000000", "4294967297", "18446744073709551617"] {
        finds(&with(&format!("per: {bad}\n")), &["4:6 per_not_power_of_ten per"]);
    }
    finds(&with("per: 1_000\n"), &["4:6 bad_type per"]);
    finds(&with("per: 1e3\n"), &["4:6 bad_type per"]);
}

#[test]
fn a_wrong_scale_or_per_is_one_finding_not_one_a_rate() {
    finds(&prompt("\"0.0000000000000001\"", "per: 3\n"), &["4:6 per_not_power_of_ten per"]);
}

#[test]
fn no_base_models_is_refused() {
    finds("version: 1\n", &["1:1 no_base_models base_models"]);
    finds("version: 1\nbase_models:\n", &["2:1 no_base_models base_models"]);
    finds("version: 1\nbase_models: {}\n", &["2:1 no_base_models base_models"]);
    finds("version: 1\nbase_models: [a]\n", &["2:14 bad_type base_models"]);
}

#[test]
fn wrong_types_are_refused() {
    let yaml = r#"version: 1
base_models:
  a: "0.1"
  b:
  c: [1, [2], {prompt: "1", cached: "0", completion: "0"}]
fine_tune_premium: multiplier
fine_tunes: []
gpu_floor_rates:
"#;
    finds(
        yaml,
        &[
            "3:6 bad_type base_models.a",
            "4:3 bad_type base_models.b",
            "5:7 bad_type base_models.c[0]",
            "5:10 bad_type base_models.c[1]",
            "5:15 missing_effective_from base_models.c[2].effective_from",
            "6:20 bad_type fine_tune_premium",
            "7:13 bad_type fine_tunes",
            "8:1 bad_type gpu_floor_rates",
        ],
    );
}

#[test]
fn a_missing_component_is_refused() {
    let yaml =
        "version: 1\nbase_models:\n  a: {prompt: \"1\", completion: \"1\"}\n  b:\n    - cached: \"0\"\n";
    finds(
        yaml,
        &[
            "3:3 missing_component base_models.a.cached",
            "5:7 missing_component base_models.b[0].completion",
            "5:7 missing_component base_models.b[0].prompt",
        ],
    );
}

#[test]
fn ids_are_checked() {
    let long = "x".repeat(256);
    let rate = "{prompt: \"0\", cached: \"0\", completion: \"0\"}";
    let yaml = format!(
        "version: 1\nbase_models:\n  \"\": {rate}\n  {long}: {rate}\n  \"a\\0\": {rate}\n  : {rate}\n"
    );
    let path = format!("{:?}…", "x".repeat(255));
    finds(
        &yaml,
        &[
            r#"3:3 empty_id base_models."""#,
            &format!("4:3 id_too_long base_models.{path}"),
            r#"5:3 nul_in_id base_models."a\0""#,
            r#"6:3 duplicate_key base_models."""#,
            r#"6:3 empty_id base_models."""#,
        ],
    );
    finds(&with("gpu_floor_rates: {\"\": \"0\"}\n"), &[r#"4:19 empty_id gpu_floor_rates."""#]);
    // 255 characters, not bytes.
    finds(&format!("version: 1\nbase_models:\n  {}: {rate}\n", "é".repeat(255)), &[]);
}

#[test]
fn base_models_are_not_fine_tunes_nor_the_reverse() {
    let yaml = r#"version: 1
base_models:
  "ft:a": {prompt: "1", cached: "0", completion: "0"}
fine_tunes:
  FT:b: {rate: {prompt: "1", cached: "0", completion: "0"}}
"#;
    finds(
        yaml,
        &[
            r#"3:3 base_model_with_ft_id base_models."ft:a""#,
            r#"5:3 fine_tune_without_ft_id fine_tunes."FT:b""#,
        ],
    );
}

#[test]
fn r11_derived_from_is_a_true_base_model() {
    let yaml = with(
        r#"fine_tunes:
  "ft:a": {derived_from: acme/large}
  "ft:b": {derived_from: "ft:a"}
  "ft:c": {derived_from: acme/Large}
  "ft:d": {derived_from: [acme/large]}
  "ft:e": {derived_from: }
"#,
    );
    finds(
        &yaml,
        &[
            r#"6:26 derived_from_not_base fine_tunes."ft:b".derived_from"#,
            r#"7:26 derived_from_unknown fine_tunes."ft:c".derived_from"#,
            r#"8:26 bad_type fine_tunes."ft:d".derived_from"#,
            r#"9:12 bad_type fine_tunes."ft:e".derived_from"#,
        ],
    );
}

#[test]
fn a_base_model_with_a_wrong_rate_still_exists() {
    let yaml = prompt("\"x\"", "fine_tunes: {\"ft:a\": {derived_from: m}}\n");
    finds(&yaml, &["3:15 rate_not_decimal base_models.m.prompt"]);
}

#[test]
fn a_fine_tune_has_a_rate_or_is_derived() {
    let yaml = with(
        r#"fine_tunes:
  "ft:a": {derived_from: acme/large, rate: {prompt: "1", cached: "0", completion: "0"}}
  "ft:b": {}
"#,
    );
    finds(
        &yaml,
        &[
            r#"5:3 rate_and_derived_from fine_tunes."ft:a""#,
            r#"6:3 no_rate_and_no_derived_from fine_tunes."ft:b""#,
        ],
    );
}

#[test]
fn a_premium_has_its_parameter_and_no_other() {
    let cases = [
        ("{}", "4:1 missing_policy fine_tune_premium.policy"),
        ("{factor: \"1\"}", "4:1 missing_policy fine_tune_premium.policy"),
        ("{policy: double}", "4:29 unknown_policy fine_tune_premium.policy"),
        ("{policy: [identity]}", "4:29 bad_type fine_tune_premium.policy"),
        ("{policy: multiplier}", "4:1 missing_premium_parameter fine_tune_premium.factor"),
        ("{policy: markup}", "4:1 missing_premium_parameter fine_tune_premium.markup"),
        ("{policy: identity, factor: \"1\"}", "4:39 wrong_premium_parameter fine_tune_premium.factor"),
        ("{policy: identity, markup: \"0\"}", "4:39 wrong_premium_parameter fine_tune_premium.markup"),
        (
            "{policy: multiplier, factor: \"1\", markup: \"0\"}",
            "4:54 wrong_premium_parameter fine_tune_premium.markup",
        ),
        (
            "{policy: markup, markup: \"0\", factor: \"1\"}",
            "4:50 wrong_premium_parameter fine_tune_premium.factor",
        ),
        (
            "[{policy: identity}, {policy: identity}]",
            "4:41 missing_effective_from fine_tune_premium[1].effective_from",
        ),
    ];
    for (premium, expected) in cases {
        finds(&with(&format!("fine_tune_premium: {premium}\n")), &[expected]);
    }
}

fn dated(entries: &[&str]) -> String {
    let entry = |start: &&str| format!("    - {{{start}prompt: \"1\", cached: \"0\", completion: \"0\"}}\n");
    format!("version: 1\nbase_models:\n  m:\n{}", entries.iter().map(entry).collect::<String>())
}

#[test]
fn times_are_rfc_3339_on_a_utc_hour() {
    let of = |time: &str| dated(&[&format!("effective_from: {time}, ")]);
    for good in [
        "2026-07-01T00:00:00Z",
        "\"2026-07-01T00:00:00Z\"",
        "2026-07-01T00:00:00+02:00",
        "2026-07-01T05:30:00+05:30",
    ] {
        finds(&of(good), &[]);
    }
    let path = "base_models.m[0].effective_from";
    for bad in ["2026-07-01", "2026-07-01T00:00:00", "tomorrow", "\"\"", "1782864000"] {
        finds(&of(bad), &[&format!("4:24 bad_time {path}")]);
    }
    for bad in ["2026-07-01T00:30:00Z", "2026-07-01T00:00:00.5Z", "2026-07-01T00:00:00+05:30"] {
        finds(&of(bad), &[&format!("4:24 time_not_on_hour {path}")]);
    }
    finds(&of("[]"), &[&format!("4:24 bad_type {path}")]);
}

#[test]
fn times_are_in_order() {
    let (june, july) = ("effective_from: 2026-06-01T00:00:00Z, ", "effective_from: 2026-07-01T00:00:00Z, ");
    finds(&dated(&["", june, july]), &[]);
    finds(&dated(&[june, july]), &[]);
    finds(&dated(&[july, june]), &["5:24 times_not_in_order base_models.m[1].effective_from"]);
    finds(&dated(&[july, july]), &["5:24 times_not_in_order base_models.m[1].effective_from"]);
    // A wrong entry between does not hide it.
    finds(
        &dated(&[july, "effective_from: x, ", june]),
        &[
            "5:24 bad_time base_models.m[1].effective_from",
            "6:24 times_not_in_order base_models.m[2].effective_from",
        ],
    );
}

#[test]
fn only_the_first_entry_may_be_undated() {
    let june = "effective_from: 2026-06-01T00:00:00Z, ";
    finds(&dated(&[june, ""]), &["5:7 missing_effective_from base_models.m[1].effective_from"]);
    finds(&dated(&["", ""]), &["5:7 missing_effective_from base_models.m[1].effective_from"]);
}

#[test]
fn an_empty_list_is_refused() {
    finds("version: 1\nbase_models: {m: []}\n", &["2:18 empty_list base_models.m"]);
    finds(&with("fine_tune_premium: []\n"), &["4:20 empty_list fine_tune_premium"]);
    finds(&with("fine_tunes: {\"ft:a\": {rate: []}}\n"), &[r#"4:29 empty_list fine_tunes."ft:a".rate"#]);
}

#[test]
fn everything_wrong_is_reported_at_once_by_place() {
    let yaml = "version: 2\ncurrency: usd\nrate_scale: 13\nbase_models:\n  m: {prompt: 0.1, cached: \"-1\", completion: \"1e-7\"}\nper: 7\n";
    finds(
        yaml,
        &[
            "1:10 unknown_version version",
            "2:11 bad_currency currency",
            "3:13 rate_scale_out_of_range rate_scale",
            "5:15 unquoted_rate base_models.m.prompt",
            "5:28 negative_rate base_models.m.cached",
            "5:46 rate_not_decimal base_models.m.completion",
            "6:6 per_not_power_of_ten per",
        ],
    );
}
