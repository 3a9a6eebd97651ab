//! What a spool can't do, one line a person can act on.

use std::io;
use std::path::{Path, PathBuf};

/// A spool that can't be opened, read or moved on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process has it.
    #[error("the spool {} is in use by another process: stop that one, or name another folder", dir.display())]
    InUse {
        /// The folder.
        dir: PathBuf,
    },
    /// A folder with somebody else's files in it.
    #[error("{} is not a spool and holds other files: name an empty or a new folder", dir.display())]
    NotASpool {
        /// The folder.
        dir: PathBuf,
    },
    /// Nothing in the folder says any more which spool it is.
    #[error(
        "the spool {} has lost its identity: neither its file `identity` nor the header of a segment \
         can be read", dir.display()
    )]
    NoIdentity {
        /// The folder.
        dir: PathBuf,
    },
    /// A segment of another spool, or one under another's name.
    #[error("{} belongs to another spool or place: move it back to where it came from", path.display())]
    Foreign {
        /// The segment.
        path: PathBuf,
    },
    /// Written by a newer build.
    #[error("{} has format {version}, newer than this build reads: use the build that wrote it", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// The version of its format.
        version: u32,
    },
    /// It was kept when the reading began.
    #[error(
        "the kept segment {} is gone: it expired, or somebody removed it, before it was read; its records \
         are left out", path.display()
    )]
    Gone {
        /// The segment.
        path: PathBuf,
    },
    /// More was said to be done than the last look gave.
    #[error("{count} records can't be done: the last look gave {peeked}")]
    NotPeeked {
        /// How many were to be done.
        count: usize,
        /// How many the last `peek` gave that are not done.
        peeked: usize,
    },
    /// The operating system said no.
    #[error("cannot {action} {}: {cause}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        cause: io::Error,
    },
}

impl Error {
    /// For `map_err`: names what was tried on which path.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_path_buf();
        move |cause| Error::Io { action, path, cause }
    }
}

/// Records that were not taken. None of a call's records is promised then.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The spool's own limit is reached; room comes with what is shipped.
    #[error("the spool is full: {bytes} of {max_bytes} bytes wait to be shipped")]
    Full {
        /// What waits, in bytes.
        bytes: u64,
        /// The limit.
        max_bytes: u64,
    },
    /// The disk is full, but for what is reserved ([`Options::reserve_bytes`](super::Options)), or a
    /// quota is reached.
    #[error("the spool's disk is full: {0}")]
    DiskFull(io::Error),
    /// The operating system said no.
    #[error("the spool cannot be written: {0}")]
    Io(io::Error),
    /// A record past what a frame may hold.
    #[error("record {index} of the call has {bytes} bytes; a record has at most {max_bytes}")]
    TooLong {
        /// Which of the call's records, from 0.
        index: usize,
        /// Its length.
        bytes: usize,
        /// The limit.
        max_bytes: usize,
    },
    /// The spool is closed.
    #[error("the spool is closed")]
    Closed,
}

impl From<io::Error> for AppendError {
    fn from(error: io::Error) -> AppendError {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => AppendError::DiskFull(error),
            _ => AppendError::Io(error),
        }
    }
}
