//! Commands run against a service that answers from a script, for their tests.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use super::console::Console;
use super::group::Group;
use crate::grpc::client::scripted::rating::{Script, ScriptedRating, serve};

#[derive(Parser)]
struct Cli<C: Subcommand> {
    #[command(subcommand)]
    command: C,
}

/// How a command ended, and what it said.
pub struct Ran {
    /// Its exit code, or why it failed.
    pub ended: Result<ExitCode, String>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
    /// What it asked.
    pub service: ScriptedRating,
}

/// Parses `arguments`, of which the first is a command.
pub fn parse<C: Subcommand>(arguments: &[&str]) -> Result<C, clap::Error> {
    Cli::try_parse_from([&["rater"], arguments].concat()).map(|cli| cli.command)
}

/// Runs a command of the group, and catches what it says.
pub async fn run<C: Group + Subcommand>(script: Script, arguments: &[&str]) -> Ran {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let (ended, service) = run_on::<C>(script, arguments, Console::to(&mut out, &mut err)).await;
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Ran { ended, out: text(out), err: text(err), service }
}

/// Runs a command of the group on a console.
pub async fn run_on<C: Group + Subcommand>(
    script: Script,
    arguments: &[&str],
    mut console: Console<'_>,
) -> (Result<ExitCode, String>, ScriptedRating) {
    let service = serve(script).await;
    let url = service.server().url;
    let command = parse::<C>(&[arguments, &["--server", &url]].concat()).expect("valid arguments");
    (command.run(&mut console).await, service)
}
