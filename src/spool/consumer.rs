//! Gives records out in order, and notes how far they are taken care of. It reads by a handle of
//! its own, never past what is on disk, and checks every frame again: what was damaged since the
//! spool was opened is told as what was damaged before.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::checkpoint::Checkpoint;
use super::frame::{Place, time};
use super::scan::{Found, Scanner, Step, Stretch};
use super::shared::{Segment, Shared};
use super::survey::Damage;
use super::{Error, Record};

/// The end that reads.
#[derive(Debug)]
pub(super) struct Reader {
    shared: Arc<Shared>,
    checkpoint: Checkpoint,
    /// The segment that is read, or an earlier one.
    segment: u64,
    scanner: Option<Scanner>,
    /// Damage that no whole frame has followed yet, and the ordinal that was expected.
    damaged: Option<(Stretch, u64)>,
    ahead: VecDeque<Ahead>,
    ahead_bytes: usize,
    /// How many the last look gave that are not done.
    peeked: usize,
}

/// A record that was read and is not taken care of.
#[derive(Debug)]
struct Ahead {
    segment: u64,
    after: u64,
    record: Record,
}

impl Reader {
    pub fn new(shared: Arc<Shared>, checkpoint: Checkpoint) -> Reader {
        let mut reader = Reader {
            shared,
            checkpoint,
            segment: 0,
            scanner: None,
            damaged: None,
            ahead: VecDeque::new(),
            ahead_bytes: 0,
            peeked: 0,
        };
        // Segments without a whole record have nothing to wait for.
        if let Err(error) = reader.pass(0) {
            tracing::warn!(%error, "damaged segments of the spool stay for now");
        }
        reader
    }

    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The next records, as [`Consumer::peek`](super::Consumer::peek) says; none when there are none.
    pub fn peek(&mut self, records: usize, bytes: usize) -> Result<Vec<Record>, Error> {
        if self.shared.state().is_untidy() {
            self.shared.tidy();
        }
        let filled = self.fill(records.max(1), bytes);
        if self.ahead.is_empty() {
            filled?;
        }
        let mut sum = 0;
        let fits = self.ahead.iter().take(records.max(1)).take_while(|ahead| {
            sum += ahead.record.payload.len();
            sum <= bytes
        });
        let count = fits.count().max(1).min(self.ahead.len());
        self.peeked = count;
        Ok(self.ahead.iter().take(count).map(|ahead| ahead.record.clone()).collect())
    }

    /// The first `count` of what the last look gave are taken care of.
    pub fn done(&mut self, count: usize) -> Result<(), Error> {
        if count > self.peeked {
            return Err(Error::NotPeeked { count, peeked: self.peeked });
        }
        self.pass(count)?;
        self.peeked = 0;
        Ok(())
    }

    /// Kept segments go when their time is over, also while nothing is shipped.
    pub fn tidy(&self) {
        self.shared.tidy();
    }

    fn pass(&mut self, count: usize) -> Result<(), Error> {
        let mut done: BTreeMap<u64, (u64, u64, u64)> = BTreeMap::new();
        for Ahead { segment, after, record } in self.ahead.iter().take(count) {
            let known = done.entry(*segment).or_default();
            *known = (known.0 + 1, *after, record.ordinal);
        }
        let (before, position) = {
            let state = self.shared.state();
            (state.position, state.after(&done))
        };
        if position != before {
            self.checkpoint.write(position)?;
            self.shared.state().advance(position, &done);
        }
        for Ahead { record, .. } in self.ahead.drain(..count) {
            self.ahead_bytes -= record.payload.len();
        }
        self.note_oldest();
        self.shared.tidy();
        Ok(())
    }

    /// When the first record was appended that is not taken care of.
    fn note_oldest(&mut self) {
        if self.ahead.is_empty() {
            // What can't be read now is told by the next look.
            drop(self.fill(1, 1));
        }
        let mut state = self.shared.state();
        match self.ahead.front() {
            Some(first) => state.oldest = Some(first.record.appended_at),
            None if state.segments.iter().all(|segment| segment.waiting == 0) => state.oldest = None,
            None => {}
        }
    }

    fn fill(&mut self, records: usize, bytes: usize) -> Result<(), Error> {
        while self.ahead.len() < records && self.ahead_bytes < bytes.max(1) {
            if !self.step()? {
                break;
            }
        }
        Ok(())
    }

    /// One step through the segments; false when there is nothing more for now.
    fn step(&mut self) -> Result<bool, Error> {
        let Some(segment) = self.current()? else { return Ok(false) };
        let Some(scanner) = self.scanner.as_mut() else { return Ok(false) };
        scanner.reach(segment.durable);
        let expected = scanner.expected().unwrap_or(segment.first);
        let path = self.shared.layout.segment(segment.number);
        match scanner.next().map_err(Error::io("read", &path))? {
            Step::Record(found) => self.found(&segment, found),
            Step::Damaged(stretch) => {
                self.damaged = Some((stretch, expected));
                if stretch.to >= segment.durable {
                    self.tell(&segment, segment.next);
                }
            }
            Step::End if segment.sealed => {
                self.segment = segment.number + 1;
                self.scanner = None;
            }
            Step::End => return Ok(false),
        }
        Ok(true)
    }

    /// The segment to read in, as it is now, with its scanner.
    fn current(&mut self) -> Result<Option<Segment>, Error> {
        let segment = {
            let state = self.shared.state();
            state.segments.iter().find(|segment| segment.number >= self.segment).cloned()
        };
        let Some(segment) = segment else { return Ok(None) };
        if segment.number != self.segment || self.scanner.is_none() {
            let path = self.shared.layout.segment(segment.number);
            let file = self.shared.disk.open(&path, false).map_err(Error::io("open", &path))?;
            let place = Place { spool: self.shared.spool, segment: segment.number, offset: segment.from };
            let expected = Some(segment.first).filter(|first| *first > 0);
            self.scanner = Some(Scanner::new(file, place, segment.durable, expected));
            self.segment = segment.number;
        }
        Ok(Some(segment))
    }

    fn found(&mut self, segment: &Segment, found: Found) {
        self.tell(segment, found.ordinal);
        self.shared.found(segment.number, found.ordinal);
        self.ahead_bytes += found.payload.len();
        let record =
            Record { ordinal: found.ordinal, appended_at: time(found.appended), payload: found.payload };
        self.ahead.push_back(Ahead { segment: segment.number, after: found.after, record });
    }

    /// Tells of damage, if there was any before the record with `ordinal`.
    fn tell(&mut self, segment: &Segment, ordinal: u64) {
        if let Some((Stretch { from, to, unreadable, .. }, expected)) = self.damaged.take() {
            let missing = expected..ordinal.max(expected);
            self.shared.damage(Damage { segment: segment.number, from, to, missing, unreadable });
        }
    }
}
