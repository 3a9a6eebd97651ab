//! `rater health`: for probes. Exit code 0 when the service serves, 1 when not.

use std::process::ExitCode;
use std::time::Duration;

use super::client::ClientOptions;
use super::{fail, print};
use crate::grpc::client::health::serving;

/// Ask a service whether it serves
#[derive(Debug, clap::Args)]
pub struct Health {
    #[command(flatten)]
    client: ClientOptions,
    /// One service of it, such as rating.v1.RatingService
    #[arg(long, env = "RATER_HEALTH_SERVICE", default_value = "", hide_default_value = true)]
    service: String,
    /// How long to wait for the answer
    #[arg(long, env = "RATER_HEALTH_TIMEOUT", default_value = "5s", value_parser = super::duration::parse)]
    timeout: Duration,
}

impl Health {
    /// Asks.
    pub async fn run(self) -> ExitCode {
        let answer = tokio::time::timeout(self.timeout, async {
            let channel = self.client.channel().await?;
            serving(channel, &self.service).await.map_err(|failure| failure.to_string())
        });
        match answer.await {
            Ok(Ok(true)) => print("SERVING\n", ExitCode::SUCCESS),
            Ok(Ok(false)) => print("NOT_SERVING\n", ExitCode::FAILURE),
            Ok(Err(message)) => fail(&message),
            Err(_) => fail(&format!("no answer from {} within {:?}", self.client.server(), self.timeout)),
        }
    }
}
