//! Pricebooks in the contract's messages, within what a client takes.
//!
//! gRPC clients refuse a message past 4 MiB unless they were told otherwise, and these two
//! have no pages. A common book is far below: 8,000 models, each with a change, come to
//! 1.9 MB. A book at its limits (1 MiB, up to 500,000 rates) is not, so a response stays
//! within [`MAX_RESPONSE`], by one rule: **a list of rates or changes is whole or empty**. A
//! list that is cut looks complete, and a model that is missing from it looks unpriced. What
//! is left out is told: by a WARNING in a validation; in GetPricebook by the empty list, as
//! every valid pricebook has a rate and the text, which has them all, is always sent.
//!
//! What was asked for comes first: the impact on traffic, then the changes, then the rates.

use std::fmt::Display;

use prost::Message;

use super::rating::bound;
use super::time::to_proto;
use crate::domain::impact::{Impact, MAX_MODELS};
use crate::domain::pricebook::{Diagnostic, DiagnosticSeverity, RateChange, ResolvedRate};
use crate::domain::violation::Violation;
use crate::domain::window::Window;
use crate::proto;
use crate::service::Error;
use crate::service::pricebooks::{Candidate, Found, Validation};

/// The most that a response takes, in bytes: room is left for headers below 4 MiB.
pub const MAX_RESPONSE: usize = 3_500 * 1024;
/// The most of it that diagnostics take: a thousand that repeat long keys come to more.
const MAX_DIAGNOSTICS: usize = 2 * 1024 * 1024;
/// What a response keeps for saying that something was left out.
const RESERVED: usize = 4 * 1024;

/// A pricebook to check, with everything that is wrong with its window.
pub fn candidate(request: proto::ValidatePricebookRequest) -> Result<Candidate, Error> {
    let against = request.against.map(window).transpose().map_err(Error::Invalid)?;
    Ok(Candidate { yaml: request.pricebook_yaml, against })
}

fn window(asked: proto::Window) -> Result<Window, Vec<Violation>> {
    let mut wrong = Vec::new();
    let start = bound("against.start", asked.start, &mut wrong);
    let end = bound("against.end", asked.end, &mut wrong);
    Window::between(("against.start", start), ("against.end", end)).map_err(|more| {
        // One that can't be read is not missing.
        let told = |field: &str| wrong.iter().any(|violation| violation.field == field);
        let more: Vec<_> = more.into_iter().filter(|violation| !told(&violation.field)).collect();
        wrong.into_iter().chain(more).collect()
    })
}

/// What a check found.
pub fn validation(validation: &Validation) -> proto::ValidatePricebookResponse {
    let mut response = proto::ValidatePricebookResponse {
        valid: validation.digest.is_some(),
        digest: validation.digest.clone().unwrap_or_default(),
        ..Default::default()
    };
    let mut left_out = fill_diagnostics(&mut response, &validation.diagnostics);
    let mut room = MAX_RESPONSE - RESERVED - response.encoded_len();
    response.impact = validation.impact.as_ref().map(|found| impact(found, &mut room, &mut left_out));
    match whole(&validation.changes, change, &mut room) {
        Some(changes) => response.changes = changes,
        None => left_out.push(list_left_out("changes_left_out", "changes", &validation.changes.len())),
    }
    match whole(&validation.rates, rate, &mut room) {
        Some(rates) => response.rates = rates,
        None => left_out.push(list_left_out("rates_left_out", "rates", &validation.rates.len())),
    }
    response.diagnostics.extend(left_out);
    response
}

/// A pricebook.
pub fn found(found: Found) -> proto::GetPricebookResponse {
    let mut response = proto::GetPricebookResponse {
        digest: found.digest,
        pricebook_yaml: found.yaml,
        loaded_at: found.loaded_at.map(to_proto),
        rates: vec![],
    };
    let mut room = MAX_RESPONSE.saturating_sub(response.encoded_len());
    response.rates = whole(&found.rates, rate, &mut room).unwrap_or_default();
    response
}

/// A finding.
pub fn diagnostic(diagnostic: &Diagnostic) -> proto::Diagnostic {
    let Diagnostic { severity, code, message, path, line, column } = diagnostic;
    proto::Diagnostic {
        severity: match severity {
            DiagnosticSeverity::Warning => proto::Severity::Warning,
            DiagnosticSeverity::Error => proto::Severity::Error,
        }
        .into(),
        code: (*code).into(),
        message: message.clone(),
        path: path.clone(),
        line: line.cast_signed(),
        column: column.cast_signed(),
    }
}

/// A rate.
pub fn rate(rate: &ResolvedRate) -> proto::ResolvedRate {
    let ResolvedRate { model_id, derived_from, rates, effective_from } = rate;
    proto::ResolvedRate {
        model_id: model_id.clone(),
        derived_from: derived_from.clone().unwrap_or_default(),
        prompt: rates.prompt.to_string(),
        cached: rates.cached.to_string(),
        completion: rates.completion.to_string(),
        effective_from: effective_from.map(to_proto),
    }
}

/// What a model is billed at before and after.
pub fn change(change: &RateChange) -> proto::RateChange {
    proto::RateChange { before: change.before.as_ref().map(rate), after: change.after.as_ref().map(rate) }
}

/// What changes for the traffic, and `told` what a reader of it must know.
fn impact(impact: &Impact, room: &mut usize, told: &mut Vec<proto::Diagnostic>) -> proto::TrafficImpact {
    let Impact { loaded_currency, candidate_currency, .. } = impact;
    if loaded_currency != candidate_currency {
        let message = format!(
            "the loaded pricebook is in {loaded_currency} and this one in {candidate_currency}: the two costs \
             of the traffic, and the two sides of a change, can't be compared"
        );
        told.push(proto::Diagnostic { path: "currency".into(), ..warning("currency_differs", message) });
    }
    let unpriced = impact.newly_unpriced_models.as_deref();
    let newly_unpriced_models = unpriced.and_then(|models| names(models, room)).unwrap_or_else(|| {
        let count = unpriced.map_or(format!("more than {MAX_MODELS}"), |models| models.len().to_string());
        told.push(list_left_out("newly_unpriced_models_left_out", "newly unpriced models", &count));
        vec![]
    });
    let unused_models = names(&impact.unused_models, room).unwrap_or_else(|| {
        let count = impact.unused_models.len();
        told.push(list_left_out("unused_models_left_out", "unused models", &count));
        vec![]
    });
    proto::TrafficImpact {
        loaded_cost: impact.loaded_cost.to_string(),
        candidate_cost: impact.candidate_cost.to_string(),
        newly_unpriced_models,
        unused_models,
    }
}

/// The diagnostics that fit, first to last, and one that counts the others.
fn fill_diagnostics(
    response: &mut proto::ValidatePricebookResponse,
    all: &[Diagnostic],
) -> Vec<proto::Diagnostic> {
    let mut room = MAX_DIAGNOSTICS;
    let fits = all.iter().map(diagnostic).map_while(|d| fit(d, &mut room));
    response.diagnostics = fits.collect();
    let rest = &all[response.diagnostics.len()..];
    if rest.is_empty() {
        return vec![];
    }
    // The severity of the worst: a client that looks for an ERROR finds one.
    let errors = rest.iter().filter(|d| d.severity == DiagnosticSeverity::Error).count();
    let message = format!(
        "{} more findings do not fit into the response, {errors} of them errors; `rater validate` has them",
        rest.len()
    );
    let severity = if errors > 0 { proto::Severity::Error } else { proto::Severity::Warning };
    vec![proto::Diagnostic {
        severity: severity.into(),
        code: "too_many_diagnostics".into(),
        message,
        ..Default::default()
    }]
}

/// All of the items, or none when they don't fit into the room.
fn whole<T, M: Message>(items: &[T], convert: impl Fn(&T) -> M, room: &mut usize) -> Option<Vec<M>> {
    let mut left = *room;
    let all = items.iter().map(|item| fit(convert(item), &mut left)).collect::<Option<Vec<M>>>()?;
    *room = left;
    Some(all)
}

/// An element of a list, if there is room for it.
fn fit<M: Message>(message: M, room: &mut usize) -> Option<M> {
    take(message.encoded_len(), room)?;
    Some(message)
}

/// All of the names, or none, like [`whole`].
fn names(names: &[String], room: &mut usize) -> Option<Vec<String>> {
    let mut left = *room;
    names.iter().try_for_each(|name| take(name.len(), &mut left))?;
    *room = left;
    Some(names.to_vec())
}

/// Takes what an element of this length needs: its tag, its length and itself.
fn take(length: usize, room: &mut usize) -> Option<()> {
    *room = room.checked_sub(1 + prost::length_delimiter_len(length) + length)?;
    Some(())
}

fn list_left_out(code: &str, what: &str, count: &impl Display) -> proto::Diagnostic {
    warning(code, format!("{count} {what} do not fit into the response and are left out, all of them"))
}

fn warning(code: &str, message: String) -> proto::Diagnostic {
    let severity = proto::Severity::Warning.into();
    proto::Diagnostic { severity, code: code.into(), message, ..Default::default() }
}

#[cfg(test)]
mod tests;
