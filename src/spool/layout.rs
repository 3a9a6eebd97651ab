//! Where what lies in a spool's folder.
//!
//! ```text
//! DIR/lock                           held by the process that uses the spool
//! DIR/identity                       which spool this is
//! DIR/segments/NUMBER.seg            what waits
//! DIR/shipped/NUMBER.seg             what is kept for a while
//! DIR/damaged/NUMBER-OFFSET-LEN.bin  bytes of a segment that are no whole record; none where
//!                                    records are missing without a trace; NUMBER-OFFSET-LEN.unreadable.bin
//!                                    has zeros where the disk could not read them
//! DIR/damaged/NUMBER.seg             a segment that is done but for what the disk could not read
//! DIR/checkpoint                     how far it is taken care of
//! ```

use std::path::{Path, PathBuf};

/// The paths of one spool.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub root: PathBuf,
}

/// Everything that a spool's folder may hold; some of it is written by others of this project.
/// Every new ext4 volume has a `lost+found`.
const OURS: [&str; 10] = [
    "lock",
    "identity",
    "identity.new",
    "segments",
    "shipped",
    "damaged",
    "checkpoint",
    "checkpoint.new",
    "dead-letters",
    "lost+found",
];

impl Layout {
    pub fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    pub fn identity(&self) -> PathBuf {
        self.root.join("identity")
    }

    pub fn checkpoint(&self) -> PathBuf {
        self.root.join("checkpoint")
    }

    pub fn segments(&self) -> PathBuf {
        self.root.join("segments")
    }

    pub fn shipped(&self) -> PathBuf {
        self.root.join("shipped")
    }

    pub fn damaged(&self) -> PathBuf {
        self.root.join("damaged")
    }

    pub fn segment(&self, number: u64) -> PathBuf {
        self.segments().join(segment_name(number))
    }

    /// Where it waits for a person, or for better luck, when not all of it could be read.
    pub fn damaged_segment(&self, number: u64) -> PathBuf {
        self.damaged().join(segment_name(number))
    }

    pub fn shipped_segment(&self, number: u64) -> PathBuf {
        self.shipped().join(segment_name(number))
    }
}

/// A file that is written whole and then renamed.
pub(super) fn temporary(path: &Path) -> PathBuf {
    path.with_extension("new")
}

fn segment_name(number: u64) -> String {
    format!("{number:020}.seg")
}

/// The number in a segment's name.
pub(super) fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg").filter(|digits| digits.len() == 20)?;
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

const UNREADABLE: &str = ".unreadable.bin";

pub(super) fn damaged_name(segment: u64, from: u64, to: u64, unreadable: bool) -> String {
    let suffix = if unreadable { UNREADABLE } else { ".bin" };
    format!("{segment:020}-{from}-{}{suffix}", to.saturating_sub(from))
}

/// Whether it is of a stretch that the disk could not read.
pub(super) fn is_unreadable(name: &str) -> bool {
    name.ends_with(UNREADABLE)
}

/// The segment in the name of bytes that were set aside.
pub(super) fn damaged_segment(name: &str) -> Option<u64> {
    name.strip_suffix(".bin")?.split('-').next()?.parse().ok()
}

pub(super) fn is_ours(name: &str) -> bool {
    OURS.contains(&name) || name.starts_with("status.json")
}
