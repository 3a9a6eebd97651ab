//! What can go wrong with the dead letters.

use std::io;
use std::path::PathBuf;

/// Each is one line that says what is wrong, and where it helps, what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no spool.
    #[error("there is no folder {}; name the spool's with --spool or RATER_SPOOL", .0.display())]
    NoSpool(PathBuf),
    /// There is no such letter.
    #[error("there is no letter {0}; `rater dead-letters list` has their ids")]
    Unknown(String),
    /// The start of an id that several letters have.
    #[error("{count} letters begin with {prefix}; write more of the id")]
    Ambiguous {
        /// As it was given.
        prefix: String,
        /// How many.
        count: usize,
    },
    /// Its file can't be read as a letter.
    #[error("letter {id} can't be read: {why}")]
    Damaged {
        /// The letter.
        id: String,
        /// What is wrong with it.
        why: String,
    },
    /// Somebody else changes letters.
    #[error("another replay, mend or drop is at work in {}; try again when it has ended", .0.display())]
    InUse(PathBuf),
    /// The disk or the file system.
    #[error("can't {what} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}
