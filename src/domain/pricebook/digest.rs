//! The digest: SHA-256 over a canonical JSON of what the pricebook says. Two pricebooks that
//! bill the same from the same statements have the same digest.
//!
//! Canonical: keys sorted, no blanks, defaults left out, every value as a list of dated
//! entries, times in UTC, rates per single token as canonical decimals before rounding. So
//! comments, order, quoting, trailing zeros, `per` (with the rates scaled to it), a mapping
//! for a list of one undated entry, and an identity premium do not change it. A rate,
//! `rate_scale`, the currency, a time, a derivation or a floor rate do, even where no billed
//! rate changes (a rate below `rate_scale`; a multiplier of "1" for identity).
//!
//! This form is stored with every row that was billed: it can't change without a new version.

use std::collections::BTreeMap;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::book::{Book, FineTune, Premium, Start, Terms, Timeline};
use crate::domain::money::MAX_SCALE;

// Structs, not `serde_json::Value`: whose maps are sorted only until some dependency switches
// on `preserve_order`. Fields stand in the order of their names.

#[derive(Serialize)]
struct Canonical<'b> {
    base_models: BTreeMap<&'b str, Vec<TermsEntry>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    currency: Option<&'b str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    fine_tune_premium: Vec<PremiumEntry>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    fine_tunes: BTreeMap<&'b str, FineTuneEntry<'b>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    gpu_floor_rates: BTreeMap<&'b str, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate_scale: Option<u32>,
    version: u32,
}

#[derive(Serialize)]
struct TermsEntry {
    cached: String,
    completion: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    effective_from: Option<String>,
    prompt: String,
}

#[derive(Serialize)]
struct PremiumEntry {
    #[serde(skip_serializing_if = "Option::is_none")]
    effective_from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    factor: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    markup: Option<String>,
    policy: &'static str,
}

#[derive(Serialize)]
struct FineTuneEntry<'b> {
    #[serde(skip_serializing_if = "Option::is_none")]
    derived_from: Option<&'b str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<Vec<TermsEntry>>,
}

/// The digest, as 64 hex digits.
pub(super) fn digest(book: &Book) -> String {
    hex::encode(Sha256::digest(canonical(book)))
}

/// The canonical JSON.
fn canonical(book: &Book) -> String {
    let premium = book.premium.as_ref().map_or(&[][..], Timeline::entries);
    let canonical = Canonical {
        base_models: book.base_models.iter().map(|(id, terms)| (id.as_str(), terms_entries(terms))).collect(),
        currency: (book.currency != "USD").then_some(book.currency.as_str()),
        // Identity from the beginning is what an absent premium is.
        fine_tune_premium: premium
            .iter()
            .filter(|entry| **entry != (None, Premium::Identity))
            .map(premium_entry)
            .collect(),
        fine_tunes: book.fine_tunes.iter().map(|(id, tune)| (id.as_str(), fine_tune(tune))).collect(),
        gpu_floor_rates: book
            .gpu_floor_rates
            .iter()
            .map(|(gpu, rate)| (gpu.as_str(), rate.to_string()))
            .collect(),
        rate_scale: (book.rate_scale != MAX_SCALE).then_some(book.rate_scale),
        version: 1,
    };
    serde_json::to_string(&canonical).expect("text, numbers and string keys are always JSON")
}

fn time(start: &Start) -> Option<String> {
    start.map(|start| start.format("%Y-%m-%dT%H:%M:%SZ").to_string())
}

fn terms_entries(terms: &Timeline<Terms>) -> Vec<TermsEntry> {
    let entry = |(start, terms): &(Start, Terms)| TermsEntry {
        cached: terms.cached.to_string(),
        completion: terms.completion.to_string(),
        effective_from: time(start),
        prompt: terms.prompt.to_string(),
    };
    terms.entries().iter().map(entry).collect()
}

fn premium_entry((start, premium): &(Start, Premium)) -> PremiumEntry {
    let (policy, factor, markup) = match premium {
        Premium::Identity => ("identity", None, None),
        Premium::Multiplier(factor) => ("multiplier", Some(factor.to_string()), None),
        Premium::Markup(markup) => ("markup", None, Some(markup.to_string())),
    };
    PremiumEntry { effective_from: time(start), factor, markup, policy }
}

fn fine_tune(tune: &FineTune) -> FineTuneEntry<'_> {
    match tune {
        FineTune::Own(terms) => FineTuneEntry { derived_from: None, rate: Some(terms_entries(terms)) },
        FineTune::DerivedFrom(base) => FineTuneEntry { derived_from: Some(base), rate: None },
    }
}
