//! `rater dead-letters replay`: sends letters again, at a pace that a service which has just come
//! back can bear. What is stored is no letter any more; what is refused again goes back with its
//! history; trouble that is not the event's own ends it and leaves the letters as they are.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use self::sending::{Sending, Totals};
use super::words::print;
use super::{Spool, chosen};
use crate::cli::client::ClientOptions;
use crate::cli::console::Console;
use crate::cli::signals;
use crate::dead_letters::{DeadLetters, Error};
use crate::forwarder::Pace;
use crate::grpc::client::Failure;
use crate::grpc::client::events::EventSender;
use crate::proto::{BillingEvent, RecordEventsRequest};

mod sending;

/// Send letters again
///
/// What is stored, or was already, is no letter any more; what is refused again stays one, with one
/// more try in its history. When the service or the database is in trouble for longer than
/// --retry-for, the replay ends and the letters stay as they are. Replaying again is always safe.
/// The exit code is 0 when every letter that was named is stored, and 1 when any is not.
#[derive(Debug, clap::Args)]
pub struct Replay {
    #[command(flatten)]
    spool: Spool,
    #[command(flatten)]
    client: ClientOptions,
    /// The letters' ids, or their beginnings
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// All of them
    #[arg(long, env = "RATER_REPLAY_ALL", value_parser = crate::cli::switch::Switch)]
    all: bool,
    /// The most events a second
    #[arg(long, env = "RATER_REPLAY_RATE", value_name = "EVENTS", default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// How long a batch that gets no answer is tried again
    #[arg(long, env = "RATER_RETRY_FOR", value_name = "TIME", default_value = "60s",
        value_parser = crate::cli::duration::parse)]
    retry_for: Duration,
}

impl Replay {
    /// Replays until all is done, or Ctrl-C.
    pub async fn run(self, console: &mut Console<'_>) -> Result<ExitCode, String> {
        let stop = CancellationToken::new();
        let (told, stopped) = (stop.clone(), signals::stop());
        tokio::spawn(async move {
            stopped.await;
            told.cancel();
        });
        self.replay(console, stop).await
    }

    async fn replay(&self, console: &mut Console<'_>, stop: CancellationToken) -> Result<ExitCode, String> {
        let letters = self.spool.letters();
        let _lock = letters.lock().map_err(|error| error.to_string())?;
        let ids = chosen(&letters, &self.ids, self.all)?;
        let named = ids.len() as u64;
        let ids = in_order(&letters, ids, console);
        let pause = async |until: Instant| tokio::time::sleep_until(until.into()).await;
        let mut sending = Sending::new(&letters, Pace::of(self.rate), pause, stop, console);
        let ended = match ids.is_empty() {
            true => Ok(()),
            false => {
                let mut sender = EventSender::new(self.client.channel().await?, self.retry_for);
                let retry_for = self.retry_for;
                let send = async |events: Vec<BillingEvent>| {
                    let request = RecordEventsRequest { events, skip_invalid: true };
                    sender.send(request, |failure| Console::standard().say(&notice(failure, retry_for))).await
                };
                sending.all(ids, send).await
            }
        };
        let mut totals = sending.totals();
        totals.left = named.saturating_sub(totals.replayed);
        if let Err(why) = &ended {
            console.say(&format!("{why}; {} letters are left as they are", totals.left));
        }
        console.print(&print(self.client.output, Totals::HEADERS, &[totals], Totals::cells)?)?;
        let all_stored = ended.is_ok() && totals.left == 0 && totals.refused == 0;
        Ok(if all_stored { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// The letters among these, oldest first; the others are told.
fn in_order(letters: &DeadLetters, ids: Vec<String>, console: &mut Console<'_>) -> Vec<String> {
    let mut found = Vec::with_capacity(ids.len());
    for id in ids {
        match letters.get(&id) {
            Ok(letter) => found.push((letter.first_at, id)),
            Err(Error::Unknown(_)) => console.say_plain(&format!("{id}: is gone")),
            Err(error) => console.say_plain(&format!("{id}: {error}")),
        }
    }
    found.sort();
    found.into_iter().map(|(_, id)| id).collect()
}

fn notice(failure: &Failure, retry_for: Duration) -> String {
    format!("{failure}; trying again for up to {}s", retry_for.as_secs())
}

#[cfg(test)]
mod tests;
