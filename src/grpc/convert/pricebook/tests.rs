use super::*;
use crate::domain::money::Money;
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
        impact: None,
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

fn with_traffic(unpriced: Option<usize>, unused: usize, currency: &str) -> Validation {
    let named = |count| (0..count).map(|n| format!("ft:acme/{n:07}")).collect::<Vec<_>>();
    let impact = Impact {
        loaded_cost: Money::parse("1.50").expect("money"),
        loaded_currency: "USD".into(),
        candidate_cost: Money::parse("-0").expect("money"),
        candidate_currency: currency.into(),
        newly_unpriced_models: unpriced.map(named),
        unused_models: named(unused),
    };
    Validation { impact: Some(impact), ..checked(&book(1, '1'), &book(2, '1')) }
}

fn codes(response: &proto::ValidatePricebookResponse) -> Vec<&str> {
    response.diagnostics.iter().map(|d| d.code.as_str()).collect()
}

#[test]
fn the_impact_has_the_room_before_changes_and_rates() {
    let response = validation(&with_traffic(Some(2), 190_000, "USD"));
    let impact = response.impact.clone().expect("there");
    assert_eq!((impact.loaded_cost.as_str(), impact.candidate_cost.as_str()), ("1.5", "0"));
    assert_eq!((impact.newly_unpriced_models.len(), impact.unused_models.len()), (2, 190_000));
    assert_eq!((codes(&response).len(), response.changes.len(), response.rates.len()), (0, 1, 2));
    let response = validation(&with_traffic(Some(209_000), 10_000, "USD"));
    assert!(response.encoded_len() <= MAX_RESPONSE, "{}", response.encoded_len());
    assert_eq!(codes(&response), ["unused_models_left_out"]);
    let impact = response.impact.expect("there");
    assert_eq!((impact.newly_unpriced_models.len(), impact.unused_models.len()), (209_000, 0));
}

#[test]
fn names_that_were_not_kept_or_do_not_fit_are_left_out_whole_and_said() {
    for (unpriced, said) in [(Some(300_000), "300000 newly"), (None, "more than 200000 newly")] {
        let response = validation(&with_traffic(unpriced, 300_000, "USD"));
        assert_eq!(codes(&response), ["newly_unpriced_models_left_out", "unused_models_left_out"]);
        assert!(response.diagnostics[0].message.starts_with(said), "{:?}", response.diagnostics);
        let impact = response.impact.expect("there");
        assert_eq!((impact.newly_unpriced_models.len(), impact.unused_models.len()), (0, 0));
        assert_eq!(impact.loaded_cost, "1.5");
    }
}

#[test]
fn costs_in_two_currencies_are_told_apart() {
    let response = validation(&with_traffic(Some(0), 0, "EUR"));
    assert_eq!(codes(&response), ["currency_differs"]);
    let warning = &response.diagnostics[0];
    assert!(response.valid && warning.severity() == proto::Severity::Warning);
    assert!(warning.message.contains("USD") && warning.message.contains("EUR"), "{warning:?}");
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
    let refused = Validation { diagnostics, digest: None, rates: vec![], changes: vec![], impact: None };
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
