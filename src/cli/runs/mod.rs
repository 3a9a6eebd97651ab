//! `rater runs`: which runs there are, how they go, how to stop one, and what the latest could
//! not bill. A file a command; [`fields`] is what they print of a run.

use std::process::ExitCode;

use super::console::Console;
use super::group::Group;

mod anomalies;
mod cancel;
mod fields;
mod list;
mod show;
mod watch;

/// Look at runs, follow them, stop them
#[derive(Debug, clap::Args)]
pub struct Runs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    List(list::List),
    Show(show::Show),
    Watch(watch::Watch),
    Cancel(cancel::Cancel),
    Anomalies(anomalies::Anomalies),
}

impl Runs {
    /// Runs the command.
    pub async fn run(self) -> ExitCode {
        self.command.run_here().await
    }
}

impl Group for Command {
    async fn run(self, console: &mut Console<'_>) -> Result<ExitCode, String> {
        match self {
            Command::List(list) => list.run(console).await,
            Command::Show(show) => show.run(console).await,
            Command::Watch(watch) => watch.run(console).await,
            Command::Cancel(cancel) => cancel.run(console).await,
            Command::Anomalies(anomalies) => anomalies.run(console).await,
        }
    }
}

#[cfg(test)]
mod tests;
