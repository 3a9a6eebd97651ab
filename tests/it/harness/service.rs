//! The service: the real binary on free ports, watched by its log.

use std::process::{Command, ExitStatus};
use std::time::Duration;

use nix::sys::signal::Signal;
use rater::proto::event_service_client::EventServiceClient;
use rater::proto::rating_service_client::RatingServiceClient;
use serde_json::Value;
use tonic::transport::{Channel, Endpoint};

use super::command::rater;
use super::process::{Process, field};

const LISTENS_WITHIN: Duration = Duration::from_secs(60);

/// A running `rater serve`, killed when it is dropped.
pub struct Service {
    process: Process,
    address: String,
    admin_address: String,
}

impl Service {
    /// Starts one on a database and waits until it listens.
    pub async fn start(database_url: &str, arguments: &[&str]) -> Service {
        Service::start_at("127.0.0.1:0", database_url, arguments).await
    }

    /// The same with an environment.
    pub async fn start_in(environment: &[(&str, &str)], database_url: &str, arguments: &[&str]) -> Service {
        let mut command = rater();
        command.args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
        command.args(arguments).env("RATER_DATABASE_URL", database_url);
        command.envs(environment.iter().copied());
        Service::spawn(command).await
    }

    /// The same where another one listened, which is gone.
    pub async fn start_at(address: &str, database_url: &str, arguments: &[&str]) -> Service {
        let mut command = rater();
        command.args(["serve", "--listen", address, "--admin-listen", "127.0.0.1:0"]);
        command.args(arguments).env("RATER_DATABASE_URL", database_url);
        Service::spawn(command).await
    }

    /// The same from a command that says when it listens.
    async fn spawn(command: Command) -> Service {
        let process = Process::spawn(command);
        let mut service = Service { process, address: String::new(), admin_address: String::new() };
        let listening = service.wait_for_log("listening", LISTENS_WITHIN).await;
        let text = |name: &str| field(&listening, name).as_str().unwrap_or_default().to_string();
        (service.address, service.admin_address) = (text("address"), text("admin_address"));
        service
    }

    /// Every line that it has logged so far; one that is not JSON under `unparsed`.
    pub fn logs(&self) -> Vec<Value> {
        self.process.logs()
    }

    /// The first line with this message; panics with everything logged when none comes.
    pub async fn wait_for_log(&mut self, message: &str, within: Duration) -> Value {
        self.process.wait_for_log(message, within).await
    }

    /// `127.0.0.1:port` of the gRPC server.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// `127.0.0.1:port` of the admin page.
    pub fn admin_address(&self) -> &str {
        &self.admin_address
    }

    /// For `RATER_SERVER`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.ended()
    }

    /// Waits until it has ended; panics when it does not.
    pub async fn wait(&mut self, within: Duration) -> ExitStatus {
        self.process.wait(within).await
    }

    /// A connection of its own to the service.
    pub async fn channel(&self) -> Channel {
        Endpoint::from_shared(self.url()).unwrap().connect().await.unwrap()
    }

    pub async fn client_rating(&self) -> RatingServiceClient<Channel> {
        RatingServiceClient::new(self.channel().await)
    }

    pub async fn client_events(&self) -> EventServiceClient<Channel> {
        EventServiceClient::new(self.channel().await)
    }
}

#[tokio::test]
async fn the_harness_finds_where_a_service_listens_and_stops_it() {
    let line = r#"{"fields":{"message":"listening","address":"127.0.0.1:1","admin_address":"127.0.0.1:2"}}"#;
    let mut command = Command::new("sh");
    command.args(["-c", "echo started >&2; echo \"$0\" >&2; exec sleep 100", line]);
    let mut service = Service::spawn(command).await;
    assert_eq!((service.address(), service.admin_address()), ("127.0.0.1:1", "127.0.0.1:2"));
    assert_eq!(service.logs()[0]["unparsed"], "started");
    service.signal(Signal::SIGTERM);
    assert_eq!(service.wait(Duration::from_secs(10)).await.code(), None);
}
