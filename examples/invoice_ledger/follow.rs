//! Keeping the ledger in step: a first copy of rated usage, then every change of it, for ever.
//!
//! Whatever goes wrong, the way out is the same: read where the ledger stands, and go on from
//! there. Nothing that matters is kept in memory between two steps.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::feed::{Feed, ServerOptions};
use crate::ledger::{Ledger, Place};
use crate::trouble::Trouble;

/// Pauses between tries grow from the one to the other.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(15));

/// Keep the ledger in step with rated usage
#[derive(Debug, clap::Args)]
pub struct Follow {
    #[command(flatten)]
    server: ServerOptions,
    /// Bill hours from this one on (RFC 3339); without it, all. The same for the ledger's whole life
    #[arg(long, env = "LEDGER_SINCE", value_name = "TIME")]
    since: Option<DateTime<Utc>>,
    /// End when everything is in the ledger that there is now
    #[arg(long, env = "LEDGER_ONCE", value_parser = clap::builder::BoolishValueParser::new())]
    once: bool,
}

impl Follow {
    /// Follows until it is killed, or to the end of the feed.
    pub async fn run(&self, ledger_url: &str) -> Result<(), Trouble> {
        let mut pause = PAUSES.0;
        loop {
            let mut progress = false;
            let trouble = match self.go_on(ledger_url, &mut progress).await {
                Ok(()) => return Ok(()),
                Err(trouble) => trouble,
            };
            match &trouble {
                Trouble::Away(_) | Trouble::Moved => {}
                Trouble::Unknown(why) => {
                    let what = "the ledger was made from another database, or rater's was restored. If this is the \
                        right one, run `invoice_ledger copy-again`, and then this again";
                    return Err(Trouble::Stop(format!("{why}: {what}")));
                }
                Trouble::Expired(_) | Trouble::Stop(_) => return Err(trouble),
            }
            pause = if progress { PAUSES.0 } else { PAUSES.1.min(pause * 2) };
            eprintln!("{trouble}; trying again in {pause:?}");
            tokio::time::sleep(pause).await;
        }
    }

    /// From where the ledger stands now. Ends at the end of the feed, when that was asked for.
    async fn go_on(&self, ledger_url: &str, progress: &mut bool) -> Result<(), Trouble> {
        let ledger = Ledger::open(ledger_url).await?;
        let mut place = ledger.begin(self.since).await?;
        let mut feed = Feed::connect(&self.server, self.since).await?;
        loop {
            eprintln!("{} (first copy {})", place.phase, place.copy_number);
            let begun = place.clone();
            let done = match begun.phase.as_str() {
                "copying" => copy(&ledger, &mut feed, &mut place).await,
                "catching up" => catch_up(&ledger, &mut feed, &mut place).await,
                _ => follow(&ledger, &mut feed, &mut place, !self.once).await,
            };
            *progress |= place != begun;
            match done {
                Ok(()) if begun.phase == "following" => return Ok(()),
                Ok(()) => {}
                Err(Trouble::Expired(why)) => {
                    eprintln!("{why}; taking a new first copy");
                    place = ledger.copy_again(&place).await?;
                }
                Err(trouble) => return Err(trouble),
            }
        }
    }
}

/// The pages, from the one that is next. Each is kept with the token of the one after it.
async fn copy(ledger: &Ledger, feed: &mut Feed, place: &mut Place) -> Result<(), Trouble> {
    while place.phase == "copying" {
        let page = feed.page(&place.page_token).await?;
        *place = ledger.copy_page(place, page).await?;
    }
    Ok(())
}

/// The changes since the first page, up to an end of the feed that lies after the last page. Then
/// the copy is rated usage as it was at one moment, and the ledger becomes it. Billed before that,
/// a rollup that was read late would be taken back by its own earlier changes, and put right again.
async fn catch_up(ledger: &Ledger, feed: &mut Feed, place: &mut Place) -> Result<(), Trouble> {
    let mut changes = feed.changes(&place.cursor, false).await?;
    while let Some(message) = changes.next().await? {
        *place = ledger.catch_up(place, message).await?;
    }
    *place = ledger.settle(place).await?;
    Ok(())
}

/// Every change from here on.
async fn follow(ledger: &Ledger, feed: &mut Feed, place: &mut Place, for_ever: bool) -> Result<(), Trouble> {
    let mut changes = feed.changes(&place.cursor, for_ever).await?;
    while let Some(message) = changes.next().await? {
        // A sign of life has no changes, and moves the cursor on.
        *place = ledger.apply(place, message).await?;
    }
    if for_ever { Err(Trouble::Away("rater ended the stream".into())) } else { Ok(()) }
}
