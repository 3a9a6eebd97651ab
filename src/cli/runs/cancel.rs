//! `rater runs cancel`: stops a run after the chunk in flight. What it has committed stays.

use std::process::ExitCode;

use super::fields;
use super::watch::away;
use crate::cli::client::ClientOptions;
use crate::cli::console::Console;
use crate::cli::follow::{FollowOptions, ended, follow};
use crate::cli::progress::Progress;
use crate::grpc::client::rating::RatingClient;
use crate::grpc::client::runs::Watched;
use crate::proto::{CancelRunResponse, RunState};

/// Stop a run after the chunk in flight; what it has committed stays
#[derive(Debug, clap::Args)]
pub struct Cancel {
    #[command(flatten)]
    client: ClientOptions,
    /// The run's id
    run: String,
    /// Wait until it has ended, and print how
    #[arg(long, env = "RATER_WAIT", value_parser = crate::cli::switch::Switch)]
    wait: bool,
    #[command(flatten)]
    follow: FollowOptions,
}

impl Cancel {
    /// Asks it to stop.
    pub async fn run(self, console: &mut Console<'_>) -> Result<ExitCode, String> {
        let mut client = RatingClient::new(self.client.channel().await?);
        let mut answer = client.cancel(&self.run).await.map_err(|failure| failure.to_string())?;
        let state = answer.run.as_ref().map(|run| run.state()).unwrap_or_default();
        if state == RunState::Cancelling {
            console.say(&format!("run {} stops after the chunk in flight", self.run));
        }
        if self.wait && !ended(state) {
            answer = self.wait(&client, console).await?;
        }
        let run = answer.run.as_ref();
        console.print(&fields::print(self.client.output, "rating.v1.CancelRunResponse", &answer, run)?)?;
        Ok(ExitCode::SUCCESS)
    }

    async fn wait(
        &self,
        client: &RatingClient,
        console: &mut Console<'_>,
    ) -> Result<CancelRunResponse, String> {
        let watch = client.watch(&self.run, self.follow.retry_for);
        let progress = Progress::new(self.follow.quiet, console);
        let followed = follow(watch, progress, console, |console, watched| {
            if let Watched::Away(failure) = watched {
                console.say(&away(failure));
            }
        });
        match followed.await {
            Ok(run) => Ok(CancelRunResponse { run: Some(run) }),
            Err(failure) => Err(format!("run {} was asked to stop; waiting for it: {failure}", self.run)),
        }
    }
}
