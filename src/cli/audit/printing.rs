//! What an audit says, as a table, CSV or JSON. Money is text, exact as it was summed.

use serde_json::json;

use crate::cli::job::{field_table, fields, json as object};
use crate::cli::output::{Format, csv, table};
use crate::service::audit::{AuditStatus, AuditTotal, Disagreement, NOTES};

const TOTALS: [&str; 6] = ["finding", "currency_code", "rows", "billed", "over_billed", "under_billed"];
const ROWS: [&str; 10] = [
    "finding",
    "window_start",
    "auth_id",
    "resource_id",
    "model_id",
    "price_class",
    "currency_code",
    "billed",
    "expected",
    "detail",
];

/// How far an audit is and what it found: one JSON object, or in CSV a line a total.
pub(super) fn status(format: Format, status: &AuditStatus) -> Result<String, String> {
    let rows: Vec<Vec<String>> = status.totals.iter().map(total).collect();
    match format {
        Format::Csv => csv(&TOTALS, &rows),
        Format::Json => {
            let totals: Vec<_> = rows
                .iter()
                .map(|row| object(&TOTALS.into_iter().zip(row.iter().cloned()).collect::<Vec<_>>()))
                .collect();
            let job = object(&fields(&status.job));
            Ok(json!({ "job": job, "agrees": status.agrees(), "totals": totals }).to_string() + "\n")
        }
        Format::Table => {
            let mut text = field_table(fields(&status.job));
            if !rows.is_empty() {
                let note = |mut row: Vec<String>| {
                    if NOTES.contains(&row[0].as_str()) {
                        row[0] += " (a note)";
                    }
                    row
                };
                let rows: Vec<Vec<String>> = rows.into_iter().map(note).collect();
                text += &format!("\n{}\n", table(&TOTALS, &rows));
            }
            text += verdict(status);
            Ok(text)
        }
    }
}

fn verdict(status: &AuditStatus) -> &'static str {
    match (status.job.state, status.agrees()) {
        (_, Some(true)) => "\nall of it agrees\n",
        (_, Some(false)) => "\nnot all of it agrees; `rater audit list` shows the first rows\n",
        _ => "",
    }
}

fn total(total: &AuditTotal) -> Vec<String> {
    let AuditTotal { finding, currency_code, rows, billed, over_billed, under_billed } = total.clone();
    vec![finding, currency_code, rows.to_string(), billed, over_billed, under_billed]
}

/// Rows that do not agree; one JSON object a line.
pub(super) fn disagreements(format: Format, rows: &[Disagreement]) -> Result<String, String> {
    let cells: Vec<Vec<String>> = rows.iter().map(cells).collect();
    match format {
        Format::Csv => csv(&ROWS, &cells),
        Format::Json => {
            let line = |row| serde_json::to_string(row).map(|line| line + "\n");
            rows.iter().map(line).collect::<Result<_, _>>().map_err(|error| error.to_string())
        }
        Format::Table => Ok(table(&ROWS, &cells) + "\n"),
    }
}

fn cells(row: &Disagreement) -> Vec<String> {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    vec![
        row.finding.clone(),
        text(&row.window_start),
        text(&row.auth_id),
        text(&row.resource_id),
        text(&row.model_id),
        text(&row.price_class),
        text(&row.currency_code),
        text(&row.billed),
        text(&row.expected),
        row.detail.clone(),
    ]
}
