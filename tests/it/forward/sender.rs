//! The sender: the real binary over a spool, as a daemon with a socket or to its end.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Output, Process, field, rater, run, run_in};

const SOON: Duration = Duration::from_secs(30);

/// Where a sender keeps its spool and listens, and where it sends to.
#[derive(Debug, Clone)]
pub struct Place {
    pub spool: PathBuf,
    pub socket: PathBuf,
    /// `http://…`
    pub server: String,
}

impl Place {
    pub fn below(dir: &Path, server: &str) -> Place {
        Place { spool: dir.join("spool"), socket: dir.join("socket"), server: server.into() }
    }

    /// A sender with the socket, not waited for.
    pub fn spawn(&self, arguments: &[&str]) -> Process {
        let mut command = self.command();
        command.arg("--listen-socket").arg(&self.socket).args(arguments);
        Process::spawn(command)
    }

    /// The same once it listens.
    pub async fn start(&self, arguments: &[&str]) -> Process {
        let mut sender = self.spawn(arguments);
        sender.wait_for_log("listening", SOON).await;
        sender
    }

    /// `rater events forward` on this spool.
    pub fn command(&self) -> Command {
        let mut command = rater();
        command.args(["events", "forward", "--spool"]).arg(&self.spool);
        // The disks of these proofs are smaller than what is left free by default.
        command.env("RATER_SERVER", &self.server).env("RATER_RESERVE_BYTES", "0");
        command
    }

    /// Reads this input into the spool, ships everything, and ends. Blocks.
    pub fn forward(&self, arguments: &[&str], input: &str) -> Output {
        let spool = self.spool.to_str().unwrap();
        let all = [&["events", "forward", "--spool", spool, "-o", "json"], arguments].concat();
        run_in(&[("RATER_SERVER", &self.server), ("RATER_RESERVE_BYTES", "0")], &all, input)
    }

    /// Ships what is left, without a socket, until nothing is. Letters make it end with 1.
    pub async fn drain(&self) -> Value {
        let place = self.clone();
        let output = tokio::task::spawn_blocking(move || place.forward(&[], "")).await.unwrap();
        assert!(matches!(output.code(), Some(0 | 1)), "{output:?}");
        let totals: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        assert_eq!(number(&totals, "left"), 0, "{output:?}");
        totals
    }

    /// What `rater events status` says, and its exit code with standard error.
    pub fn status(&self) -> (Value, Output) {
        let spool = self.spool.to_str().unwrap();
        let output = run("", &["events", "status", "--spool", spool, "-o", "json"]);
        let value = serde_json::from_str(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        (value, output)
    }

    /// The segments that are not shipped, by name, with their sizes.
    pub fn segments(&self) -> Vec<(String, u64)> {
        files(&self.spool.join("segments"))
    }
}

/// The files in a folder with their sizes, by name; none when it is not there.
pub fn files(folder: &Path) -> Vec<(String, u64)> {
    let mut found: Vec<(String, u64)> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        // One may go meanwhile.
        .filter_map(|file| Some((file.file_name().into_string().ok()?, file.metadata().ok()?.len())))
        .collect();
    found.sort();
    found
}

/// A number in JSON, which the proto3 mapping may write as text.
pub fn number(value: &Value, name: &str) -> u64 {
    let found = &value[name];
    found.as_u64().or_else(|| found.as_str()?.parse().ok()).unwrap_or_else(|| panic!("no {name} in {value}"))
}

/// The lines of a log that are more than information.
pub fn complaints(sender: &Process) -> Vec<Value> {
    sender
        .logs()
        .into_iter()
        .filter(|line| matches!(field(line, "level").as_str(), Some("WARN" | "ERROR")))
        .collect()
}
