//! Shipping: one batch at a time, in order, until the service has answered for every event.
//!
//! It promises that a record is done only when the service said that its event is stored (or was
//! before), or when it lies in the dead letters, whole and on the disk. Only content makes a
//! letter:
//!
//! - what the service rejects of a batch, by name;
//! - an event that it refuses (INVALID_ARGUMENT, OUT_OF_RANGE, ALREADY_EXISTS) though it was sent
//!   alone;
//! - an event over which the service fails (INTERNAL, UNKNOWN, DATA_LOSS) alone three times and
//!   more, while another one after it is stored in between, and once more after that.
//!
//! Everything else is tried again, for ever. Each failure halves the batch, and each success
//! doubles it: a limit on the way, or one event, does not keep the others.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::backoff::{Backoff, Pauses};
use super::seen::Book;
use super::source::Source;
use super::verdict::{Batch, Blame, adds_up, bad_answer, blame};
use super::watch::Watch;
use crate::dead_letters::{DeadLetters, Refused};
use crate::grpc::client::Failure;
use crate::grpc::client::events::{EventSender, TRY_TIMEOUT};
use crate::proto::{RecordEventsRequest, RecordEventsResponse};

/// The service takes 4 MiB in one message.
const BATCH_BYTES: usize = 2 * 1024 * 1024;
/// How often the service fails over an event alone before it is suspected.
const SUSPECT_AFTER: usize = 3;
/// The events after a suspect that are tried, one a time.
const PROBES: usize = 16;
/// What a stop allows a call in flight.
const LAST_CALL: Duration = Duration::from_secs(5);

/// It was told to stop.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stopped;

/// What one call came to.
enum Answer {
    Taken(RecordEventsResponse),
    Failed(Failure),
}

/// What shipping needs to know beside its source.
pub(super) struct Way {
    pub sender: EventSender,
    pub letters: DeadLetters,
    pub book: Arc<Book>,
    pub watch: Arc<Watch>,
    pub stop: CancellationToken,
    /// The most events in one call.
    pub batch_size: usize,
    pub pauses: Pauses,
}

/// Ships what a source has.
pub(super) struct Shipper<S> {
    source: S,
    way: Way,
    backoff: Backoff,
    /// The size of the next batch.
    size: usize,
    /// The event that was sent alone last, and how often the service failed over it.
    suspect: Option<(u64, usize)>,
    /// Calls that failed since the last that did not.
    failures: usize,
}

impl<S: Source> Shipper<S> {
    pub fn new(source: S, way: Way) -> Shipper<S> {
        let (backoff, size) = (Backoff::new(way.pauses), way.batch_size);
        Shipper { source, way, backoff, size, suspect: None, failures: 0 }
    }

    /// Until the source has no more, or until it is told to stop; a call in flight is waited for,
    /// for a few seconds.
    pub async fn run(mut self) -> Result<(), Stopped> {
        loop {
            let batch = self.peek(self.size).await?;
            if batch.records.is_empty() {
                return Ok(());
            }
            self.ship(batch).await?;
        }
    }

    async fn ship(&mut self, batch: Batch) -> Result<(), Stopped> {
        let alone = batch.records.len() == 1;
        let failure = match self.call(&batch).await? {
            Answer::Taken(response) => return self.taken(batch, response).await,
            Answer::Failed(failure) => failure,
        };
        match blame(&failure) {
            Blame::Content if alone => return self.set_aside(batch, &failure).await,
            Blame::Defect if alone => return self.suspect(batch, failure).await,
            // The half is another try, and the way to the event that it is about.
            Blame::Content | Blame::Defect => {
                self.halve(batch.records.len());
                self.way.book.failed(failure.code, &failure.message, true);
                let pause = self.backoff.short();
                return self.wait(pause).await;
            }
            Blame::Trouble => {}
        }
        self.halve(batch.records.len());
        self.try_later(&failure).await
    }

    /// One call. It fails, too, when its answer can't be true.
    async fn call(&mut self, batch: &Batch) -> Result<Answer, Stopped> {
        if batch.events.is_empty() {
            return Ok(Answer::Taken(RecordEventsResponse::default()));
        }
        let request = RecordEventsRequest { events: batch.events.clone(), skip_invalid: true };
        let too_late = async {
            self.way.stop.cancelled().await;
            tokio::time::sleep(LAST_CALL).await;
        };
        let answer = tokio::select! {
            answer = self.way.sender.send_once(request, TRY_TIMEOUT) => answer,
            () = too_late => return Err(Stopped),
        };
        let failure = match answer {
            Ok(response) => match adds_up(&response, batch.events.len()) {
                Ok(()) => return Ok(Answer::Taken(response)),
                Err(what) => bad_answer(what),
            },
            Err(failure) => failure,
        };
        tracing::debug!(code = failure.code, error = %failure, events = batch.events.len(), "a call failed");
        Ok(Answer::Failed(failure))
    }

    /// The service has answered for each event: letters first, then the record of what is done.
    async fn taken(&mut self, batch: Batch, response: RecordEventsResponse) -> Result<(), Stopped> {
        let count = batch.records.len();
        let letters = batch.letters(&response.rejected);
        self.put(letters, response.stored, response.duplicates).await?;
        self.done(count).await?;
        self.way.book.shipped(response.stored, response.duplicates);
        self.well();
        Ok(())
    }

    /// The event is refused for what it is.
    async fn set_aside(&mut self, batch: Batch, failure: &Failure) -> Result<(), Stopped> {
        self.put(batch.alone(failure), 0, 0).await?;
        self.done(1).await?;
        self.way.book.shipped(0, 0);
        self.well();
        Ok(())
    }

    /// The service fails over this event alone. That it is the event, and not the service, is
    /// shown by another event that it stores in between.
    async fn suspect(&mut self, batch: Batch, failure: Failure) -> Result<(), Stopped> {
        let ordinal = batch.records[0].ordinal;
        let before = self.suspect.filter(|(suspect, _)| *suspect == ordinal);
        let tries = before.map_or(1, |(_, tries)| tries + 1);
        self.suspect = Some((ordinal, tries));
        if tries >= SUSPECT_AFTER && self.another_is_stored(tries - SUSPECT_AFTER).await? {
            match self.call(&batch).await? {
                Answer::Taken(response) => return self.taken(batch, response).await,
                Answer::Failed(again) if blame(&again) == Blame::Defect => {
                    return self.set_aside(batch, &again).await;
                }
                Answer::Failed(_) => {}
            }
        }
        self.try_later(&failure).await
    }

    /// Whether the service now stores one of the events after the first, which one by `turn`. It
    /// must be new to the service: to know an event already is no proof that it can store one.
    async fn another_is_stored(&mut self, turn: usize) -> Result<bool, Stopped> {
        let mut others = self.peek(1 + PROBES).await?.records;
        if others.len() < 2 {
            return Ok(false);
        }
        let probe = others.swap_remove(1 + turn % (others.len() - 1));
        match self.call(&Batch::of(vec![probe])).await? {
            Answer::Taken(response) => {
                self.way.book.shipped(response.stored, 0);
                Ok(response.stored == 1)
            }
            Answer::Failed(_) => Ok(false),
        }
    }

    /// Sets letters aside, however long that takes: nothing is done before they are on the disk.
    async fn put(&mut self, letters: Vec<Refused>, stored: i64, duplicates: i64) -> Result<(), Stopped> {
        if letters.is_empty() {
            return Ok(());
        }
        let ids: Vec<String> = letters.iter().map(Refused::id).collect();
        loop {
            let (folder, again) = (self.way.letters.clone(), letters.clone());
            let put = tokio::task::spawn_blocking(move || folder.put(again)).await;
            match put
                .map_err(|error| error.to_string())
                .and_then(|put| put.map_err(|error| error.to_string()))
            {
                Ok(()) => break,
                Err(error) => self.disk_failed("DEAD_LETTERS", &error).await?,
            }
        }
        self.way.book.dead_lettered(letters.len());
        self.way.watch.dead_lettered(&letters, &ids, stored, duplicates);
        Ok(())
    }

    async fn done(&mut self, count: usize) -> Result<(), Stopped> {
        while let Err(error) = self.source.done(count).await {
            self.disk_failed("SPOOL", &error.to_string()).await?;
        }
        Ok(())
    }

    async fn peek(&mut self, records: usize) -> Result<Batch, Stopped> {
        loop {
            let peeked = tokio::select! {
                biased;
                () = self.way.stop.cancelled() => return Err(Stopped),
                peeked = self.source.peek(records, BATCH_BYTES) => peeked,
            };
            match peeked {
                Ok(records) => return Ok(Batch::of(records)),
                Err(error) => self.disk_failed("SPOOL", &error.to_string()).await?,
            }
        }
    }

    fn halve(&mut self, sent: usize) {
        self.size = (sent / 2).max(1);
    }

    /// A batch is done.
    fn well(&mut self) {
        self.size = self.size.saturating_mul(2).min(self.way.batch_size);
        self.suspect = None;
        self.failures = 0;
        self.backoff.over();
        self.way.watch.shipping_works();
        self.way.watch.disk_works();
    }

    /// Tells of a failure and waits for the next try.
    async fn try_later(&mut self, failure: &Failure) -> Result<(), Stopped> {
        self.failures += 1;
        self.way.book.failed(failure.code, &failure.message, true);
        self.way.watch.shipping_failed(failure, self.failures);
        let pause = self.backoff.next(failure.retry_after);
        self.wait(pause).await
    }

    /// The disk is no reason to lose anything, either.
    async fn disk_failed(&mut self, code: &'static str, error: &str) -> Result<(), Stopped> {
        self.way.book.failed(code, error, false);
        self.way.watch.disk_fails(error);
        let pause = self.backoff.next(None);
        self.wait(pause).await
    }

    async fn wait(&self, pause: Duration) -> Result<(), Stopped> {
        tokio::select! {
            () = self.way.stop.cancelled() => Err(Stopped),
            () = tokio::time::sleep(pause) => Ok(()),
        }
    }
}

#[cfg(test)]
#[path = "ship_tests.rs"]
mod tests;
