//! `rater dead-letters show`: one letter with its history, or its event alone, to be piped on.

use std::process::ExitCode;

use super::LetterOptions;
use super::words::time;
use crate::cli::console::Console;
use crate::cli::output::{Format, csv, table};
use crate::dead_letters::{Content, Letter, canonical};

/// Show a letter with its history
///
/// JSON is what stands in the letter's file.
#[derive(Debug, clap::Args)]
pub struct Show {
    #[command(flatten)]
    options: LetterOptions,
    /// The letter's id, or its beginning
    id: String,
    /// Print the event alone, as `mend` takes it
    #[arg(long, env = "RATER_EVENT_ONLY", value_parser = crate::cli::switch::Switch)]
    event: bool,
}

impl Show {
    /// Shows it.
    pub fn run(self, console: &mut Console<'_>) -> Result<ExitCode, String> {
        let letters = self.options.spool.letters();
        let found = letters.find(std::slice::from_ref(&self.id)).map_err(|error| error.to_string())?;
        let id = found.first().unwrap_or(&self.id);
        let letter =
            letters.get(id).map_err(|error| format!("{error}; look at it in {}", letters.dir().display()))?;
        let text = match (self.event, self.options.output) {
            (true, _) => content(&letter.content) + "\n",
            (false, Format::Json) => letters.text(&letter).map_err(|error| error.to_string())?,
            (false, Format::Csv) => {
                let (names, values): (Vec<&str>, Vec<String>) = fields(&letter).into_iter().unzip();
                csv(&names, &[values])?
            }
            (false, Format::Table) => drawn(&letter),
        };
        console.print(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// An event's JSON, or a line as it came. What is no text is in base64.
fn content(content: &Content) -> String {
    match content {
        Content::Event(event) => canonical(event),
        Content::Line(text) | Content::Bytes(text) => text.clone(),
    }
}

fn fields(letter: &Letter) -> Vec<(&'static str, String)> {
    let kind = match &letter.content {
        Content::Event(_) => "event",
        Content::Line(_) => "line",
        Content::Bytes(_) => "bytes",
    };
    vec![
        ("id", letter.id.clone()),
        ("first_at", time(letter.first_at)),
        ("last_at", time(letter.last_at)),
        ("tries", letter.tries.to_string()),
        ("spooled_at", letter.spooled_at.map(time).unwrap_or_default()),
        ("mended_from", letter.mended_from.clone().unwrap_or_default()),
        ("holds", kind.into()),
        (kind, content(&letter.content)),
    ]
}

/// Its fields, those of the event each on a line of its own, and its history.
fn drawn(letter: &Letter) -> String {
    let mut rows: Vec<Vec<String>> = fields(letter)
        .into_iter()
        .filter(|(name, value)| !value.is_empty() && !matches!(*name, "event" | "holds"))
        .map(|(name, value)| vec![name.to_owned(), value])
        .collect();
    if let Content::Event(serde_json::Value::Object(event)) = &letter.content {
        for (name, value) in event {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            rows.push(vec![format!("event.{name}"), value]);
        }
    }
    let attempts: Vec<Vec<String>> = letter
        .history
        .iter()
        .map(|tried| {
            vec![
                time(tried.at),
                tried.code.clone(),
                tried.field.clone(),
                tried.reason.clone(),
                tried.message.clone(),
            ]
        })
        .collect();
    let history = table(&["refused_at", "code", "field", "reason", "message"], &attempts);
    format!("{}\n\n{history}\n", table(&["letter", ""], &rows))
}
