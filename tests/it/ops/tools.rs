//! Programs that are not ours, by the scripts that know where they are. `make lint` brings them;
//! without one a test says that it showed nothing, or fails where they are required (`.ci/run`).

use std::process::Command;

use super::file;
use crate::harness::{Output, skipped};

/// A script's answer; `None` where the program behind it is not there.
pub fn tool(test: &str, script: &str, arguments: &[&str]) -> Option<Output> {
    let output = Command::new(file(script))
        .args(arguments)
        .current_dir(file(""))
        .output()
        .unwrap_or_else(|error| panic!("{script}: {error}"));
    let output = Output {
        status: output.status,
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    };
    if output.code() == Some(127) {
        let required = std::env::var_os("RATER_REQUIRE_TOOLS").is_some_and(|value| value == "1");
        assert!(!required, "{script}: {}", output.stderr);
        skipped(test, output.stderr.trim());
        return None;
    }
    Some(output)
}
