//! Files made to hurt: as large as is allowed, and refused without much time or memory.

use std::fmt::Write;
use std::time::{Duration, Instant};

use super::*;

/// Generous for an unoptimised build on a busy machine; what is quadratic takes minutes.
const SOON: Duration = Duration::from_secs(20);

#[track_caller]
fn refused_soon(yaml: &str, code: &str) {
    let started = Instant::now();
    let parsed = parse(yaml);
    assert!(started.elapsed() < SOON, "took {:?}", started.elapsed());
    assert_eq!(parsed.book, None);
    assert!(parsed.diagnostics.len() <= MAX_DIAGNOSTICS + 1);
    let codes: Vec<&str> = parsed.diagnostics.iter().map(|d| d.code).collect();
    assert!(codes.contains(&code), "{code} is not in {:?}", &codes[..codes.len().min(5)]);
}

/// `unit` until the file is full.
fn full(head: &str, unit: &str) -> String {
    format!("{head}{}", unit.repeat((MAX_BYTES - head.len()) / unit.len()))
}

#[test]
fn brackets_and_dashes_without_end_are_refused() {
    for unit in ["[", "{", "- ", "? ", "[{", "{a: "] {
        refused_soon(&full("", unit), "nested_too_deep");
    }
}

#[test]
fn aliases_of_aliases_are_refused_and_never_followed() {
    let mut yaml = String::from("a0: &a0 [x, x]\n");
    let mut n = 0;
    while yaml.len() < MAX_BYTES - 200 {
        n += 1;
        let a = n - 1;
        writeln!(yaml, "a{n}: &a{n} [*a{a}, *a{a}, *a{a}, *a{a}, *a{a}, *a{a}, *a{a}, *a{a}]")
            .expect("a string");
    }
    refused_soon(&yaml, "too_many_diagnostics");
    refused_soon(&yaml, "alias");
}

#[test]
fn values_without_end_are_refused() {
    refused_soon(&full("x: [", "a,"), "too_many_nodes");
    refused_soon(&full("x: {", "a,"), "too_many_nodes");
    refused_soon(&full("", "a:\n"), "duplicate_key");
    refused_soon(&full("", "'\n"), "yaml_syntax");
    refused_soon(&full("", "!a "), "yaml_syntax");
    refused_soon(&full("a: ", "&a "), "yaml_syntax");
    refused_soon(&full("a: ", "b: "), "yaml_syntax");
}

#[test]
fn a_thousand_findings_are_reported_and_the_rest_counted() {
    let models: String = (0..2_000).map(|n| format!("  m{n}: {{}}\n")).collect();
    let parsed = parse(&format!("version: 1\nbase_models:\n{models}"));
    assert_eq!(parsed.book, None);
    assert_eq!(parsed.diagnostics.len(), MAX_DIAGNOSTICS + 1);
    let last = &parsed.diagnostics[MAX_DIAGNOSTICS];
    assert_eq!(last.message, "5000 more findings were left out, 5000 of them errors");
}

#[test]
fn many_models_under_many_premiums_are_refused() {
    let mut yaml = String::from("version: 1\nbase_models:\n");
    for n in 0..3_000 {
        writeln!(yaml, "  m{n}: {{prompt: \"1\", cached: \"1\", completion: \"1\"}}").expect("a string");
    }
    yaml.push_str("fine_tune_premium:\n");
    let start = utc("2026-01-01T00:00:00Z");
    for n in 0..200 {
        let time = (start + chrono::Duration::hours(n)).format("%Y-%m-%dT%H:%M:%SZ");
        writeln!(yaml, "  - {{effective_from: {time}, policy: multiplier, factor: \"1.5\"}}")
            .expect("a string");
    }
    refused_soon(&yaml, "too_many_rates");
}
