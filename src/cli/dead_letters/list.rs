//! `rater dead-letters list`: all of them, oldest first.

use std::process::ExitCode;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::LetterOptions;
use super::words::{print, time};
use crate::cli::console::Console;
use crate::dead_letters::{Entry, Letter};

/// List the dead letters, oldest first
///
/// A file that can't be read as a letter comes last, as DAMAGED, with what is wrong with it.
#[derive(Debug, clap::Args)]
pub struct List {
    #[command(flatten)]
    options: LetterOptions,
}

const HEADERS: &[&str] = &["id", "request_id", "field", "reason", "tries", "first_at", "last_at", "damaged"];

/// A letter without its event and its history.
#[derive(Debug, Serialize)]
struct Listed {
    id: String,
    /// Nothing where there is no event.
    request_id: Option<String>,
    code: String,
    field: String,
    reason: String,
    message: String,
    tries: u64,
    first_at: Option<DateTime<Utc>>,
    last_at: Option<DateTime<Utc>>,
    spooled_at: Option<DateTime<Utc>>,
    mended_from: Option<String>,
    /// Why it can't be read.
    damaged: Option<String>,
}

impl List {
    /// Lists them.
    pub fn run(self, console: &mut Console<'_>) -> Result<ExitCode, String> {
        let letters = self.options.spool.letters();
        let entries = letters.entries().map_err(|error| error.to_string())?;
        let mut listed: Vec<Listed> = entries.map(Listed::from).collect();
        listed.sort_by(|a, b| {
            (a.damaged.is_some(), a.first_at, &a.id).cmp(&(b.damaged.is_some(), b.first_at, &b.id))
        });
        let text = print(self.options.output, HEADERS, &listed, Listed::cells)?;
        console.print(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Listed {
    fn cells(&self) -> Vec<String> {
        let at = |at: Option<DateTime<Utc>>| at.map(time).unwrap_or_default();
        vec![
            self.id.clone(),
            self.request_id.clone().unwrap_or_default(),
            self.field.clone(),
            self.reason.clone(),
            self.tries.to_string(),
            at(self.first_at),
            at(self.last_at),
            self.damaged.clone().unwrap_or_default(),
        ]
    }
}

impl From<Entry> for Listed {
    fn from(entry: Entry) -> Listed {
        match entry {
            Entry::Letter(letter) => Listed::from(letter),
            Entry::Damaged { id, why } => Listed {
                id,
                request_id: None,
                code: String::new(),
                field: String::new(),
                reason: "DAMAGED".into(),
                message: String::new(),
                tries: 0,
                first_at: None,
                last_at: None,
                spooled_at: None,
                mended_from: None,
                damaged: Some(why),
            },
        }
    }
}

impl From<Letter> for Listed {
    fn from(mut letter: Letter) -> Listed {
        let request_id = letter.content.request_id().map(str::to_owned);
        let last = letter.history.pop();
        let (code, field, reason, message) =
            last.map(|last| (last.code, last.field, last.reason, last.message)).unwrap_or_default();
        Listed {
            id: letter.id,
            request_id,
            code,
            field,
            reason,
            message,
            tries: letter.tries,
            first_at: Some(letter.first_at),
            last_at: Some(letter.last_at),
            spooled_at: letter.spooled_at,
            mended_from: letter.mended_from,
            damaged: None,
        }
    }
}
