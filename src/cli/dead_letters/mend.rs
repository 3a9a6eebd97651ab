//! `rater dead-letters mend`: another event in a letter's place. It sends nothing.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;

use super::LetterOptions;
use super::words::print;
use crate::cli::console::Console;
use crate::cli::output::printable;
use crate::dead_letters::Content;
use crate::proto_json;

/// Far above any event that could be stored.
const MAX_BYTES: u64 = 1024 * 1024;

/// Put another event in a letter's place; its history stays
///
/// The event is one JSON object with the contract's field names, over as many lines as it likes;
/// `rater dead-letters show ID --event` prints the one that is there. Nothing is sent: `replay` does
/// that. The letter gets a new id, which is printed.
#[derive(Debug, clap::Args)]
pub struct Mend {
    #[command(flatten)]
    options: LetterOptions,
    /// The letter's id, or its beginning
    id: String,
    /// The event; - for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

#[derive(Debug, Serialize)]
struct Mended {
    id: String,
    mended_from: String,
}

impl Mend {
    /// Mends it.
    pub fn run(self, console: &mut Console<'_>) -> Result<ExitCode, String> {
        let letters = self.options.spool.letters();
        let text = |error: crate::dead_letters::Error| error.to_string();
        let content = self.content()?;
        let _lock = letters.lock().map_err(text)?;
        let found = letters.find(std::slice::from_ref(&self.id)).map_err(text)?;
        let old = found.first().cloned().unwrap_or_default();
        let letter = letters.mend(&old, content).map_err(text)?;
        let say = match letter.id == old {
            true => format!("letter {old} holds that event already; nothing was changed"),
            false => format!("mended; `rater dead-letters replay {}` sends it", letter.id),
        };
        console.say(&say);
        let mended = Mended { id: letter.id, mended_from: old };
        let cells = |mended: &Mended| vec![mended.id.clone(), mended.mended_from.clone()];
        console.print(&print(self.options.output, &["id", "mended_from"], &[mended], cells)?)?;
        Ok(ExitCode::SUCCESS)
    }

    /// The event in the form that is kept of every event, so that the same one is the same letter.
    fn content(&self) -> Result<Content, String> {
        let (name, json) = match self.file == Path::new("-") {
            true => ("stdin".to_owned(), read(io::stdin())),
            false => (printable(&self.file.display().to_string()), File::open(&self.file).and_then(read)),
        };
        let json = json.map_err(|error| format!("{name}: {error}"))?;
        if json.len() as u64 > MAX_BYTES {
            return Err(format!("{name}: is longer than {MAX_BYTES} bytes; an event is one JSON object"));
        }
        let event = proto_json::event(&json).map_err(|what| format!("{name}: {what}"))?;
        let kept = proto_json::json_line("rating.v1.BillingEvent", &event)?;
        serde_json::from_str(&kept).map(Content::Event).map_err(|error| format!("{name}: {error}"))
    }
}

fn read(from: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
