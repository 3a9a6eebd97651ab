//! Following a run to its end, with its progress on standard error.

use std::time::Duration;

use super::console::Console;
use super::progress::Progress;
use crate::grpc::client::Failure;
use crate::grpc::client::runs::{Watch, Watched};
use crate::proto::{Run, RunState};

/// How often a terminal's clock moves on, and a line may become due.
const TICK: Duration = Duration::from_millis(500);

/// The options of every command that waits for a run.
#[derive(Debug, Clone, clap::Args)]
pub struct FollowOptions {
    /// How long to look for the run again while the service is away
    #[arg(long, env = "RATER_RETRY_FOR", value_name = "TIME", default_value = "60s")]
    #[arg(value_parser = super::duration::parse)]
    pub retry_for: Duration,
    /// Show no progress
    #[arg(short, long, env = "RATER_QUIET", value_parser = crate::cli::switch::Switch)]
    pub quiet: bool,
}

/// Follows a run until it has ended, and gives it as it ended. `tell` gets all that comes: the
/// last message, too, and when the service goes away.
pub async fn follow<'c>(
    mut watch: Watch,
    mut progress: Progress,
    console: &mut Console<'c>,
    mut tell: impl FnMut(&mut Console<'c>, &Watched),
) -> Result<Run, Failure> {
    let mut ticks = tokio::time::interval(TICK);
    loop {
        let next = watch.next();
        tokio::pin!(next);
        // Not cut off by a tick: it may be in the middle of connecting.
        let watched = loop {
            tokio::select! {
                watched = &mut next => break watched?,
                _ = ticks.tick() => progress.tick(console),
            }
        };
        progress.aside(|| tell(console, &watched));
        let Watched::Now(message) = watched else { continue };
        let Some(run) = message.run else { continue };
        if ended(run.state()) {
            return Ok(run);
        }
        progress.update(&run, console);
    }
}

/// Whether a run in this state stays as it is.
pub fn ended(state: RunState) -> bool {
    matches!(state, RunState::Succeeded | RunState::Failed | RunState::Cancelled)
}
