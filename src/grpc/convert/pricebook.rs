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
//! Changes come before rates: they are what a validation is asked for.

use prost::Message;

use super::time::to_proto;
use crate::domain::pricebook::{Diagnostic, DiagnosticSeverity, RateChange, ResolvedRate};
use crate::proto;
use crate::service::pricebooks::{Found, Validation};

/// The most that a response takes, in bytes: room is left for headers below 4 MiB.
pub const MAX_RESPONSE: usize = 3_500 * 1024;
/// The most of it that diagnostics take: a thousand that repeat long keys come to more.
const MAX_DIAGNOSTICS: usize = 2 * 1024 * 1024;
/// What a response keeps for saying that something was left out.
const RESERVED: usize = 4 * 1024;

/// What a check found.
pub fn validation(validation: &Validation) -> proto::ValidatePricebookResponse {
    let mut response = proto::ValidatePricebookResponse {
        valid: validation.digest.is_some(),
        digest: validation.digest.clone().unwrap_or_default(),
        ..Default::default()
    };
    let mut left_out = fill_diagnostics(&mut response, &validation.diagnostics);
    let mut room = MAX_RESPONSE - RESERVED - response.encoded_len();
    match whole(&validation.changes, change, &mut room) {
        Some(changes) => response.changes = changes,
        None => left_out.push(list_left_out("changes_left_out", "changes", validation.changes.len())),
    }
    match whole(&validation.rates, rate, &mut room) {
        Some(rates) => response.rates = rates,
        None => left_out.push(list_left_out("rates_left_out", "rates", validation.rates.len())),
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
    let length = message.encoded_len();
    // Its tag, its length and itself.
    *room = room.checked_sub(1 + prost::length_delimiter_len(length) + length)?;
    Some(message)
}

fn list_left_out(code: &str, what: &str, count: usize) -> proto::Diagnostic {
    proto::Diagnostic {
        severity: proto::Severity::Warning.into(),
        code: code.into(),
        message: format!("{count} {what} do not fit into the response and are left out, all of them"),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::pricebook::{MAX_BYTES, Pricebook, parse};

    /// A book of this many models whose prices end in `digit`.
    fn book(models: usize, digit: char) -> Pricebook {
        let mut yaml = "version: 1\nbase_models:\n".to_owned();
        for model in 0..models {
            let name = format!("meta-llama/Llama-{model}-70B-Instruct");
            yaml += &format!(
                "  {name}: {{prompt: \"0.00000020{digit}\", cached: \"0.00000005{digit}\", completion: \"0.00000060{digit}\"}}\n"
            );
        }
        parse(&yaml).book.expect("valid")
    }

    /// A small file of many rates: every fine-tune changes with every premium.
    fn prolific(days: i64) -> Pricebook {
        let mut yaml =
            "version: 1\nbase_models:\n  m: {prompt: \"1\", cached: \"1\", completion: \"1\"}\nfine_tunes:\n"
                .to_owned();
        for model in 0..400 {
            yaml += &format!("  \"ft:{model}\": {{derived_from: m}}\n");
        }
        yaml += "fine_tune_premium:\n";
        for day in 0..days {
            let date = chrono::DateTime::from_timestamp(1_780_272_000 + day * 86_400, 0).expect("in range");
            let (date, factor) = (date.format("%Y-%m-%dT%H:%M:%SZ"), day + 1);
            yaml += &format!("  - {{effective_from: {date}, policy: multiplier, factor: \"{factor}\"}}\n");
        }
        let parsed = parse(&yaml);
        parsed.book.unwrap_or_else(|| panic!("{:?}", parsed.diagnostics))
    }

    fn checked(before: &Pricebook, after: &Pricebook) -> Validation {
        Validation {
            diagnostics: vec![],
            digest: Some(after.digest().into()),
            rates: after.resolved_rates(),
            changes: before.changes_to(after),
        }
    }

    fn get(book: &Pricebook) -> proto::GetPricebookResponse {
        let (digest, yaml) = (book.digest().to_owned(), book.yaml().to_owned());
        found(Found { digest, yaml, loaded_at: None, rates: book.resolved_rates() })
    }

    #[test]
    fn eight_thousand_models_that_all_change_fit_whole() {
        let (before, after) = (book(8_000, '1'), book(8_000, '2'));
        let response = validation(&checked(&before, &after));
        println!("{} bytes of YAML; validated: {} bytes", after.yaml().len(), response.encoded_len());
        assert_eq!((response.rates.len(), response.changes.len()), (8_000, 8_000));
        assert_eq!(response.diagnostics, vec![]);
        assert!(response.encoded_len() < MAX_RESPONSE, "{}", response.encoded_len());
        let response = get(&after);
        assert_eq!((response.rates.len(), response.pricebook_yaml.len()), (8_000, after.yaml().len()));
        assert!(response.encoded_len() < MAX_RESPONSE);
    }

    #[test]
    fn a_list_that_does_not_fit_is_left_out_whole_and_said() {
        let (before, after) = (book(1, '1'), prolific(400));
        assert!(after.resolved_rates().len() > 150_000 && after.yaml().len() < MAX_BYTES);
        let response = validation(&checked(&before, &after));
        assert!(response.valid && response.encoded_len() <= MAX_RESPONSE);
        assert_eq!((response.rates.len(), response.changes.len()), (0, 0));
        let codes: Vec<&str> = response.diagnostics.iter().map(|d| d.code.as_str()).collect();
        assert_eq!(codes, ["changes_left_out", "rates_left_out"]);
        assert!(response.diagnostics.iter().all(|d| d.severity() == proto::Severity::Warning));
        let response = get(&after);
        assert!(response.rates.is_empty() && response.pricebook_yaml == after.yaml());
    }

    #[test]
    fn changes_have_the_room_before_rates() {
        let response = validation(&checked(&book(1, '1'), &prolific(200)));
        assert!(response.rates.is_empty() && response.changes.len() > 400 * 200);
        assert!(response.encoded_len() <= MAX_RESPONSE);
        assert_eq!(response.diagnostics.len(), 1);
        assert_eq!(response.diagnostics[0].code, "rates_left_out");
    }

    #[test]
    fn findings_that_do_not_fit_are_counted_and_an_error_among_them_is_kept() {
        let finding = |severity| Diagnostic {
            severity,
            code: "unknown_key",
            message: "x".repeat(5_000),
            path: "y".repeat(5_000),
            line: 7,
            column: 3,
        };
        let mut diagnostics = vec![finding(DiagnosticSeverity::Warning); 1_000];
        diagnostics.push(finding(DiagnosticSeverity::Error));
        let refused = Validation { diagnostics, digest: None, rates: vec![], changes: vec![] };
        let response = validation(&refused);
        assert!(!response.valid && response.digest.is_empty());
        assert!(response.encoded_len() <= MAX_DIAGNOSTICS + RESERVED, "{}", response.encoded_len());
        let (last, shown) = response.diagnostics.split_last().expect("some");
        assert_eq!((last.code.as_str(), last.severity()), ("too_many_diagnostics", proto::Severity::Error));
        let said = format!("{} more findings do not fit into the response, 1 of them", 1_001 - shown.len());
        assert!(last.message.starts_with(&said), "{}", last.message);
        assert_eq!((shown[0].line, shown[0].column), (7, 3));
    }

    #[test]
    fn rates_are_canonical_and_dated() {
        let yaml = "version: 1\nbase_models:\n  m:\n    - {prompt: \"0.10\", cached: \"0.0\", completion: \"3\"}\n    \
                    - {effective_from: 2026-07-01T00:00:00Z, prompt: \"1\", cached: \"0\", completion: \"3\"}\n\
                    fine_tunes: {\"ft:a\": {derived_from: m}}\n";
        let book = parse(yaml).book.expect("valid");
        let response = get(&book);
        let rates: Vec<_> = response.rates.iter().map(|r| (r.model_id.as_str(), r.prompt.as_str())).collect();
        assert_eq!(rates, [("ft:a", "0.1"), ("ft:a", "1"), ("m", "0.1"), ("m", "1")]);
        assert_eq!((response.rates[0].derived_from.as_str(), response.rates[2].cached.as_str()), ("m", "0"));
        let from: Vec<_> = response.rates.iter().map(|r| r.effective_from.map(|t| t.seconds)).collect();
        assert_eq!(from, [None, Some(1_782_864_000), None, Some(1_782_864_000)]);
    }

    #[test]
    fn a_change_has_the_sides_that_there_are() {
        let (one, two) = (book(1, '1'), book(2, '1'));
        let added = validation(&checked(&one, &two)).changes;
        let removed = validation(&checked(&two, &one)).changes;
        assert!(added.len() == 1 && added[0].before.is_none() && added[0].after.is_some());
        assert!(removed.len() == 1 && removed[0].before.is_some() && removed[0].after.is_none());
    }
}
