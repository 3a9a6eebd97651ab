//! `rater dead-letters drop`: gives letters up, for good.

use std::process::ExitCode;

use serde::Serialize;

use super::words::print;
use super::{LetterOptions, chosen};
use crate::cli::console::Console;

/// Give letters up for good: their events are never billed
#[derive(Debug, clap::Args)]
pub struct DropLetters {
    #[command(flatten)]
    options: LetterOptions,
    /// The letters' ids, or their beginnings
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// All of them, also those that can't be read
    #[arg(long, env = "RATER_DROP_ALL", value_parser = crate::cli::switch::Switch)]
    all: bool,
}

#[derive(Debug, Serialize)]
struct Dropped {
    dropped: u64,
}

impl DropLetters {
    /// Removes them.
    pub fn run(self, console: &mut Console<'_>) -> Result<ExitCode, String> {
        let letters = self.options.spool.letters();
        let text = |error: crate::dead_letters::Error| error.to_string();
        let _lock = letters.lock().map_err(text)?;
        let ids = chosen(&letters, &self.ids, self.all)?;
        let dropped = letters.remove_all(&ids).map_err(text)?;
        let cells = |dropped: &Dropped| vec![dropped.dropped.to_string()];
        console.print(&print(self.options.output, &["dropped"], &[Dropped { dropped }], cells)?)?;
        Ok(ExitCode::SUCCESS)
    }
}
