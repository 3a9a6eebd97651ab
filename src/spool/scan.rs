//! Reads a segment from front to back: every frame that is whole, and where bytes are none.
//!
//! A stretch that is no whole frame ends where the next one begins: right behind a frame whose
//! head is whole, else at the first offset at which a whole frame lies. Nothing is ever taken for
//! a record that was not written at this very place, with an ordinal that fits. What the disk can't
//! read counts as damaged, and is never taken for a write that was not finished.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::disk::{File, read_around};
use super::frame::{self, FRAME, Head, MARKER, Place};

/// How much is read at once, where a record is not longer.
const READ: usize = 256 * 1024;

/// What comes next in a segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Record(Found),
    Damaged(Stretch),
    End,
}

/// A whole frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub offset: u64,
    /// Where the next one begins.
    pub after: u64,
    pub ordinal: u64,
    pub appended: u64,
    /// A write began with it.
    pub begins: bool,
    pub payload: Vec<u8>,
}

/// Bytes that are no whole frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stretch {
    pub from: u64,
    pub to: u64,
    /// It can only be the last write, which was never finished: what the last frame lacks lies
    /// past the end, or nothing was written at all.
    pub torn: bool,
    /// How many of them the disk could not read.
    pub unreadable: u64,
}

/// A place in a segment.
#[derive(Debug)]
pub(super) struct Scanner {
    file: Arc<dyn File>,
    place: Place,
    end: u64,
    /// The ordinal of the next frame, when that is known.
    expected: Option<u64>,
    /// Where the last whole frame ended.
    whole: u64,
    window: Vec<u8>,
    window_at: u64,
    /// What the disk could not read, as far as it is known.
    unreadable: Vec<Range<u64>>,
}

impl Scanner {
    /// From the place on up to `end`.
    pub fn new(file: Arc<dyn File>, place: Place, end: u64, expected: Option<u64>) -> Scanner {
        let (window, unreadable) = (Vec::new(), Vec::new());
        Scanner { file, place, end, expected, whole: place.offset, window, window_at: 0, unreadable }
    }

    /// The segment has grown.
    pub fn reach(&mut self, end: u64) {
        self.end = self.end.max(end);
    }

    pub fn expected(&self) -> Option<u64> {
        self.expected
    }

    pub fn next(&mut self) -> io::Result<Step> {
        let from = self.place.offset;
        if from >= self.end {
            return Ok(Step::End);
        }
        if let Some(head) = self.head(from)? {
            if let Some(found) = self.found(from, head)? {
                return Ok(Step::Record(found));
            }
            if from + head.frame() as u64 > self.end {
                return Ok(self.damaged(from, self.end, true));
            }
        }
        let to = self.resync(from)?;
        let torn = to == self.end && (self.end - from < FRAME as u64 || self.is_blank(from)?);
        Ok(self.damaged(from, to, torn))
    }

    fn damaged(&mut self, from: u64, to: u64, torn: bool) -> Step {
        self.place.offset = to;
        let within = |range: &Range<u64>| range.end.min(to).saturating_sub(range.start.max(from));
        let unreadable = self.unreadable.iter().map(within).sum();
        self.unreadable.retain(|range| range.end > to);
        Step::Damaged(Stretch { from, to, torn: torn && unreadable == 0, unreadable })
    }

    /// A head at `offset` that belongs there and is of a record that may follow.
    fn head(&mut self, offset: u64) -> io::Result<Option<Head>> {
        let place = Place { offset, ..self.place };
        let Some(head) = frame::head(self.bytes(offset, FRAME)?, place) else { return Ok(None) };
        // No more records can be gone than there is room for.
        let lost = (offset - self.whole) / FRAME as u64;
        let fits = |first: u64| (first..=first.saturating_add(lost)).contains(&head.ordinal);
        Ok(self.expected.is_none_or(fits).then_some(head))
    }

    /// The whole frame at `offset`, if the rest is as whole as its head; it is passed then.
    fn found(&mut self, offset: u64, head: Head) -> io::Result<Option<Found>> {
        let bytes = self.bytes(offset, head.frame())?;
        let Some(frame) = bytes.get(..head.frame()).filter(|frame| head.is_whole(frame)) else {
            return Ok(None);
        };
        let payload = frame[FRAME..].to_vec();
        let after = offset + head.frame() as u64;
        self.place.offset = after;
        self.whole = after;
        self.expected = Some(head.ordinal + 1);
        Ok(Some(Found {
            offset,
            after,
            ordinal: head.ordinal,
            appended: head.appended,
            begins: head.begins,
            payload,
        }))
    }

    /// Where the next whole frame after the damage at `from` lies, or the end.
    fn resync(&mut self, from: u64) -> io::Result<u64> {
        let mut at = from;
        while at < self.end {
            let Some(head) = self.head(at)? else {
                at = self.marker(at + 1)?;
                continue;
            };
            let frame = self.bytes(at, head.frame())?.get(..head.frame());
            if frame.is_some_and(|frame| head.is_whole(frame)) {
                return Ok(at);
            }
            at += head.frame() as u64;
        }
        Ok(self.end)
    }

    /// The next marker at `at` or after, or the end.
    fn marker(&mut self, mut at: u64) -> io::Result<u64> {
        while at < self.end {
            let bytes = self.bytes(at, FRAME)?;
            if bytes.len() < MARKER.len() {
                break;
            }
            match bytes.windows(MARKER.len()).position(|four| four == MARKER) {
                Some(found) => return Ok(at + found as u64),
                None => at += (bytes.len() - MARKER.len() + 1) as u64,
            }
        }
        Ok(self.end)
    }

    /// Whether nothing but zeros lies from here to the end, as a file system leaves it that has
    /// written down a length and not yet the bytes.
    fn is_blank(&mut self, mut at: u64) -> io::Result<bool> {
        while at < self.end {
            let bytes = self.bytes(at, 1)?;
            if bytes.is_empty() {
                break;
            }
            if bytes.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            at += bytes.len() as u64;
        }
        Ok(true)
    }

    /// What lies at `offset`: at least `count` bytes, unless the end comes first.
    fn bytes(&mut self, offset: u64, count: usize) -> io::Result<&[u8]> {
        let left = usize::try_from(self.end.saturating_sub(offset)).unwrap_or(usize::MAX);
        let count = count.min(left);
        let known = self.window_at..self.window_at + self.window.len() as u64;
        if !(known.contains(&offset) && offset + count as u64 <= known.end) {
            self.window.resize(count.max(READ).min(left), 0);
            self.window_at = offset;
            let read = read_around(&*self.file, &mut self.window, offset);
            // After an error nothing is known.
            self.window.truncate(read.as_ref().map_or(0, |(read, _)| *read));
            self.note_unreadable(read?.1);
        }
        let start = (offset - self.window_at) as usize;
        Ok(self.window.get(start..).unwrap_or_default())
    }

    /// What was just read says more than what was read before.
    fn note_unreadable(&mut self, found: Vec<Range<u64>>) {
        let window = self.window_at..self.window_at + self.window.len() as u64;
        let before = std::mem::take(&mut self.unreadable).into_iter();
        self.unreadable = before
            .flat_map(|old| [old.start..old.end.min(window.start), old.start.max(window.end)..old.end])
            .chain(found)
            .filter(|range| !range.is_empty())
            .collect();
    }
}
