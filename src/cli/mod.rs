//! The command line, one file a command. What a command prints on standard output is its
//! result and nothing else; an error is one line on standard error.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use tracing::Instrument;

use crate::telemetry;

pub mod audit;
pub mod bytes;
pub mod client;
pub mod console;
pub mod database;
pub mod dead_letters;
pub mod duration;
pub mod events;
pub mod filter;
mod follow;
mod group;
pub mod health;
mod job;
pub mod migrate;
pub mod output;
pub mod progress;
pub mod rate;
pub mod retention;
pub mod rows;
pub mod runs;
#[cfg(test)]
mod scripted;
pub mod serve;
mod signals;
mod switch;
mod time;
pub mod usage;
pub mod validate;
mod words;

/// How long the last telemetry may take on its way out.
const FLUSH_WITHIN: Duration = Duration::from_secs(5);

/// Exact, explainable usage rating for LLM platforms
#[derive(Debug, Parser)]
#[command(name = "rater", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(Box<serve::Serve>),
    Migrate(migrate::Migrate),
    Rate(Box<rate::Rate>),
    Runs(runs::Runs),
    Audit(Box<audit::Audit>),
    Retention(retention::Retention),
    Validate(validate::Validate),
    Usage(usage::Usage),
    Events(events::Events),
    DeadLetters(dead_letters::DeadLetters),
    Health(health::Health),
}

/// Runs the command that the process was started with. Exit codes: 0 fine, 1 failed, 2 rated
/// with findings of severity ERROR, 130 left by Ctrl-C. A wrong command line is 1, too: 2 has its
/// own meaning.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let failed = error.use_stderr();
            // A closed pipe has nobody to tell.
            let _ = error.print();
            return if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("can't start: {error}")),
    };
    let code = runtime.block_on(async {
        let code = cli.command.told().await;
        telemetry::shutdown(FLUSH_WITHIN).await;
        code
    });
    // What blocks, such as a read of a terminal, must not hold the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    code
}

impl Command {
    /// Runs it inside of a span, where it calls a service and traces are exported.
    async fn told(self) -> ExitCode {
        let Some(name) = self.traced_as() else { return self.run().await };
        if let Err(error) = telemetry::init_for_command() {
            return fail(&error.to_string());
        }
        let span = tracing::info_span!("command", otel.name = name);
        telemetry::started_by(&span);
        self.run().instrument(span).await
    }

    /// None: it has a log of its own, or must be done at once, as probes are.
    fn traced_as(&self) -> Option<&'static str> {
        match self {
            Command::Rate(_) => Some("rater rate"),
            Command::Runs(_) => Some("rater runs"),
            Command::Usage(_) => Some("rater usage"),
            Command::Events(events) => (!events.logs()).then_some("rater events"),
            Command::DeadLetters(_) => Some("rater dead-letters"),
            Command::Serve(_)
            | Command::Migrate(_)
            | Command::Audit(_)
            | Command::Retention(_)
            | Command::Validate(_)
            | Command::Health(_) => None,
        }
    }

    async fn run(self) -> ExitCode {
        match self {
            Command::Serve(serve) => serve.run().await,
            Command::Migrate(migrate) => migrate.run().await,
            Command::Rate(rate) => rate.run().await,
            Command::Runs(runs) => runs.run().await,
            Command::Audit(audit) => audit.run().await,
            Command::Retention(retention) => retention.run().await,
            Command::Validate(validate) => validate.run(),
            Command::Usage(usage) => usage.run().await,
            Command::Events(events) => events.run().await,
            Command::DeadLetters(letters) => letters.run().await,
            Command::Health(health) => health.run().await,
        }
    }
}

/// A result on standard output, and how the command ends with it.
fn print(text: &str, code: ExitCode) -> ExitCode {
    match console::Console::standard().print(text) {
        Ok(_) => code,
        Err(message) => fail(&message),
    }
}

/// One line on standard error, and exit code 1.
fn fail(message: &str) -> ExitCode {
    console::Console::standard().say(message);
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use clap::{ArgAction, CommandFactory};

    use super::*;

    #[test]
    fn every_switch_takes_what_people_write() {
        let mut commands = vec![Cli::command()];
        let mut switches = 0;
        while let Some(command) = commands.pop() {
            commands.extend(command.get_subcommands().cloned());
            let all = command.get_arguments();
            for switch in all.filter(|argument| matches!(argument.get_action(), ArgAction::SetTrue)) {
                let parser = switch.get_value_parser().clone();
                let one = clap::Arg::new("one").value_parser(parser);
                let reads = |text: &str| {
                    let read = clap::Command::new("").no_binary_name(true).arg(one.clone());
                    read.try_get_matches_from([text]).map(|found| found.get_one::<bool>("one").copied())
                };
                let name = format!("{} --{}", command.get_name(), switch.get_id());
                for (text, expected) in
                    [("1", true), ("true", true), ("yes", true), ("0", false), ("no", false), ("", false)]
                {
                    assert_eq!(reads(text).ok(), Some(Some(expected)), "{name} is {text:?}");
                }
                assert!(reads("perhaps").is_err(), "{name}");
                switches += 1;
            }
        }
        assert!(switches >= 10, "only {switches} were looked at");
    }

    #[test]
    fn every_option_has_an_environment_variable_of_ours() {
        let mut commands = vec![Cli::command()];
        let mut options = 0;
        while let Some(command) = commands.pop() {
            commands.extend(command.get_subcommands().cloned());
            for option in command.get_arguments().filter(|argument| argument.get_long().is_some()) {
                let variable = option.get_env().map(|name| name.to_string_lossy().into_owned());
                let named = variable.is_some_and(|name| name.starts_with("RATER_"));
                assert!(named, "{} --{}", command.get_name(), option.get_id());
                options += 1;
            }
        }
        assert!(options > 50, "only {options} were looked at");
    }
}
