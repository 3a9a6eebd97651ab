//! `rater runs watch`: follows a run to its end. Exit code 0: its window is rated; 1: it failed
//! or was cancelled; 2: it is rated, and a finding is an ERROR (R9).

use std::process::ExitCode;

use super::fields;
use crate::cli::client::ClientOptions;
use crate::cli::console::Console;
use crate::cli::follow::{FollowOptions, follow};
use crate::cli::output::{Format, json_line};
use crate::cli::progress::Progress;
use crate::grpc::client::Failure;
use crate::grpc::client::rating::RatingClient;
use crate::grpc::client::runs::Watched;
use crate::proto::{Run, RunState, Severity, WatchRunResponse};

const MESSAGE: &str = "rating.v1.WatchRunResponse";

/// Follow a run to its end, and print how it ended
///
/// Its progress goes to standard error; with -o json every message is a line of the result. The
/// exit code is that of the run: 0, 1 when it failed or was cancelled, 2 when it is rated and a
/// finding is an ERROR.
#[derive(Debug, clap::Args)]
pub struct Watch {
    #[command(flatten)]
    client: ClientOptions,
    /// The run's id
    run: String,
    #[command(flatten)]
    follow: FollowOptions,
}

impl Watch {
    /// Follows.
    pub async fn run(self, console: &mut Console<'_>) -> Result<ExitCode, String> {
        let client = RatingClient::new(self.client.channel().await?);
        let watch = client.watch(&self.run, self.follow.retry_for);
        let progress = Progress::new(self.follow.quiet, console);
        let format = self.client.output;
        let mut printed = Ok(());
        let followed = follow(watch, progress, console, |console, watched| match watched {
            Watched::Away(failure) => console.say(&away(failure)),
            Watched::Now(message) if format == Format::Json && printed.is_ok() => {
                let line = json_line(MESSAGE, &**message);
                printed = line.and_then(|line| console.print(&(line + "\n"))).map(drop);
            }
            Watched::Now(_) => {}
        });
        let run = followed.await.map_err(|failure| failure.to_string())?;
        printed?;
        let code = code(&run);
        if format != Format::Json {
            let message = WatchRunResponse { run: Some(run) };
            console.print(&fields::print(format, MESSAGE, &message, message.run.as_ref())?)?;
        }
        Ok(code)
    }
}

/// What is told when the service goes away, once an absence.
pub fn away(failure: &Failure) -> String {
    format!("{failure}; looking for the run again")
}

fn code(run: &Run) -> ExitCode {
    match (run.state(), run.result.as_ref().map(|result| result.severity())) {
        (RunState::Succeeded, Some(Severity::Error)) => ExitCode::from(2),
        (RunState::Succeeded, _) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
