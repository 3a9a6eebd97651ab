//! A durable queue of records in a folder: what was appended is on disk before it is promised, and
//! stays until somebody says that it is taken care of.
//!
//! Promises: an acknowledged record is given out, in order, until it is done, whatever crashes in
//! between and however often; one that was not acknowledged is given out at most once. No bytes are
//! given out that were not appended. Nothing is ever evicted: a full spool takes nothing more.
//! Damage costs the records that it hit and no others, and is told.
//!
//! One process has it at a time ([`Spool::open`]); any may look ([`inspect`], [`retained`]). Files
//! only: what the records are is the forwarder's business.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use std::{io, thread};

use tokio::sync::{Semaphore, mpsc, oneshot};

mod checkpoint;
mod consumer;
mod disk;
mod error;
mod frame;
mod inspect;
mod layout;
mod recovery;
mod retained;
mod scan;
mod shared;
mod survey;
#[cfg(test)]
mod tests;
mod writer;

use consumer::Reader;
use disk::{Disk, RealDisk};
pub use error::{AppendError, Error};
use shared::Shared;
use writer::{Call, GROUP};

/// The longest record.
pub const MAX_RECORD: usize = 4 * 1024 * 1024;
/// Bytes and calls that may be on their way to the disk; more wait.
const ROOM: usize = 2 * GROUP;
const CALLS: usize = 1024;
/// How often what is kept and what is damaged is looked at while nothing happens.
const TIDY_EVERY: Duration = Duration::from_secs(10);

/// How a spool is kept.
#[derive(Debug, Clone)]
pub struct Options {
    /// Past so many bytes that wait, nothing more is taken. The folder may hold up to a segment
    /// more, since room is given back a segment at a time.
    pub max_bytes: u64,
    /// A segment that has reached this is followed by a new one.
    pub segment_bytes: u64,
    /// For how long a segment is kept after it was shipped. With zero none is, and what an earlier
    /// run kept is left alone.
    pub retain: Duration,
    /// So much of the file system stays free: records that would take it are refused. What is
    /// shipped makes room, and whoever ships may need some to note what was refused. Zero: all of
    /// it may be taken.
    pub reserve_bytes: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            max_bytes: 1 << 30,
            segment_bytes: 16 << 20,
            retain: Duration::ZERO,
            reserve_bytes: 16 << 20,
        }
    }
}

/// The side that takes records in. Cheap to clone; the folder stays locked until the last clone
/// and the [`Consumer`] are gone.
#[derive(Debug, Clone)]
pub struct Spool {
    shared: Arc<Shared>,
    calls: mpsc::Sender<Call>,
    /// Bytes that may be on their way to the disk.
    room: Arc<Semaphore>,
}

impl Spool {
    /// Opens the spool in `dir`, creating it when it is missing: takes its lock (waiting a second
    /// for those who only look), recovers what is there, and starts the writer. Blocks.
    pub fn open(dir: &Path, options: Options) -> Result<(Spool, Consumer), Error> {
        Spool::open_on(Arc::new(RealDisk), dir, options)
    }

    fn open_on(disk: Arc<dyn Disk>, dir: &Path, options: Options) -> Result<(Spool, Consumer), Error> {
        let (writer, reader) = recovery::open(disk, dir, options)?;
        let shared = reader.shared().clone();
        let (calls, waiting) = mpsc::channel(CALLS);
        thread::Builder::new()
            .name("spool".into())
            .spawn(move || writer::run(writer, waiting))
            .map_err(Error::io("start the writer of", dir))?;
        let consumer = Consumer { shared: shared.clone(), reader: Arc::new(Mutex::new(reader)) };
        Ok((Spool { shared, calls, room: Arc::new(Semaphore::new(ROOM)) }, consumer))
    }

    /// Resolves when every record is on disk, in order and with none of another call in between;
    /// on an error none of them is promised. Waits while too much is on its way already.
    pub async fn append(&self, records: Vec<Vec<u8>>) -> Result<(), AppendError> {
        if records.is_empty() {
            return Ok(());
        }
        for (index, record) in records.iter().enumerate() {
            if record.len() > MAX_RECORD {
                return Err(AppendError::TooLong { index, bytes: record.len(), max_bytes: MAX_RECORD });
            }
        }
        // A call that is larger than all the room goes alone.
        let bytes = usize::try_from(writer::size(&records)).unwrap_or(ROOM).min(ROOM) as u32;
        let room = self.room.clone().acquire_many_owned(bytes).await.map_err(|_| AppendError::Closed)?;
        let (answer, answered) = oneshot::channel();
        let call = Call { records, answer, _room: room };
        self.calls.send(call).await.map_err(|_| AppendError::Closed)?;
        answered.await.unwrap_or(Err(AppendError::Closed))
    }

    /// What the spool holds, without I/O.
    pub fn depth(&self) -> Depth {
        self.shared.depth()
    }

    /// The spool's folder.
    pub fn dir(&self) -> &Path {
        &self.shared.layout.root
    }
}

/// What a spool holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Depth {
    /// Records that wait.
    pub events: u64,
    /// What they take on disk.
    pub bytes: u64,
    /// The limit of that.
    pub max_bytes: u64,
    /// When the first of them was appended, by this machine's clock.
    pub oldest: Option<SystemTime>,
    /// Segments that are not wholly shipped.
    pub segments: u64,
    /// What is shipped and still kept.
    pub retained_bytes: u64,
    /// Files in `damaged/`: stretches that were set aside.
    pub damaged_ranges: u64,
    /// Their bytes.
    pub damaged_bytes: u64,
    /// Records that are known to be gone. Starts anew when `damaged/` was emptied.
    pub missing_records: u64,
}

/// A record as it was appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its number in the spool; they rise by one.
    pub ordinal: u64,
    /// When, by this machine's clock, to the millisecond.
    pub appended_at: SystemTime,
    /// What the producer gave.
    pub payload: Vec<u8>,
}

/// The side that takes records out; a spool has exactly one.
#[derive(Debug)]
pub struct Consumer {
    shared: Arc<Shared>,
    reader: Arc<Mutex<Reader>>,
}

impl Consumer {
    /// Waits until there is at least one record, then gives up to `records` of them, in order, of
    /// about `bytes` at most. Without [`Consumer::done`] in between they are the same again. Empty
    /// only when the spool is closed (all clones of [`Spool`] are gone) and drained.
    pub async fn peek(&mut self, records: usize, bytes: usize) -> Result<Vec<Record>, Error> {
        loop {
            // Asked before the look, or what is appended in between would be missed.
            let closed = self.shared.state().closed;
            let found = self.blocking(move |reader| reader.peek(records, bytes)).await?;
            if !found.is_empty() || closed {
                return Ok(found);
            }
            let changed = tokio::time::timeout(TIDY_EVERY, self.shared.changed.notified()).await;
            if changed.is_err() {
                self.blocking(|reader| {
                    reader.tidy();
                    Ok(())
                })
                .await?;
            }
        }
    }

    /// The first `count` records of the last `peek` are taken care of, whatever happens next. Once
    /// for each `peek`; after an error it can be tried again.
    pub async fn done(&mut self, count: usize) -> Result<(), Error> {
        self.blocking(move |reader| reader.done(count)).await
    }

    /// What the spool holds, without I/O, also once it is closed.
    pub fn depth(&self) -> Depth {
        self.shared.depth()
    }

    /// Works to its end when the future is dropped, and the next call waits for it.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Reader) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let reader = self.reader.clone();
        let task = move || work(&mut reader.lock().unwrap_or_else(PoisonError::into_inner));
        let ended = tokio::task::spawn_blocking(task).await;
        ended.map_err(io::Error::other).map_err(Error::io("read", &self.shared.layout.root))?
    }
}

/// A look at a spool from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// What it holds; `max_bytes` is 0, which only the process that uses the spool knows.
    pub depth: Depth,
    /// Whether a process uses it.
    pub in_use: bool,
}

/// Looks at the spool in `dir` and changes nothing, whether it is in use or not. Blocks.
pub fn inspect(dir: &Path) -> Result<Inspection, Error> {
    inspect::inspect(&RealDisk, dir)
}

/// What was shipped and is still kept, in order: the segments that were shipped at `since` or after,
/// and of the others the records that were appended then; and all of what is done in a segment that
/// still waits, or that could not be read in places. So a database with everything that was shipped
/// before `since` lacks none of the rest. A segment that goes while the others are read is an error
/// in its place, as is one that can't be read; more may follow. Changes nothing. Blocks.
pub fn retained(
    dir: &Path,
    since: Option<SystemTime>,
) -> Result<impl Iterator<Item = Result<Record, Error>> + use<>, Error> {
    retained::retained(Arc::new(RealDisk), dir, since)
}
