//! `rater usage`: rated usage, its totals, and its changes. A file a command; [`fields`] is what
//! they print.

use std::future::Future;
use std::process::ExitCode;

use super::console::Console;
use super::group::Group;
use super::signals;

mod changes;
mod cursor;
mod fields;
mod list;
mod summary;

/// Read rated usage, sum it up, follow its changes
#[derive(Debug, clap::Args)]
pub struct Usage {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    List(list::List),
    Summary(summary::Summary),
    Changes(changes::Changes),
}

impl Usage {
    /// Runs the command.
    pub async fn run(self) -> ExitCode {
        self.command.run_here().await
    }
}

impl Group for Command {
    async fn run(self, console: &mut Console<'_>) -> Result<ExitCode, String> {
        match self {
            Command::List(list) => list.run(console).await,
            Command::Summary(summary) => summary.run(console).await,
            Command::Changes(changes) => changes.run(console).await,
        }
    }
}

/// Does the work of a command. One that writes a file and is asked to stop gives it up in order,
/// so that nothing of it is left.
async fn writing<T>(to_file: bool, work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    if !to_file {
        return work.await;
    }
    tokio::select! {
        done = work => done,
        () = signals::stop() => Err("stopped; no file was written".into()),
    }
}

#[cfg(test)]
mod tests;
