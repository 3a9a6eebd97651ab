//! The command line, as an operator runs it.

use std::io::Write;
use std::process::{Command, ExitStatus, Stdio};

/// What a command did.
#[derive(Debug)]
pub struct Output {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// The exit code; a signal has none.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }
}

/// The binary, in an environment without settings of ours from the outside.
pub fn rater() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rater"));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        let ours = ["RATER_", "PG", "OTEL_", "TRACE"].iter().any(|prefix| name.starts_with(prefix));
        if ours || name == "DATABASE_URL" {
            command.env_remove(&*name);
        }
    }
    command
}

/// Runs `rater` to its end against a server (`http://127.0.0.1:50051`, or empty where it
/// needs none). Blocks: on a single-threaded runtime nothing else moves meanwhile.
pub fn run(server: &str, arguments: &[&str]) -> Output {
    run_in(&[("RATER_SERVER", server)], arguments, "")
}

/// The same with an environment and something on standard input. A variable that is set to
/// nothing is left out.
pub fn run_in(environment: &[(&str, &str)], arguments: &[&str], input: &str) -> Output {
    let mut child = rater()
        .args(arguments)
        .envs(environment.iter().copied().filter(|(_, value)| !value.is_empty()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_string();
    // From a thread: both sides may wait for the other on a full pipe.
    let write = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let output = child.wait_with_output().unwrap();
    write.join().unwrap();
    Output {
        status: output.status,
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}
