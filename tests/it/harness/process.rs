//! A process of ours that runs in the background, watched by its log.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

const POLL: Duration = Duration::from_millis(5);

/// A running process, killed when it is dropped.
pub struct Process {
    child: Child,
    logs: Arc<Mutex<Vec<Value>>>,
    stdout: Arc<Mutex<String>>,
}

impl Process {
    /// Starts one and reads its log, a JSON line each, and what it prints.
    pub fn spawn(mut command: Command) -> Process {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let logs = Arc::new(Mutex::new(Vec::new()));
        let (stderr, mut pipe) = (child.stderr.take().unwrap(), child.stdout.take().unwrap());
        let kept = logs.clone();
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let entry = serde_json::from_str(&line).unwrap_or_else(|_| json!({ "unparsed": line }));
                kept.lock().unwrap().push(entry);
            }
        });
        let stdout = Arc::new(Mutex::new(String::new()));
        let printed = stdout.clone();
        thread::spawn(move || {
            let mut text = String::new();
            drop(pipe.read_to_string(&mut text));
            *printed.lock().unwrap() = text;
        });
        Process { child, logs, stdout }
    }

    /// Every line that it has logged so far; one that is not JSON under `unparsed`.
    pub fn logs(&self) -> Vec<Value> {
        self.logs.lock().unwrap().clone()
    }

    /// What it has printed, once it has ended.
    pub fn stdout(&self) -> String {
        self.stdout.lock().unwrap().clone()
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

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// SIGKILL, unless it has ended already.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits until it has ended; panics when it does not.
    pub async fn wait(&mut self, within: Duration) -> ExitStatus {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(Instant::now() < deadline, "still running: {:#?}", self.logs());
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has ended already, or ends now.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A field of a log line, which may stand under `fields`.
pub fn field<'a>(line: &'a Value, name: &str) -> &'a Value {
    line.get(name).unwrap_or(&line["fields"][name])
}
