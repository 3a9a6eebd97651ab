//! The service: the real binary on free ports, watched by its log.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rater::proto::event_service_client::EventServiceClient;
use rater::proto::rating_service_client::RatingServiceClient;
use serde_json::{Value, json};
use tonic::transport::{Channel, Endpoint};

use super::command::rater;

const LISTENS_WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);

/// A running `rater serve`, killed when it is dropped.
pub struct Service {
    child: Child,
    logs: Arc<Mutex<Vec<Value>>>,
    address: String,
    admin_address: String,
}

impl Service {
    /// Starts one on a database and waits until it listens.
    pub async fn start(database_url: &str, arguments: &[&str]) -> Service {
        let mut command = rater();
        command.args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
        command.args(arguments).env("RATER_DATABASE_URL", database_url);
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
    async fn spawn(mut command: Command) -> Service {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let logs = Arc::new(Mutex::new(Vec::new()));
        let stderr = child.stderr.take().unwrap();
        let kept = logs.clone();
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let entry = serde_json::from_str(&line).unwrap_or_else(|_| json!({ "unparsed": line }));
                kept.lock().unwrap().push(entry);
            }
        });
        let mut service = Service { child, logs, address: String::new(), admin_address: String::new() };
        let listening = service.wait_for_log("listening", LISTENS_WITHIN).await;
        let text = |name: &str| field(&listening, name).as_str().unwrap_or_default().to_string();
        (service.address, service.admin_address) = (text("address"), text("admin_address"));
        service
    }

    /// Every line that it has logged so far; one that is not JSON under `unparsed`.
    pub fn logs(&self) -> Vec<Value> {
        self.logs.lock().unwrap().clone()
    }

    /// The first line with this message; panics with everything logged when none comes.
    pub async fn wait_for_log(&mut self, message: &str, within: Duration) -> Value {
        let deadline = Instant::now() + within;
        loop {
            // Before the log: what a process says last is still read after its end.
            let ended = self.child.try_wait().unwrap();
            if let Some(found) = self.logs().into_iter().find(|line| *field(line, "message") == message) {
                return found;
            }
            if ended.is_some() {
                tokio::time::sleep(POLL * 20).await;
            }
            let over = ended.is_some() || Instant::now() > deadline;
            assert!(!over, "no `{message}` in the log ({ended:?}): {:#?}", self.logs());
            tokio::time::sleep(POLL).await;
        }
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
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Waits until it has ended; panics when it does not.
    pub async fn wait(&mut self, within: Duration) -> ExitStatus {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "still running: {:#?}", self.logs());
            tokio::time::sleep(POLL).await;
        }
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

impl Drop for Service {
    fn drop(&mut self) {
        // It has ended already, or ends now.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A field of a log line, which may stand under `fields`.
fn field<'a>(line: &'a Value, name: &str) -> &'a Value {
    line.get(name).unwrap_or(&line["fields"][name])
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
