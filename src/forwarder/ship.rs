//! Shipping: one batch at a time, in order, until the service has answered for every event.
//!
//! It promises that a record is done only when the service said that its event is stored (or was
//! before), or when it lies in the dead letters, whole and on the disk. Only content makes a
//! letter:
//!
//! - what the service rejects of a batch, by name;
//! - an event that it names and refuses (INVALID_ARGUMENT, or ALREADY_EXISTS as EVENT_CONFLICT)
//!   though it was sent alone;
//! - an event over which the service itself says that it fails (INTERNAL), again and again, while
//!   others after it are stored in between (see `suspect`).
//!
//! Everything else is tried again, for ever. Each failure halves the batch, and each success
//! doubles it: a limit on the way, or one event, does not keep the others.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::backoff::{Backoff, Pauses};
use super::seen::Book;
use super::source::Source;
use super::verdict::{Batch, Blame, Refusal, bad_answer, blame, refusals};
use super::watch::Watch;
use crate::dead_letters::{DeadLetters, Refused};
use crate::grpc::client::Failure;
use crate::grpc::client::events::{EventSender, TRY_TIMEOUT};
use crate::proto::{RecordEventsRequest, RecordEventsResponse};

/// The service takes 4 MiB in one message.
const BATCH_BYTES: usize = 2 * 1024 * 1024;
/// How often the service fails over an event alone before it is suspected.
const SUSPECT_AFTER: usize = 3;
/// So many events after a suspect, each new to the service, are stored before it is set aside.
const ALTERNATIONS: usize = 3;
/// How often the suspect is tried between two of them. One instance that is broken, or a proxy that
/// fails now and then, must not make a letter of a good event. When each call fails by chance,
/// however likely, a call that does not is the suspect's in 21 cases of 22: that three others come
/// first has a chance of 22^-3, less than 1e-4 (and with every second call, of 1e-19).
const TRIES: usize = 21;
/// How far behind a suspect others are looked for.
const WINDOW: usize = 1_000;
/// So many that the service knows already are passed over at a time.
const KNOWN: usize = 100;
/// What a stop allows a call in flight.
const LAST_CALL: Duration = Duration::from_secs(5);

/// It was told to stop.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stopped;

/// The service has answered for each event of a call.
#[derive(Default)]
struct Taken {
    stored: i64,
    duplicates: i64,
    refused: BTreeMap<usize, Refusal>,
}

/// What one call came to.
enum Answer {
    Taken(Taken),
    Failed(Failure),
}

/// Where goes what can't be stored.
pub(super) enum Aside {
    /// Into the dead letters, where it is whole and on the disk before it is done.
    Letters(DeadLetters),
    /// It is told of. What the service fails over alone is not held against the rest, then.
    Told(Box<dyn FnMut(&Refused) + Send + Sync>),
}

/// An event that was sent alone, and over which the service failed.
#[derive(Debug, Clone, Copy)]
struct Suspect {
    ordinal: u64,
    /// So often.
    failures: usize,
    /// Others that were stored in between.
    stored: usize,
    /// Which one is the next, of those behind it.
    next: usize,
}

/// What shipping needs to know beside its source.
pub(super) struct Way {
    pub sender: EventSender,
    pub aside: Aside,
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
    suspect: Option<Suspect>,
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
            Answer::Taken(taken) => return self.taken(batch, taken).await,
            Answer::Failed(failure) => failure,
        };
        match blame(&failure, batch.events.len()) {
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
            return Ok(Answer::Taken(Taken::default()));
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
            Ok(response) => match refusals(&response, batch.events.len()) {
                Ok(refused) => {
                    let RecordEventsResponse { stored, duplicates, .. } = response;
                    return Ok(Answer::Taken(Taken { stored, duplicates, refused }));
                }
                Err(what) => bad_answer(what),
            },
            Err(failure) => failure,
        };
        tracing::debug!(code = failure.code, error = %failure, events = batch.events.len(), "a call failed");
        Ok(Answer::Failed(failure))
    }

    /// The service has answered for each event: letters first, then the record of what is done.
    async fn taken(&mut self, batch: Batch, taken: Taken) -> Result<(), Stopped> {
        let count = batch.records.len();
        let Taken { stored, duplicates, refused } = taken;
        self.put(batch.letters(refused), stored, duplicates).await?;
        self.done(count).await?;
        self.way.book.shipped(stored, duplicates);
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
    /// shown by others that it stores in between.
    async fn suspect(&mut self, batch: Batch, mut failure: Failure) -> Result<(), Stopped> {
        let ordinal = batch.records[0].ordinal;
        let before = self.suspect.filter(|suspect| suspect.ordinal == ordinal);
        let mut suspect = before.unwrap_or(Suspect { ordinal, failures: 0, stored: 0, next: 0 });
        suspect.failures += 1;
        self.suspect = Some(suspect);
        if suspect.failures < SUSPECT_AFTER {
            return self.try_later(&failure).await;
        }
        if let Aside::Told(_) = self.way.aside {
            return self.pass_over(batch, &failure).await;
        }
        loop {
            let stored = self.another(&mut suspect).await?;
            suspect.stored += usize::from(stored == Some(true));
            self.suspect = Some(suspect);
            if stored.is_none() {
                break;
            }
            for _ in 0..TRIES {
                if self.way.stop.is_cancelled() {
                    return Err(Stopped);
                }
                self.way.book.failed(failure.code, &failure.message, true);
                failure = match self.call(&batch).await? {
                    Answer::Taken(taken) => return self.taken(batch, taken).await,
                    Answer::Failed(again) if blame(&again, 1) == Blame::Defect => again,
                    Answer::Failed(other) => return self.try_later(&other).await,
                };
            }
            match (stored, suspect.stored) {
                (Some(true), ALTERNATIONS..) => return self.set_aside(batch, &failure).await,
                (Some(true), _) => self.wait(self.backoff.short()).await?,
                _ => break,
            }
        }
        self.try_later(&failure).await
    }

    /// Whether the service now stores one of the events behind the suspect, each time the next
    /// one. It must be new to the service: to know an event already is no proof that it can store
    /// one. Nothing: there is none.
    async fn another(&mut self, suspect: &mut Suspect) -> Result<Option<bool>, Stopped> {
        let others: Vec<_> = self.peek(1 + WINDOW).await?.records.into_iter().skip(1).collect();
        for _ in 0..others.len().min(KNOWN) {
            let probe = Batch::of(vec![others[suspect.next % others.len()].clone()]);
            suspect.next = (suspect.next + 1) % others.len();
            match self.call(&probe).await? {
                Answer::Taken(taken) if taken.stored == 1 => {
                    self.way.book.shipped(1, 0);
                    return Ok(Some(true));
                }
                Answer::Taken(_) => {}
                Answer::Failed(_) => return Ok(Some(false)),
            }
        }
        Ok(None)
    }

    /// The event stays where it is kept, and the next ones get their turn. That says nothing good
    /// about the service, so the pauses go on getting longer.
    async fn pass_over(&mut self, batch: Batch, failure: &Failure) -> Result<(), Stopped> {
        self.put(batch.alone(failure), 0, 0).await?;
        self.done(1).await?;
        self.try_later(failure).await
    }

    /// Sets letters aside, however long that takes: nothing is done before they are on the disk.
    async fn put(&mut self, letters: Vec<Refused>, stored: i64, duplicates: i64) -> Result<(), Stopped> {
        if letters.is_empty() {
            return Ok(());
        }
        let ids: Vec<String> = letters.iter().map(Refused::id).collect();
        let folder = match &mut self.way.aside {
            Aside::Letters(folder) => folder.clone(),
            Aside::Told(tell) => {
                letters.iter().for_each(tell);
                self.way.book.dead_lettered(letters.len());
                return Ok(());
            }
        };
        loop {
            let (folder, again) = (folder.clone(), letters.clone());
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
