//! `rater runs show`: all that is known of one run.

use std::process::ExitCode;

use super::fields;
use crate::cli::client::ClientOptions;
use crate::cli::console::Console;
use crate::grpc::client::rating::RatingClient;

/// Print all that is known of a run
#[derive(Debug, clap::Args)]
pub struct Show {
    #[command(flatten)]
    client: ClientOptions,
    /// The run's id
    run: String,
}

impl Show {
    /// Reads and prints.
    pub async fn run(self, console: &mut Console<'_>) -> Result<ExitCode, String> {
        let mut client = RatingClient::new(self.client.channel().await?);
        let answer = client.run(&self.run).await.map_err(|failure| failure.to_string())?;
        let run = answer.run.as_ref();
        console.print(&fields::print(self.client.output, "rating.v1.GetRunResponse", &answer, run)?)?;
        Ok(ExitCode::SUCCESS)
    }
}
