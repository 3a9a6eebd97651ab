//! The service itself: an optimised build, in a process of its own.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use chrono::{DateTime, Utc};
use rater::domain::window::Window;
use rater::grpc::client::{Channel, Server, connect};
use rater::proto::RateWindowRequest;

use super::Outcome;

/// The service, killed when it is dropped.
pub struct Service {
    child: Child,
    address: String,
}

impl Service {
    pub fn start(url: &str, pricebook: &Path) -> Outcome<Service> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_rater"))
            .args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--pricebook"])
            .arg(pricebook)
            .env("RATER_DATABASE_URL", url)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let log = BufReader::new(child.stderr.take().ok_or("no log")?);
        let mut service = Service { child, address: String::new() };
        let mut lines = log.lines().map_while(Result::ok);
        for line in &mut lines {
            let line: serde_json::Value = serde_json::from_str(&line)?;
            if line["message"] == "listening" {
                service.address = line["address"].as_str().unwrap_or_default().to_owned();
                break;
            }
        }
        // Read on, or the service would wait for a reader of its log.
        std::thread::spawn(move || lines.for_each(drop));
        if service.address.is_empty() { Err("the service did not start".into()) } else { Ok(service) }
    }

    pub async fn connect(&self) -> Outcome<Channel> {
        Ok(connect(&Server { url: format!("http://{}", self.address), ..Server::default() }).await?)
    }

    /// The most memory that was resident so far, in MiB.
    pub fn peak(&self) -> Outcome<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
        let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kib / 1024.0)
    }

    pub fn stop(&mut self) -> Outcome<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It has ended already, or ends now.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// To rate a window, under an id of its own.
pub fn rate(window: Window) -> RateWindowRequest {
    RateWindowRequest {
        since: Some(timestamp(window.start)),
        until: Some(timestamp(window.end)),
        request_id: uuid::Uuid::new_v4().to_string(),
        ..RateWindowRequest::default()
    }
}

pub fn timestamp(time: DateTime<Utc>) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: time.timestamp(), nanos: 0 }
}
