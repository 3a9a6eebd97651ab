//! A group of commands, such as `rater runs …`.

use std::process::ExitCode;

use super::console::Console;
use super::fail;

/// The commands of a group.
pub trait Group: Sized {
    /// Does what the command is for. An error is one line.
    async fn run(self, console: &mut Console<'_>) -> Result<ExitCode, String>;

    /// Does it on the process's own console.
    async fn run_here(self) -> ExitCode {
        self.run(&mut Console::standard()).await.unwrap_or_else(|message| fail(&message))
    }
}
