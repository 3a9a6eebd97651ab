//! The pricebook: the operator's YAML file, checked whole before anything is priced by it.
//!
//! [`parse`] turns text into a [`Pricebook`] or into diagnostics, all of them at once, each
//! with its place. It never panics and never guesses: what is not certainly right is refused,
//! so that a [`Pricebook`] that exists resolves every rate exactly (R1, R11). What it refuses
//! is listed, code by code and with its place, in `tests`.
//!
//! The flow: text, [`super::yaml`] (a tree with places), `parse` (with `fields`, `number`, `dated` and
//! `premium` for its parts), `derived` (what base prices and premiums make of each other),
//! `book` (the normalised result), then `resolve` and `digest` on that.

mod book;
mod dated;
mod derived;
mod digest;
mod fields;
mod number;
mod parse;
mod premium;
mod resolve;
#[cfg(test)]
mod tests;

use chrono::{DateTime, Utc};

use crate::domain::money::Rate;
pub use crate::domain::yaml::diagnostic::{Diagnostic, DiagnosticSeverity, MAX_DIAGNOSTICS};
use crate::domain::yaml::diagnostic::{Path, Place, Report};
use book::Book;

/// The largest pricebook, in bytes: 1 MiB.
pub const MAX_BYTES: usize = 1 << 20;

/// A valid pricebook. Immutable; share it in an `Arc`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pricebook {
    book: Book,
    digest: String,
    yaml: String,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// Present exactly when no diagnostic is an error.
    pub book: Option<Pricebook>,
    /// Everything found, by place; at most [`MAX_DIAGNOSTICS`] and one that counts the others.
    pub diagnostics: Vec<Diagnostic>,
}

/// Final rates: per token, in the pricebook's currency, rounded to its `rate_scale`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rates {
    /// Of a prompt token that was not served from cache.
    pub prompt: Rate,
    /// Of a prompt token that was.
    pub cached: Rate,
    /// Of a completion token.
    pub completion: Rate,
}

/// The rate of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// What it is billed at.
    pub rates: Rates,
    /// The base model, where the rate is derived.
    pub derived_from: Option<String>,
    /// Whether the link to the base model is the event's, not the file's.
    pub via_event_base: bool,
}

/// The rate of a model that the file names, from one time on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedRate {
    /// The model.
    pub model_id: String,
    /// The base model, where the rate is derived.
    pub derived_from: Option<String>,
    /// What it is billed at.
    pub rates: Rates,
    /// When this begins to hold; `None` is from the beginning.
    pub effective_from: Option<DateTime<Utc>>,
}

/// What another pricebook bills a model at, where that differs. Each side is the rate in
/// force, with the time from which its own book has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateChange {
    /// `None`: unpriced before.
    pub before: Option<ResolvedRate>,
    /// `None`: unpriced after.
    pub after: Option<ResolvedRate>,
}

/// Every rate that a window of events may need, as intervals in time.
///
/// An event's rate is its model's row in `direct`; for an `ft:` model that has no row there,
/// its base model's row in `derived`; else it has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateTable {
    /// By model: every one that the file names.
    pub direct: Vec<RateRow>,
    /// By base model: what a fine-tune gets that the file does not name.
    pub derived: Vec<RateRow>,
}

/// A rate over `[from, until)`. The rows of one model do not overlap and leave no gap within
/// the window asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateRow {
    /// The model, or the base model, that it is keyed by.
    pub model: String,
    /// `None`: from the beginning. It may lie before the window.
    pub from: Option<DateTime<Utc>>,
    /// `None`: without end. It may lie behind the window.
    pub until: Option<DateTime<Utc>>,
    /// `None`: no rate in force yet, so the event is unpriced and falls through to nothing.
    pub rates: Option<Rates>,
}

/// Checks a pricebook.
pub fn parse(yaml: &str) -> Parsed {
    if yaml.len() > MAX_BYTES {
        return too_large();
    }
    let mut report = Report::default();
    let book = parse::book(yaml, &mut report);
    let book = book.map(|book| Pricebook { digest: digest::digest(&book), book, yaml: yaml.to_owned() });
    Parsed { book, diagnostics: report.finish() }
}

/// Checks a pricebook that may not even be text.
pub fn parse_bytes(bytes: &[u8]) -> Parsed {
    // First: a reader that stops behind the limit may have cut a character in two.
    if bytes.len() > MAX_BYTES {
        return too_large();
    }
    match std::str::from_utf8(bytes) {
        Ok(yaml) => parse(yaml),
        Err(error) => {
            let good = std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default();
            let message = "this byte is not UTF-8; save the pricebook as UTF-8 text";
            unread("invalid_utf8", Place::after(good), message)
        }
    }
}

fn too_large() -> Parsed {
    unread("too_large", Place::START, "a pricebook has at most 1048576 bytes (1 MiB); this has more")
}

/// Refused before anything in it was read.
fn unread(code: &'static str, at: Place, message: &str) -> Parsed {
    let mut report = Report::default();
    report.error(code, at, &Path::Root, message);
    Parsed { book: None, diagnostics: report.finish() }
}

impl Pricebook {
    /// The SHA-256 of the normalised form, as 64 hex digits.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The text as it was written.
    pub fn yaml(&self) -> &str {
        &self.yaml
    }

    /// The currency of every rate, an ISO 4217 code.
    pub fn currency(&self) -> &str {
        &self.book.currency
    }

    /// The decimal places that final rates are rounded to.
    pub fn rate_scale(&self) -> u32 {
        self.book.rate_scale
    }

    /// The rate of one event in one hour; `None` is unpriced. The oracle for `rate_table`.
    pub fn resolve(&self, model: &str, base_model: Option<&str>, hour: DateTime<Utc>) -> Option<Resolved> {
        self.book.resolve(model, base_model, hour)
    }

    /// Every rate that events in `[from, until)` may need.
    pub fn rate_table(&self, from: DateTime<Utc>, until: DateTime<Utc>) -> RateTable {
        self.book.rate_table(from, until)
    }

    /// The rates of every model that the file names, one for each time that it changes, by
    /// model and then time.
    pub fn resolved_rates(&self) -> Vec<ResolvedRate> {
        self.book.resolved_rates()
    }

    /// What `candidate` would bill the named models at that differs, by model and then time.
    pub fn changes_to(&self, candidate: &Pricebook) -> Vec<RateChange> {
        self.book.changes_to(&candidate.book)
    }
}
