//! The promises of the pricebook, a file a theme. A finding is written `line:column code path`,
//! with `warning` before the code where it is one.

mod derivation;
mod digest;
mod document;
mod hostile;
mod properties;
mod rates;
mod refusals;
mod resolution;

use super::*;

/// A valid book, to be added to: its model stands at 3:3.
const BOOK: &str = r#"version: 1
base_models:
  acme/large: {prompt: "0.000003", cached: "0.0000003", completion: "0.000015"}
"#;

/// The book that the format's documentation shows.
const EXAMPLE: &str = include_str!("example.yaml");

fn with(more: &str) -> String {
    format!("{BOOK}{more}")
}

/// A book of one model, whose prompt rate stands at 3:15, with more keys behind it.
fn prompt(rate: &str, more: &str) -> String {
    format!("version: 1\nbase_models:\n  m: {{prompt: {rate}, cached: \"0\", completion: \"0\"}}\n{more}")
}

fn findings(yaml: &str) -> Vec<String> {
    let parsed = parse(yaml);
    let errors = parsed.diagnostics.iter().any(|d| d.severity == DiagnosticSeverity::Error);
    assert_eq!(parsed.book.is_none(), errors, "a book exists exactly when nothing is an error");
    parsed.diagnostics.iter().map(finding).collect()
}

fn finding(d: &Diagnostic) -> String {
    let warning = if d.severity == DiagnosticSeverity::Warning { "warning " } else { "" };
    format!("{}:{} {warning}{} {}", d.line, d.column, d.code, d.path).trim_end().to_owned()
}

#[track_caller]
fn finds(yaml: &str, expected: &[&str]) {
    assert_eq!(findings(yaml), expected, "in:\n{yaml}");
}

#[track_caller]
fn book(yaml: &str) -> Pricebook {
    let parsed = parse(yaml);
    let found: Vec<String> = parsed.diagnostics.iter().map(|d| d.message.clone()).collect();
    parsed.book.unwrap_or_else(|| panic!("{found:?} in:\n{yaml}"))
}

/// The message of the only finding.
#[track_caller]
fn message(yaml: &str) -> String {
    match parse(yaml).diagnostics.as_slice() {
        [one] => one.message.clone(),
        other => panic!("not one finding: {other:?}"),
    }
}

fn utc(text: &str) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(text).expect(text).to_utc()
}

fn rates(prompt: &str, cached: &str, completion: &str) -> Rates {
    let rate = |text| Rate::parse(text).expect(text);
    Rates { prompt: rate(prompt), cached: rate(cached), completion: rate(completion) }
}
