//! `rater events`: metered events on their way to the service. `forward`, `status` and `resend`
//! are about a spool; `send` goes without one.
//!
//! `send` promises that what it counts as stored is stored, that sending the same file again
//! is always safe, and that whatever could not be stored is named by its line. Its exit code
//! is 0 only when every event of the input is stored.

mod forward;
mod input;
mod refusal;
mod resend;
mod status;

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use tokio::io::{AsyncBufRead, BufReader};

use self::input::{Batch, Input, InputError};
use super::client::ClientOptions;
use super::console::Console;
use super::fail;
use super::output::{Format, csv, json_line, printable, table};
use crate::grpc::client::events::EventSender;
use crate::grpc::client::{Channel, Failure};
use crate::proto::{RecordEventsRequest, RecordEventsResponse};

/// Metered events
#[derive(Debug, Clone, clap::Args)]
pub struct Events {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum Command {
    Send(Send),
    Forward(Box<forward::Forward>),
    Status(status::Status),
    Resend(resend::Resend),
}

/// Sends events to the service
///
/// The input is NDJSON: one BillingEvent a line, with the contract's field names. Sending it
/// again is always safe: what is stored counts as duplicates. A line that is no event ends the
/// command, with or without --skip-invalid. The exit code is 0 when every event is stored, and
/// 1 when any is not.
#[derive(Debug, Clone, clap::Args)]
pub struct Send {
    /// The file to send; - for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Stores the other events of a batch when some can never be stored, and names those on
    /// standard error
    #[arg(long, env = "RATER_SKIP_INVALID", value_parser = crate::cli::switch::Switch)]
    skip_invalid: bool,
    /// The most events in one call
    #[arg(long, env = "RATER_BATCH_SIZE", value_name = "EVENTS", default_value_t = 1_000,
        value_parser = clap::value_parser!(u16).range(1..=10_000))]
    batch_size: u16,
    /// How long a batch that gets no answer is tried again
    #[arg(long, env = "RATER_RETRY_FOR", value_name = "TIME", default_value = "60s",
        value_parser = super::duration::parse)]
    retry_for: Duration,
    #[command(flatten)]
    client: ClientOptions,
}

impl Events {
    /// Whether it keeps a log of its own, and tells of itself there.
    pub fn logs(&self) -> bool {
        matches!(self.command, Command::Forward(_) | Command::Resend(_))
    }

    /// Runs the command.
    pub async fn run(self) -> ExitCode {
        let send = match self.command {
            Command::Send(send) => send,
            Command::Forward(forward) => return ended(forward.run().await),
            Command::Status(status) => return ended(status.run(&mut Console::standard())),
            Command::Resend(resend) => return ended(resend.run(&mut Console::standard()).await),
        };
        match send.run().await {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                Console::standard().say_plain(&error);
                ExitCode::FAILURE
            }
        }
    }
}

/// One line of JSON with these fields, in their order.
fn json_object<'f>(fields: impl IntoIterator<Item = (&'f str, serde_json::Value)>) -> String {
    let fields = fields.into_iter().map(|(name, value)| format!("\"{name}\":{value}"));
    format!("{{{}}}\n", fields.collect::<Vec<_>>().join(","))
}

/// How a command of a spool ended.
fn ended(result: Result<ExitCode, String>) -> ExitCode {
    result.unwrap_or_else(|message| fail(&printable(&message)))
}

impl Send {
    async fn run(self) -> Result<bool, String> {
        let (name, file) = self.open()?;
        let channel = self.client.channel().await?;
        let input = BufReader::new(tokio::fs::File::from_std(file));
        self.send(&name, input, channel, Console::standard()).await
    }

    /// The input and its name in messages.
    fn open(&self) -> Result<(String, File), String> {
        let (name, file) = if self.file == Path::new("-") {
            ("stdin".to_string(), std::io::stdin().as_fd().try_clone_to_owned().map(File::from))
        } else {
            (printable(&self.file.display().to_string()), File::open(&self.file))
        };
        match file {
            Ok(file) => Ok((name, file)),
            Err(error) => Err(format!("{name}: {error}; name a file of events, or - for standard input")),
        }
    }

    /// Sends `input`, prints the totals, and says whether all of it is stored.
    async fn send(
        &self,
        name: &str,
        input: impl AsyncBufRead + Unpin,
        channel: Channel,
        console: Console<'_>,
    ) -> Result<bool, String> {
        let mut sending = Sending {
            name,
            totals: RecordEventsResponse::default(),
            rejected: 0,
            keep_rejected: self.client.output == Format::Json,
            console,
        };
        let complete = sending.all(self, Input::new(input), EventSender::new(channel, self.retry_for)).await;
        let text = summary(self.client.output, &sending.totals, sending.rejected)?;
        sending.console.print(&text)?;
        Ok(complete && sending.rejected == 0)
    }
}

/// What is on the way, and what has been done.
struct Sending<'a> {
    /// Of the input, for messages.
    name: &'a str,
    totals: RecordEventsResponse,
    rejected: i64,
    /// Only JSON prints each rejected event; else the memory that they take would grow with
    /// the input.
    keep_rejected: bool,
    console: Console<'a>,
}

impl Sending<'_> {
    /// Every batch of the input; false when it ended early.
    async fn all(
        &mut self,
        options: &Send,
        mut input: Input<impl AsyncBufRead + Unpin>,
        mut sender: EventSender,
    ) -> bool {
        let mut before = 0;
        loop {
            let Batch { events, lines } = match input.batch(options.batch_size.into()).await {
                Ok(batch) if batch.events.is_empty() => return true,
                Ok(batch) => batch,
                Err(error) => {
                    self.bad_line(&error);
                    return false;
                }
            };
            let request = RecordEventsRequest { events, skip_invalid: options.skip_invalid };
            let retry = |failure: &Failure| self.say(&retry_notice(failure, options.retry_for));
            match sender.send(request, retry).await {
                Ok(response) => self.done(response, before, &lines),
                Err(failure) => {
                    self.refused(&failure, &lines, options.skip_invalid);
                    return false;
                }
            }
            before += lines.len();
        }
    }

    /// Adds a batch up; `before` events of the input came before it.
    fn done(&mut self, response: RecordEventsResponse, before: usize, lines: &[u64]) {
        self.totals.stored += response.stored;
        self.totals.duplicates += response.duplicates;
        for mut rejected in response.rejected {
            self.rejected += 1;
            let index = usize::try_from(rejected.index).unwrap_or(usize::MAX);
            let line = lines.get(index).map_or_else(|| "?".into(), u64::to_string);
            self.say(&format!(
                "{}:{line}: rejected: {} {} (request_id \"{}\")",
                self.name, rejected.field, rejected.reason, rejected.request_id
            ));
            if self.keep_rejected {
                rejected.index = i32::try_from(before.saturating_add(index)).unwrap_or(i32::MAX);
                self.totals.rejected.push(rejected);
            }
        }
    }

    fn bad_line(&mut self, error: &InputError) {
        let stored = self.stored_so_far();
        self.say(&format!("{}:{}: {}; {stored}", self.name, error.line, error.what));
    }

    fn refused(&mut self, failure: &Failure, lines: &[u64], skip_invalid: bool) {
        let stored = self.stored_so_far();
        for line in refusal::explain(self.name, failure, lines, skip_invalid, &stored) {
            self.say(&line);
        }
    }

    /// What a person needs to know after an early end.
    fn stored_so_far(&self) -> String {
        format!(
            "{} stored and {} duplicates before; send the input again once that is mended: what is stored counts \
             as duplicates then",
            self.totals.stored, self.totals.duplicates
        )
    }

    fn say(&mut self, line: &str) {
        self.console.say_plain(line);
    }
}

fn retry_notice(failure: &Failure, retry_for: Duration) -> String {
    format!("{failure}; trying again for up to {retry_for:?}")
}

/// The totals, as they are printed.
fn summary(format: Format, totals: &RecordEventsResponse, rejected: i64) -> Result<String, String> {
    let headers = ["stored", "duplicates", "rejected"];
    let row = vec![totals.stored.to_string(), totals.duplicates.to_string(), rejected.to_string()];
    match format {
        Format::Table => Ok(table(&headers, &[row]) + "\n"),
        Format::Csv => csv(&headers, &[row]),
        Format::Json => Ok(json_line("rating.v1.RecordEventsResponse", totals)? + "\n"),
    }
}

#[cfg(test)]
mod tests;
