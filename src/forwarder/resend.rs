//! What was shipped and is still kept, sent once more: after a database was restored from a
//! backup. What it has already counts as duplicates. It only reads, so that a forwarder can go on
//! beside it, and it stops for nothing but its end or a word.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::backoff::Pauses;
use super::seen::{Book, Counts, Saved};
use super::ship::{Shipper, Way};
use super::source::Source;
use super::watch::Watch;
use crate::dead_letters::DeadLetters;
use crate::grpc::client::Channel;
use crate::grpc::client::events::EventSender;
use crate::spool::{self, Error, Record};

/// Records on their way from the disk.
const READ_AHEAD: usize = 1_000;

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resent {
    /// Events, by what became of them.
    pub counts: Counts,
    /// Whether all of it was sent.
    pub complete: bool,
    /// What is damaged, and was left out.
    pub unreadable: Vec<String>,
}

/// Sends everything that the spool in `dir` keeps and that was appended at `since` or later, at
/// most `rate` events a second. What the service refuses for its content becomes a dead letter.
pub async fn resend(
    dir: &Path,
    since: Option<SystemTime>,
    rate: Option<u32>,
    channel: Channel,
    batch_size: usize,
    stop: CancellationToken,
) -> Result<Resent, Error> {
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
    let way = Way {
        sender: EventSender::new(channel, Duration::ZERO),
        letters: DeadLetters::of(dir),
        book: book.clone(),
        watch: Arc::new(Watch::new(Duration::MAX)),
        stop,
        batch_size: rate
            .map_or(batch_size, |rate| batch_size.min(usize::try_from(rate).unwrap_or(usize::MAX))),
        pauses: Pauses::default(),
    };
    let complete = Shipper::new(Kept::new(records, rate), way).run().await.is_ok();
    let unreadable = reader.await.unwrap_or_else(|lost| std::panic::resume_unwind(lost.into_panic()))?;
    Ok(Resent { counts: book.seen().counts, complete, unreadable })
}

/// Records that come from the disk, at a pace.
struct Kept {
    records: mpsc::Receiver<Record>,
    /// Read, and not done.
    waiting: Vec<Record>,
    rate: Option<u32>,
    /// When the next may be sent.
    due: Instant,
}

impl Kept {
    fn new(records: mpsc::Receiver<Record>, rate: Option<u32>) -> Kept {
        Kept { records, waiting: Vec::new(), rate, due: Instant::now() }
    }
}

impl Source for Kept {
    async fn peek(&mut self, records: usize, bytes: usize) -> Result<Vec<Record>, Error> {
        tokio::time::sleep_until(self.due).await;
        while self.waiting.len() < records {
            let Some(record) = self.records.recv().await else { break };
            self.waiting.push(record);
        }
        let mut room = bytes;
        let fits = self.waiting.iter().take(records).take_while(|record| {
            let before = room;
            room = room.saturating_sub(record.payload.len());
            before > 0
        });
        Ok(fits.cloned().collect())
    }

    async fn done(&mut self, count: usize) -> Result<(), Error> {
        self.waiting.drain(..count.min(self.waiting.len()));
        if let Some(rate) = self.rate {
            let events = u32::try_from(count).unwrap_or(u32::MAX);
            self.due = self.due.max(Instant::now()) + Duration::from_secs(1) * events / rate.max(1);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(ordinal: u64) -> Record {
        Record { ordinal, appended_at: SystemTime::UNIX_EPOCH, payload: vec![0; 10] }
    }

    #[tokio::test]
    async fn records_come_at_the_pace_that_was_asked_for_and_again_until_they_are_done() {
        let (sender, receiver) = mpsc::channel(100);
        for ordinal in 0..30 {
            sender.try_send(record(ordinal)).expect("room");
        }
        drop(sender);
        let mut kept = Kept::new(receiver, Some(100));
        let started = Instant::now();
        let mut ordinals = Vec::new();
        loop {
            let first = kept.peek(5, 1_000).await.expect("no disk");
            let again = kept.peek(3, 25).await.expect("no disk");
            assert_eq!(again[..], first[..first.len().min(3)]);
            if again.is_empty() {
                break;
            }
            ordinals.extend(again.iter().map(|record| record.ordinal));
            kept.done(again.len()).await.expect("no disk");
        }
        assert_eq!(ordinals, (0..30).collect::<Vec<_>>());
        assert!(started.elapsed() >= Duration::from_millis(300));
    }
}
