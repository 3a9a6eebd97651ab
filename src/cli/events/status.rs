//! `rater events status`: what waits in a spool and how its forwarder is doing, from the folder
//! alone: whether the forwarder runs or not, and whether the service is there or not. It changes
//! nothing. The exit code is 1 when something is bad, which standard error names.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};

use super::json_object;
use crate::cli::console::Console;
use crate::cli::output::{Format, csv, table};
use crate::cli::{bytes, duration};
use crate::dead_letters::DeadLetters;
use crate::forwarder::{Saved, saved};
use crate::spool::{Inspection, inspect};

/// Says what waits in a spool, and how its forwarder is doing
///
/// It works beside a running forwarder and without one. The exit code is 0 when all is well, and 1
/// when something is not, which standard error names.
#[derive(Debug, Clone, clap::Args)]
pub struct Status {
    /// The folder of the spool
    #[arg(long, env = "RATER_SPOOL", value_name = "DIR")]
    spool: PathBuf,
    /// An event that waits longer is bad
    #[arg(long, env = "RATER_ALERT_AGE", value_name = "TIME", default_value = "5m")]
    #[arg(value_parser = duration::parse)]
    alert_age: Duration,
    /// How to print the result
    #[arg(short, long, env = "RATER_OUTPUT", value_enum, default_value_t = Format::Table)]
    output: Format,
}

impl Status {
    /// Looks, prints, and says whether all is well.
    pub fn run(self, console: &mut Console<'_>) -> Result<ExitCode, String> {
        let inspection = inspect(&self.spool).map_err(|error| format!("--spool: {error}"))?;
        let letters = DeadLetters::of(&self.spool).count().map_err(|error| error.to_string())?;
        let found = Found { inspection, letters, saved: saved(&self.spool), now: Utc::now() };
        console.print(&found.text(self.output)?)?;
        let bad = found.bad(self.alert_age);
        for what in &bad {
            console.say(what);
        }
        Ok(if bad.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// What the folder tells.
struct Found {
    inspection: Inspection,
    letters: u64,
    saved: Saved,
    now: DateTime<Utc>,
}

impl Found {
    fn oldest(&self) -> Option<DateTime<Utc>> {
        let depth = &self.inspection.depth;
        depth.oldest.filter(|_| depth.events > 0).map(DateTime::<Utc>::from)
    }

    /// In seconds; a clock that was set back makes nothing old.
    fn age(&self) -> Option<u64> {
        self.oldest().map(|oldest| u64::try_from((self.now - oldest).num_seconds()).unwrap_or_default())
    }

    /// Every field, in the order in which they are printed.
    fn fields(&self) -> Vec<(&'static str, Value)> {
        let (depth, ever) = (&self.inspection.depth, self.saved.ever);
        let error = self.saved.last_error.as_ref();
        vec![
            ("running", self.inspection.in_use.into()),
            ("events", depth.events.into()),
            ("bytes", depth.bytes.into()),
            ("max_bytes", self.saved.max_bytes.into()),
            ("oldest_at", self.oldest().map(rfc3339).into()),
            ("oldest_age_seconds", self.age().into()),
            ("shipped", json!({"stored": ever.stored, "duplicates": ever.duplicates})),
            ("retried", ever.retried.into()),
            ("dead_lettered", ever.dead_lettered.into()),
            ("dead_letters", self.letters.into()),
            ("retained_bytes", depth.retained_bytes.into()),
            ("damaged_ranges", depth.damaged_ranges.into()),
            ("damaged_bytes", depth.damaged_bytes.into()),
            ("missing_records", depth.missing_records.into()),
            ("last_error", error.map(|error| format!("{}: {}", error.code, error.message)).into()),
            ("last_error_at", error.map(|error| rfc3339(error.at)).into()),
            ("last_shipped_at", self.saved.last_shipped_at.map(rfc3339).into()),
        ]
    }

    fn text(&self, format: Format) -> Result<String, String> {
        let fields = self.fields();
        if format == Format::Json {
            return Ok(json_object(fields));
        }
        // Both parts of what was shipped have a column of their own.
        let ever = self.saved.ever;
        let flat = fields.into_iter().flat_map(|(name, value)| match name {
            "shipped" => vec![("stored", ever.stored.into()), ("duplicates", ever.duplicates.into())],
            _ => vec![(name, value)],
        });
        let (names, cells): (Vec<&str>, Vec<String>) =
            flat.map(|(name, value)| (name, cell(name, &value, format))).unzip();
        match format {
            Format::Csv => csv(&names, &[cells]),
            _ => {
                let rows = names.iter().zip(cells).filter(|(_, cell)| !cell.is_empty());
                let rows: Vec<_> = rows.map(|(name, cell)| vec![(*name).to_owned(), cell]).collect();
                Ok(table(&["spool", ""], &rows) + "\n")
            }
        }
    }

    /// What is not well, a line each, with what to do where there is something.
    fn bad(&self, alert_age: Duration) -> Vec<String> {
        let (depth, mut bad) = (&self.inspection.depth, Vec::new());
        let events = depth.events;
        if !self.inspection.in_use && events > 0 {
            bad.push(format!("{events} events wait, and no forwarder runs; start `rater events forward`"));
        }
        if let Some(age) = self.age().filter(|age| Duration::from_secs(*age) > alert_age) {
            bad.push(format!("the oldest event waits for {age}s"));
        }
        if let Some(error) = self.saved.last_error.as_ref().filter(|_| self.fails()) {
            bad.push(format!("shipping fails: {}: {}", error.code, error.message));
        }
        let max_bytes = self.saved.max_bytes;
        if max_bytes > 0 && u128::from(depth.bytes) * 100 >= u128::from(max_bytes) * 80 {
            let (waits, limit) = (bytes::say(depth.bytes), bytes::say(max_bytes));
            bad.push(format!("the spool is nearly full: {waits} of {limit}"));
        }
        if self.letters > 0 {
            bad.push(format!("there are {} dead letters; see `rater dead-letters list`", self.letters));
        }
        if depth.damaged_ranges > 0 || depth.missing_records > 0 {
            bad.push(format!(
                "the spool was damaged: {} stretches with {} bytes lie in damaged/, {} records are missing; remove them \
                 when they were looked at",
                depth.damaged_ranges, depth.damaged_bytes, depth.missing_records
            ));
        }
        bad
    }

    /// Events wait, and what was tried last failed.
    fn fails(&self) -> bool {
        let failed = self.saved.last_error.as_ref().map(|error| error.at);
        self.inspection.depth.events > 0 && failed > self.saved.last_shipped_at
    }
}

fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// For a table, bytes with a unit; nothing where there is nothing.
fn cell(name: &str, value: &Value, format: Format) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Number(number) if format == Format::Table && name.ends_with("bytes") => {
            bytes::say(number.as_u64().unwrap_or_default())
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
