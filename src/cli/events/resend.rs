//! `rater events resend`: what a forwarder has shipped and still keeps, once more, to a database
//! that was restored from a backup.

use std::path::PathBuf;
use std::process::ExitCode;

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use super::json_object;
use crate::cli::client::ClientOptions;
use crate::cli::console::Console;
use crate::cli::output::{Format, csv, table};
use crate::cli::{signals, time};
use crate::dead_letters::Refused;
use crate::forwarder::{Again, Resent, resend};
use crate::telemetry::{self, LogFormat};

/// Sends again what was shipped and is still kept
///
/// For a database that was restored from a backup. What it has already counts as duplicates. What
/// the service refuses is named on standard error and passed over: it makes no dead letter, since
/// the one that it had may be mended or dropped by now. It works beside a running forwarder, which
/// keeps what it ships for as long as its --retain says. The exit code is 0 when all of it is
/// stored, and 1 when any is not, or when some was damaged or is not kept any more.
#[derive(Debug, Clone, clap::Args)]
pub struct Resend {
    /// The folder of the spool
    #[arg(long, env = "RATER_SPOOL", value_name = "DIR")]
    spool: PathBuf,
    /// Only what was shipped, or taken into the spool, at this time or later
    #[arg(long, env = "RATER_SINCE", value_name = "TIME", value_parser = time::parse)]
    since: Option<DateTime<Utc>>,
    /// At most so many events a second, so that a database that just recovered isn't flooded
    #[arg(long, env = "RATER_RATE", value_name = "N/s", value_parser = rate)]
    rate: Option<u32>,
    /// The most events in one call
    #[arg(long, env = "RATER_BATCH_SIZE", value_name = "EVENTS", default_value_t = 1_000)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=10_000))]
    batch_size: u16,
    #[command(flatten)]
    client: ClientOptions,
}

/// `100` or `100/s`.
fn rate(text: &str) -> Result<u32, String> {
    let number = text.strip_suffix("/s").unwrap_or(text).parse().ok();
    number.filter(|rate| *rate > 0).ok_or_else(|| "write how many events a second, such as 100".into())
}

impl Resend {
    /// Sends, prints the totals, and says whether all of it is stored.
    pub async fn run(self, console: &mut Console<'_>) -> Result<ExitCode, String> {
        let channel = self.client.channel().await?;
        // Trouble on the way is told like the forwarder's.
        drop(telemetry::init(LogFormat::Text, "warn"));
        let (stop, told) = (CancellationToken::new(), signals::stop());
        let stopping = stop.clone();
        tokio::spawn(async move {
            told.await;
            stopping.cancel();
        });
        let again =
            Again { since: self.since.map(Into::into), rate: self.rate, batch_size: self.batch_size.into() };
        let tell = |refused: &Refused| Console::standard().say(&refusal(refused));
        let resent = resend(&self.spool, again, channel, tell, stop).await;
        let resent = resent.map_err(|error| format!("--spool: {error}"))?;
        console.print(&summary(self.client.output, &resent)?)?;
        for what in &resent.unreadable {
            console.say(what);
        }
        if !resent.complete {
            console.say("stopped before the end; what was sent counts as duplicates the next time");
        }
        let well = resent.complete && resent.unreadable.is_empty() && resent.refused == 0;
        Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Which event is not stored, and why.
fn refusal(refused: &Refused) -> String {
    let Refused { content, field, reason, message, .. } = refused;
    let what = [field, reason, message].map(String::as_str).into_iter().filter(|text| !text.is_empty());
    let what = what.collect::<Vec<_>>().join(" ");
    format!("refused: {what} (request_id \"{}\")", content.request_id().unwrap_or_default())
}

fn summary(format: Format, resent: &Resent) -> Result<String, String> {
    let headers = ["stored", "duplicates", "refused"];
    let numbers = [resent.stored, resent.duplicates, resent.refused];
    let row = numbers.map(|number| number.to_string()).to_vec();
    match format {
        Format::Table => Ok(table(&headers, &[row]) + "\n"),
        Format::Csv => csv(&headers, &[row]),
        Format::Json => Ok(json_object(headers.into_iter().zip(numbers.map(Into::into)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_of_events_a_second() {
        assert_eq!([rate("100"), rate("7/s")], [Ok(100), Ok(7)]);
        for wrong in ["", "0", "-1", "1.5", "10/m", "/s"] {
            assert!(rate(wrong).is_err(), "{wrong:?}");
        }
    }
}
