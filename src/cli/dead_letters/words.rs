//! Letters as the commands print them.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;

use crate::cli::output::{Format, csv, table};

/// What is printed: one object a line, or rows below these headers.
pub fn print<T: Serialize>(
    format: Format,
    headers: &[&str],
    items: &[T],
    cells: impl Fn(&T) -> Vec<String>,
) -> Result<String, String> {
    let rows = || items.iter().map(&cells).collect::<Vec<_>>();
    match format {
        Format::Json => items.iter().map(json).collect(),
        Format::Csv => csv(headers, &rows()),
        Format::Table => Ok(table(headers, &rows()) + "\n"),
    }
}

/// One line of JSON.
fn json<T: Serialize>(item: &T) -> Result<String, String> {
    Ok(serde_json::to_string(item).map_err(|error| error.to_string())? + "\n")
}

/// RFC 3339, as finely as it is known.
pub fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}
