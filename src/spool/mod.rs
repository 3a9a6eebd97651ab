//! A durable queue of records in a folder: what was appended is on disk before it is promised,
//! and stays until somebody says it is taken care of.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

mod error;

pub use error::{AppendError, Error};

/// The longest record.
pub const MAX_RECORD: usize = 4 * 1024 * 1024;

/// How a spool is kept.
#[derive(Debug, Clone)]
pub struct Options {
    /// Past so many bytes that wait, nothing more is taken. The folder may hold up to a segment
    /// more, since room is given back a segment at a time.
    pub max_bytes: u64,
    /// A segment that has reached this is followed by a new one.
    pub segment_bytes: u64,
    /// For how long after its last append a shipped segment is kept.
    pub retain: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options { max_bytes: 1 << 30, segment_bytes: 16 << 20, retain: Duration::ZERO }
    }
}

/// The side that takes records in. Cheap to clone; the folder stays locked until the last clone
/// and the [`Consumer`] are gone.
#[derive(Debug, Clone)]
pub struct Spool {
    dir: PathBuf,
}

impl Spool {
    /// Opens the spool in `dir`, creating it when it is missing: takes its lock (waiting a second
    /// for those who only look), recovers what is there, and starts the writer. Blocks.
    pub fn open(dir: &Path, options: Options) -> Result<(Spool, Consumer), Error> {
        let _ = options;
        Err(Error::NotASpool { dir: dir.to_path_buf() })
    }

    /// Resolves when every record is on disk, in order and with none of another call in between;
    /// on an error none of them is promised. Waits while too much is on its way already.
    pub async fn append(&self, records: Vec<Vec<u8>>) -> Result<(), AppendError> {
        let _ = records;
        Err(AppendError::Closed)
    }

    /// What the spool holds, without I/O.
    pub fn depth(&self) -> Depth {
        Depth::default()
    }

    /// The spool's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
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
    _private: (),
}

impl Consumer {
    /// Waits until there is at least one record, then gives up to `records` of them, in order, of
    /// about `bytes` at most. Without [`Consumer::done`] in between they are the same again. Empty
    /// only when the spool is closed (all clones of [`Spool`] are gone) and drained.
    pub async fn peek(&mut self, records: usize, bytes: usize) -> Result<Vec<Record>, Error> {
        let _ = (records, bytes);
        Ok(Vec::new())
    }

    /// The first `count` records of the last `peek` are taken care of, whatever happens next. Once
    /// for each `peek`; after an error it can be tried again.
    pub async fn done(&mut self, count: usize) -> Result<(), Error> {
        Err(Error::NotPeeked { count, peeked: 0 })
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
    Err(Error::NotASpool { dir: dir.to_path_buf() })
}

/// What was shipped and is still kept, in order, as far as it was appended at `since` or after.
/// Changes nothing. Blocks.
pub fn retained(
    dir: &Path,
    since: Option<SystemTime>,
) -> Result<impl Iterator<Item = Result<Record, Error>> + use<>, Error> {
    let _ = since;
    Err::<std::iter::Empty<_>, _>(Error::NotASpool { dir: dir.to_path_buf() })
}
