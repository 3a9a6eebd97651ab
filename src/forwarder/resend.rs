//! What was shipped and is still kept, sent once more: after a database was restored from a
//! backup. What it has already counts as duplicates. It only reads, so that a forwarder can go on
//! beside it, and it stops for nothing but its end or a word.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::backoff::Pauses;
use super::pace::Pace;
use super::seen::{Book, Counts, Saved};
use super::ship::{Aside, Shipper, Way};
use super::source::Source;
use super::watch::Watch;
use crate::dead_letters::Refused;
use crate::grpc::client::Channel;
use crate::grpc::client::events::EventSender;
use crate::spool::{self, Error, Record};

/// Records on their way from the disk.
const READ_AHEAD: usize = 64;

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resent {
    /// Events that the database did not have.
    pub stored: u64,
    /// Events that it had.
    pub duplicates: u64,
    /// Events that were told of and passed over.
    pub refused: u64,
    /// Whether all of it was sent.
    pub complete: bool,
    /// What is damaged or gone, and was left out.
    pub unreadable: Vec<String>,
}

/// What is sent, and how.
#[derive(Debug, Clone)]
pub struct Again {
    /// Only what was appended at this time or later.
    pub since: Option<SystemTime>,
    /// At most so many events a second.
    pub rate: Option<u32>,
    /// The most events in one call.
    pub batch_size: usize,
}

/// Sends what the spool in `dir` keeps. An event that the service refuses, or fails over alone, is
/// told of and passed over. It makes no letter: it had one when it was shipped, which may be mended
/// or dropped by now, and would be back.
pub async fn resend(
    dir: &Path,
    again: Again,
    channel: Channel,
    refused: impl FnMut(&Refused) + Send + Sync + 'static,
    stop: CancellationToken,
) -> Result<Resent, Error> {
    let Again { since, rate, batch_size } = again;
    let (sender, records) = mpsc::channel(READ_AHEAD);
    let folder = dir.to_path_buf();
    // A folder that can't be read is an error before anything is sent.
    let reader = tokio::task::spawn_blocking(move || {
        let kept = spool::retained(&folder, since)?;
        let mut unreadable = Vec::new();
        for record in kept {
            match record {
                Ok(record) => {
                    if sender.blocking_send(record).is_err() {
                        break;
                    }
                }
                Err(error) => unreadable.push(error.to_string()),
            }
        }
        Ok(unreadable)
    });
    let book = Arc::new(Book::new(None, Saved::default()));
    let at_once = rate.and_then(|rate| usize::try_from(rate).ok()).unwrap_or(usize::MAX);
    let way = Way {
        sender: EventSender::new(channel, Duration::ZERO),
        aside: Aside::Told(Box::new(refused)),
        book: book.clone(),
        watch: Arc::new(Watch::new(Duration::MAX)),
        stop,
        batch_size: batch_size.min(at_once),
        pauses: Pauses::default(),
    };
    let complete = Shipper::new(Kept::new(records, rate), way).run().await.is_ok();
    let unreadable = reader.await.unwrap_or_else(|lost| std::panic::resume_unwind(lost.into_panic()))?;
    let Counts { stored, duplicates, dead_lettered: refused, .. } = book.seen().counts;
    Ok(Resent { stored, duplicates, refused, complete, unreadable })
}

/// Records that come from the disk, at a pace.
struct Kept {
    records: mpsc::Receiver<Record>,
    /// Read, and not done.
    waiting: VecDeque<Record>,
    pace: Option<Pace>,
}

impl Kept {
    fn new(records: mpsc::Receiver<Record>, rate: Option<u32>) -> Kept {
        Kept { records, waiting: VecDeque::new(), pace: rate.map(Pace::of) }
    }
}

impl Source for Kept {
    async fn peek(&mut self, records: usize, bytes: usize) -> Result<Vec<Record>, Error> {
        if let Some(pace) = &self.pace {
            tokio::time::sleep_until(pace.next().into()).await;
        }
        // The one that reaches the limit is the last; no more are read than are given.
        let (mut count, mut room) = (0, bytes);
        while count < records && room > 0 {
            if count == self.waiting.len() {
                let Some(record) = self.records.recv().await else { break };
                self.waiting.push_back(record);
            }
            room = room.saturating_sub(self.waiting[count].payload.len());
            count += 1;
        }
        Ok(self.waiting.iter().take(count).cloned().collect())
    }

    async fn done(&mut self, count: usize) -> Result<(), Error> {
        self.waiting.drain(..count.min(self.waiting.len()));
        if let Some(pace) = &mut self.pace {
            pace.spend(count);
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "resend_tests.rs"]
mod tests;
