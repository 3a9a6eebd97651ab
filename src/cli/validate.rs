//! `rater validate FILE`: checks a pricebook offline, without a service or a database.
//!
//! Every finding is one line on standard output, by place, and nothing else is: as
//! `FILE:LINE:COLUMN: severity: message [code]`, which editors jump to, or as the contract's
//! `Diagnostic` in JSON. The exit code is 0 for a valid pricebook, with or without warnings,
//! and 1 for one that is refused or can't be read.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;

use super::{fail, print};
use crate::domain::pricebook::{self, Diagnostic, DiagnosticSeverity, MAX_BYTES};

/// Checks a pricebook offline and prints everything that is wrong with it.
#[derive(Debug, clap::Args)]
pub struct Validate {
    /// The pricebook to check.
    pub file: PathBuf,
    /// How findings are printed.
    #[arg(short, long, env = "RATER_VALIDATE_OUTPUT", value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// How findings are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// FILE:LINE:COLUMN: severity: message [code]
    Text,
    /// One JSON object a line.
    Json,
}

impl Validate {
    /// Runs the command.
    pub fn run(self) -> ExitCode {
        let name = self.file.display();
        let bytes = match read(&self.file) {
            Ok(bytes) => bytes,
            Err(error) => return fail(&format!("can't read the pricebook {name}: {error}")),
        };
        let parsed = pricebook::parse_bytes(&bytes);
        let code = if parsed.book.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        match lines(&name.to_string(), self.output, &parsed.diagnostics) {
            Ok(text) => print(&text, code),
            Err(error) => fail(&format!("can't print the findings: {error}")),
        }
    }
}

/// At most one byte more than a pricebook may have, so that no device or dump fills memory.
pub(super) fn read(file: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(file)?.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The contract's `Diagnostic` in proto3's JSON mapping.
#[derive(Serialize)]
struct Json<'d> {
    severity: &'static str,
    code: &'static str,
    message: &'d str,
    #[serde(skip_serializing_if = "str::is_empty")]
    path: &'d str,
    line: u32,
    column: u32,
}

fn lines(file: &str, output: Output, diagnostics: &[Diagnostic]) -> Result<String, serde_json::Error> {
    let line = |d: &Diagnostic| match output {
        Output::Text => Ok(format!("{file}:{d}\n")),
        Output::Json => {
            let severity = match d.severity {
                DiagnosticSeverity::Warning => "SEVERITY_WARNING",
                DiagnosticSeverity::Error => "SEVERITY_ERROR",
            };
            let Diagnostic { code, message, path, line, column, .. } = d;
            let json = Json { severity, code, message, path, line: *line, column: *column };
            Ok(serde_json::to_string(&json)? + "\n")
        }
    };
    diagnostics.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BAD: &str =
        "version: 2\nbase_models:\n  m: {prompt: \"0.0000000000015\", cached: 1e-7, completion: \"0\"}\n";
    const GOOD: &str = "version: 1\nbase_models:\n  m: {prompt: \"1\", cached: \"0\", completion: \"0\"}\n";

    fn printed(yaml: &str, output: Output) -> String {
        lines("prices.yaml", output, &pricebook::parse(yaml).diagnostics).expect("JSON")
    }

    fn exit(bytes: &[u8]) -> ExitCode {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("prices.yaml");
        std::fs::write(&file, bytes).expect("a file");
        Validate { file, output: Output::Text }.run()
    }

    #[test]
    fn findings_are_lines_that_editors_jump_to_by_place() {
        let printed = printed(BAD, Output::Text);
        let lines: Vec<&str> = printed.lines().collect();
        assert_eq!(lines.len(), 3, "{printed}");
        assert!(lines[0].starts_with("prices.yaml:1:10: error: an unknown version"), "{printed}");
        assert!(lines[0].ends_with(" [unknown_version]"), "{printed}");
        assert!(lines[1].starts_with("prices.yaml:3:15: warning: the rate 0.0000000000015"), "{printed}");
        assert!(lines[2].starts_with("prices.yaml:3:42: error: the rate is not quoted"), "{printed}");
    }

    #[test]
    fn json_is_the_contracts_diagnostic() {
        let printed = printed(BAD, Output::Json);
        let first = printed.lines().nth(2).expect("three lines");
        let value: serde_json::Value = serde_json::from_str(first).expect("JSON");
        assert_eq!(value["severity"], "SEVERITY_ERROR");
        assert_eq!(value["code"], "unquoted_rate");
        assert_eq!(value["path"], "base_models.m.cached");
        assert_eq!((value["line"].as_u64(), value["column"].as_u64()), (Some(3), Some(42)));
    }

    #[test]
    fn a_valid_pricebook_prints_nothing() {
        assert_eq!(printed(GOOD, Output::Text), "");
    }

    #[test]
    fn the_exit_code_is_1_for_errors_alone() {
        let warned = GOOD.replace("\"1\"", "\"0.0000000000015\"");
        assert_eq!(exit(GOOD.as_bytes()), ExitCode::SUCCESS);
        assert_eq!(exit(warned.as_bytes()), ExitCode::SUCCESS);
        assert_eq!(exit(BAD.as_bytes()), ExitCode::FAILURE);
        assert_eq!(exit(b"version: \xff"), ExitCode::FAILURE);
        assert_eq!(exit(&vec![b'#'; MAX_BYTES * 2]), ExitCode::FAILURE);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_exit_code_1() {
        let missing = Validate { file: PathBuf::from("/nowhere/prices.yaml"), output: Output::Text };
        assert_eq!(missing.run(), ExitCode::FAILURE);
        let folder = tempfile::tempdir().expect("a folder");
        let folder = Validate { file: folder.path().to_owned(), output: Output::Text };
        assert_eq!(folder.run(), ExitCode::FAILURE);
    }
}
