//! A run's result as fields and findings.

use crate::cli::output::table;
use crate::cli::words::{time, word};
use crate::proto::{FindingCode, RateWindowResponse, RatingResult};

/// The fields of an answer, in the order in which they are printed.
pub fn fields(response: &RateWindowResponse, result: &RatingResult) -> Vec<(&'static str, String)> {
    let window = result.window.unwrap_or_default();
    let mut fields = vec![
        ("run_id", response.run_id.clone()),
        ("severity", word(result.severity().as_str_name(), "SEVERITY_")),
        ("since", time(window.start)),
        ("until", time(window.end)),
        ("trigger", word(result.trigger().as_str_name(), "TRIGGER_")),
    ];
    fields.extend(counts(result));
    fields
}

/// What was counted and what it costs.
pub fn counts(result: &RatingResult) -> Vec<(&'static str, String)> {
    vec![
        ("rate_basis", word(result.rate_basis().as_str_name(), "RATE_BASIS_")),
        ("events", result.events.to_string()),
        ("rated_events", result.rated_events.to_string()),
        ("unpriced_events", result.unpriced_events.to_string()),
        ("unattributable_events", result.unattributable_events.to_string()),
        ("ambiguous_base_events", result.ambiguous_base_events.to_string()),
        ("malformed_events", result.malformed_events.to_string()),
        ("clamped_events", result.clamped_events.to_string()),
        ("rollups", result.rollups.to_string()),
        ("inserted_rollups", result.inserted_rollups.to_string()),
        ("updated_rollups", result.updated_rollups.to_string()),
        ("unchanged_rollups", result.unchanged_rollups.to_string()),
        ("reconciled_deletions", result.reconciled_deletions.to_string()),
        ("shrunk_rollups", result.shrunk_rollups.to_string()),
        ("rate_drift_rollups", result.rate_drift_rollups.to_string()),
        ("previous_cost", result.previous_cost.clone()),
        ("total_cost", result.total_cost.clone()),
        ("currency_code", result.currency_code.clone()),
        ("pricebook_digest", result.pricebook_digest.clone()),
        ("plan_hash", result.plan_hash.clone()),
    ]
}

/// The findings as a table after a blank line; nothing where there are none.
pub fn findings(result: &RatingResult) -> String {
    if result.findings.is_empty() {
        return String::new();
    }
    let row = |finding: &crate::proto::Finding| {
        let code = FindingCode::try_from(finding.code).unwrap_or_default();
        vec![
            finding.severity().as_str_name().trim_start_matches("SEVERITY_").to_owned(),
            code.as_str_name().trim_start_matches("FINDING_CODE_").to_owned(),
            finding.message.clone(),
        ]
    };
    let rows: Vec<Vec<String>> = result.findings.iter().map(row).collect();
    format!("\n{}\n", table(&["severity", "finding", "what"], &rows))
}
