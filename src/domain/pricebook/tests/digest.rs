//! What the digest is of, and what it is not of.

use super::*;

fn digest(yaml: &str) -> String {
    book(yaml).digest().to_owned()
}

#[track_caller]
fn same(other: &str) {
    assert_eq!(digest(other), digest(BOOK), "in:\n{other}");
}

#[track_caller]
fn differs(one: &str, other: &str) {
    assert_ne!(digest(one), digest(other), "in:\n{one}\nand:\n{other}");
}

const MODEL: &str = r#"{prompt: "0.000003", cached: "0.0000003", completion: "0.000015"}"#;

#[test]
fn the_canonical_form_never_changes() {
    // Rows that were billed carry these. They were computed outside, from the canonical JSON
    // that the module's head describes.
    assert_eq!(digest(BOOK), "732ed02a721c2be4d15b2874b68230c8d2539b59828c91580780e55e935ef631");
    assert_eq!(digest(EXAMPLE), "7ce4f859ba533fc7d034e02e323c3b0963a1ce3f4770225c5ec73412fd188126");
}

#[test]
fn comments_order_quoting_and_zeros_do_not_change_it() {
    same(&format!("# a comment\n{BOOK}# another\n"));
    same(
        "base_models:\n  'acme/large':\n    completion: '0.0000150'\n    cached: \"00.0000003\"\n    prompt: \"0.000003\"\nversion: 1\n",
    );
    let two = "version: 1\nbase_models:\n  a: {prompt: \"1\", cached: \"0\", completion: \"0\"}\n  b: {prompt: \"1\", cached: \"0\", completion: \"0\"}\n";
    let swapped = "version: 1\nbase_models:\n  b: {prompt: \"1\", cached: \"0\", completion: \"0\"}\n  a: {prompt: \"1\", cached: \"0\", completion: \"0\"}\n";
    assert_eq!(digest(two), digest(swapped));
}

#[test]
fn defaults_written_out_do_not_change_it() {
    same(&with("currency: USD\nrate_scale: 12\nper: 1\nfine_tunes: {}\ngpu_floor_rates: {}\n"));
    same(&with("fine_tune_premium: {policy: identity}\n"));
    same(&with("fine_tune_premium: [{policy: identity}]\n"));
}

#[test]
fn a_list_of_one_undated_entry_is_a_mapping() {
    same(&BOOK.replace(MODEL, &format!("[{MODEL}]")));
}

#[test]
fn per_with_the_rates_scaled_to_it_does_not_change_it() {
    let per_million = BOOK.replace(MODEL, r#"{prompt: "3", cached: "0.3", completion: "15"}"#);
    same(&format!("{per_million}per: 1000000\n"));
    differs(BOOK, &with("per: 10\n"));
}

#[test]
fn the_same_instant_in_another_zone_does_not_change_it() {
    let dated = |time: &str| BOOK.replace(MODEL, &format!("{{effective_from: {time}, {}", &MODEL[1..]));
    assert_eq!(digest(&dated("2026-07-01T00:00:00Z")), digest(&dated("\"2026-07-01T02:00:00+02:00\"")));
    differs(&dated("2026-07-01T00:00:00Z"), &dated("2026-07-01T01:00:00Z"));
    differs(BOOK, &dated("2026-07-01T00:00:00Z"));
}

#[test]
fn everything_that_is_said_changes_it() {
    let base = "fine_tunes: {\"ft:a\": {derived_from: acme/large}}\n";
    let own = format!("fine_tunes: {{\"ft:a\": {{rate: {MODEL}}}}}\n");
    let saying = [
        BOOK.to_owned(),
        BOOK.replace("0.0000003", "0.0000004"),
        BOOK.replace("acme/large", "acme/Large"),
        with("currency: EUR\n"),
        with("rate_scale: 11\n"),
        with("gpu_floor_rates: {H100: \"0\"}\n"),
        with("gpu_floor_rates: {H100: \"1\"}\n"),
        with(base),
        with(&base.replace("ft:a", "ft:b")),
        with(&own),
        with("fine_tune_premium: {policy: multiplier, factor: \"1.5\"}\n"),
        with("fine_tune_premium: {policy: multiplier, factor: \"2\"}\n"),
        with("fine_tune_premium: {policy: multiplier, factor: \"1\"}\n"),
        with("fine_tune_premium: {policy: markup, markup: \"1.5\"}\n"),
        with(
            "fine_tune_premium: {effective_from: 2026-07-01T00:00:00Z, policy: multiplier, factor: \"1.5\"}\n",
        ),
        with(
            "fine_tune_premium: [{policy: multiplier, factor: \"1.5\"}, {effective_from: 2026-07-01T00:00:00Z, policy: identity}]\n",
        ),
    ];
    for (n, one) in saying.iter().enumerate() {
        for other in &saying[n + 1..] {
            differs(one, other);
        }
    }
}

#[test]
fn a_digest_is_64_hex_digits_of_text_kept_as_written() {
    let book = book(EXAMPLE);
    assert_eq!(book.yaml(), EXAMPLE);
    assert_eq!(book.digest().len(), 64);
    assert!(book.digest().bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase()));
}
