//! Printing results: proto3 JSON with the proto's field names, tables, CSV.
//!
//! JSON has every field that isn't a message, also at its default, so that its shape is
//! always the same for a program that reads it; 64-bit integers are strings, as the mapping
//! says. Nothing here writes to a stream: that is the command's.

use std::io::IsTerminal;

use comfy_table::{CellAlignment, Table, presets};
use prost::Message;

pub use crate::domain::text::printable;
pub use crate::proto_json::{descriptor, json_line};

/// How a command prints its result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Table,
    /// One JSON object a line
    Json,
    /// With a line of headers
    Csv,
}

/// A table, without the last line's end. Columns of numbers are aligned to the right. Lines
/// only on a terminal: elsewhere something reads it.
pub fn table(headers: &[&str], rows: &[Vec<String>]) -> String {
    draw(headers, rows, std::io::stdout().is_terminal())
}

fn draw(headers: &[&str], rows: &[Vec<String>], lines: bool) -> String {
    let mut table = Table::new();
    table.load_style(if lines { presets::UTF8_HORIZONTAL_ONLY } else { presets::NOTHING });
    table.set_header(headers.iter().copied());
    for row in rows {
        table.add_row(row.iter().map(|cell| printable(cell)));
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        if !lines {
            column.set_padding((0, 2));
        }
        if rows.iter().filter_map(|row| row.get(index)).all(|cell| is_number(cell)) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// CSV with its headers, each line ended.
pub fn csv(headers: &[&str], rows: &[Vec<String>]) -> Result<String, String> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(headers).map_err(|error| error.to_string())?;
    for row in rows {
        writer.write_record(row).map_err(|error| error.to_string())?;
    }
    let bytes = writer.into_inner().map_err(|error| error.to_string())?;
    String::from_utf8(bytes).map_err(|error| error.to_string())
}

/// One thing: a table with a line for each field that is not empty, CSV with all of them on one
/// line, or the message as JSON.
pub fn record<M: Message>(
    format: Format,
    full_name: &str,
    message: &M,
    title: &str,
    fields: Vec<(&str, String)>,
) -> Result<String, String> {
    match format {
        Format::Json => Ok(json_line(full_name, message)? + "\n"),
        Format::Csv => {
            let (names, values): (Vec<&str>, Vec<String>) = fields.into_iter().unzip();
            csv(&names, &[values])
        }
        Format::Table => {
            let filled = fields.into_iter().filter(|(_, value)| !value.is_empty());
            let rows: Vec<Vec<String>> = filled.map(|(name, value)| vec![name.to_owned(), value]).collect();
            Ok(table(&[title, ""], &rows) + "\n")
        }
    }
}

/// A page of a list, each line ended; one JSON object a line. CSV has its headers on the first
/// page, and a table has them on each, but no later page without rows.
pub fn page<M: Message>(
    format: Format,
    full_name: &str,
    headers: &[&str],
    messages: &[M],
    cells: impl Fn(&M) -> Vec<String>,
    first: bool,
) -> Result<String, String> {
    let rows = || messages.iter().map(&cells).collect::<Vec<_>>();
    match format {
        Format::Json => messages.iter().map(|message| Ok(json_line(full_name, message)? + "\n")).collect(),
        Format::Csv => {
            let text = csv(headers, &rows())?;
            let header = text.find('\n').map_or(0, |end| end + 1);
            Ok(if first { text } else { text[header..].to_owned() })
        }
        Format::Table if first || !messages.is_empty() => Ok(table(headers, &rows()) + "\n"),
        Format::Table => Ok(String::new()),
    }
}

/// A plain decimal, perhaps with a sign, or nothing, which aligns with anything.
pub(super) fn is_number(cell: &str) -> bool {
    let digits = cell.strip_prefix(['-', '+']).unwrap_or(cell);
    cell.is_empty()
        || digits.split('.').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{BillingEvent, RecordEventsResponse, RejectedEvent};

    fn rows() -> Vec<Vec<String>> {
        vec![
            vec!["acme".into(), "1".into(), "0.5".into()],
            vec!["a\n\u{1b}[31m".into(), "-1200".into(), "".into()],
        ]
    }

    #[test]
    fn json_has_the_protos_names_and_a_shape_that_does_not_change() {
        let empty = json_line("rating.v1.RecordEventsResponse", &RecordEventsResponse::default());
        assert_eq!(empty.as_deref(), Ok(r#"{"stored":"0","duplicates":"0","rejected":[]}"#));
        let rejected = RejectedEvent { index: 3, request_id: "r".into(), ..RejectedEvent::default() };
        let response = RecordEventsResponse { stored: 1, duplicates: 2, rejected: vec![rejected] };
        assert_eq!(
            json_line("rating.v1.RecordEventsResponse", &response).as_deref(),
            Ok(concat!(
                r#"{"stored":"1","duplicates":"2","rejected":"#,
                r#"[{"index":3,"request_id":"r","field":"","reason":""}]}"#
            ))
        );
        let time = prost_types::Timestamp { seconds: -1, nanos: 999_998_000 };
        let event = BillingEvent { event_time: Some(time), ..BillingEvent::default() };
        let json = json_line("rating.v1.BillingEvent", &event).expect("its own name");
        assert!(json.ends_with(r#""aborted":false,"event_time":"1969-12-31T23:59:59.999998Z"}"#), "{json}");
    }

    #[test]
    fn a_name_that_is_not_in_the_contract_is_an_error() {
        assert!(json_line("rating.v1.Nothing", &RecordEventsResponse::default()).is_err());
    }

    #[test]
    fn a_table_aligns_numbers_to_the_right_and_prints_no_control_characters() {
        let table = draw(&["auth_id", "tokens", "cost"], &rows(), false);
        let expected =
            ["auth_id        tokens  cost", "acme                1   0.5", r"a\n\u{1b}[31m   -1200"];
        assert_eq!(table.lines().collect::<Vec<_>>(), expected);
        assert!(draw(&["auth_id", "tokens", "cost"], &rows(), true).contains('─'));
    }

    #[test]
    fn csv_quotes_what_needs_it() {
        let rows = [vec!["a,b".into(), "say \"x\"".into()], vec!["".into(), "two\nlines".into()]];
        let csv = csv(&["name", "text"], &rows);
        assert_eq!(csv.as_deref(), Ok("name,text\n\"a,b\",\"say \"\"x\"\"\"\n,\"two\nlines\"\n"));
    }
}
