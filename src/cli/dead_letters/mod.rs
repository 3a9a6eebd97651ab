//! `rater dead-letters`: what the service refused for its content, to look at, mend, send again or
//! give up. A file a command. `list` and `show` wait for nobody; `replay`, `mend` and `drop` exclude
//! each other; none of them keeps the forwarder from its work.

use std::path::PathBuf;
use std::process::ExitCode;

use super::console::Console;
use super::group::Group;
use super::output::Format;
use crate::dead_letters::DeadLetters as Letters;

mod drop;
mod list;
mod mend;
mod replay;
mod show;
mod words;

/// Look at events that were refused, mend them, send them again
#[derive(Debug, clap::Args)]
pub struct DeadLetters {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    List(list::List),
    Show(show::Show),
    Replay(replay::Replay),
    Mend(mend::Mend),
    Drop(drop::DropLetters),
}

/// Where the letters are.
#[derive(Debug, Clone, clap::Args)]
pub struct Spool {
    /// The folder of the spool
    #[arg(long, env = "RATER_SPOOL", value_name = "DIR")]
    spool: PathBuf,
}

impl Spool {
    /// Its letters.
    fn letters(&self) -> Letters {
        Letters::of(&self.spool)
    }
}

/// Where the letters are, and how to print.
#[derive(Debug, Clone, clap::Args)]
pub struct LetterOptions {
    #[command(flatten)]
    spool: Spool,
    /// How to print the result
    #[arg(short, long, env = "RATER_OUTPUT", value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// The ids of the letters that are meant: those that these begin, or all.
fn chosen(letters: &Letters, ids: &[String], all: bool) -> Result<Vec<String>, String> {
    let chosen = match (ids, all) {
        ([], false) => return Err("say which letters: their ids, or --all".into()),
        ([_, ..], true) => return Err("give ids or --all, not both".into()),
        ([], true) => letters.ids(),
        (ids, false) => letters.find(ids),
    };
    chosen.map_err(|error| error.to_string())
}

impl DeadLetters {
    /// Runs the command.
    pub async fn run(self) -> ExitCode {
        self.command.run_here().await
    }
}

impl Group for Command {
    async fn run(self, console: &mut Console<'_>) -> Result<ExitCode, String> {
        match self {
            Command::List(list) => list.run(console),
            Command::Show(show) => show.run(console),
            Command::Replay(replay) => replay.run(console).await,
            Command::Mend(mend) => mend.run(console),
            Command::Drop(drop) => drop.run(console),
        }
    }
}

#[cfg(test)]
mod tests;
