//! Takes records in. One write and one sync for all calls that wait; on any failure none of them is
//! promised, and the file is never written or synced again: after a failed sync the kernel takes
//! its pages for clean, and a second one would say yes without having written a thing.

use std::io;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::AppendError;
use super::disk::File;
use super::frame::{self, HEADER, Place, SegmentHeader, millis};
use super::shared::{Segment, Shared};

/// Calls that wait share a write up to so many bytes.
pub(super) const GROUP: usize = 4 * 1024 * 1024;

/// The end that appends.
#[derive(Debug)]
pub(super) struct Writer {
    shared: Arc<Shared>,
    active: Option<Active>,
    next_segment: u64,
    next_ordinal: u64,
    /// From here to the first record of this process nobody was promised anything for certain.
    unsure: Option<u64>,
    group: Vec<u8>,
}

/// The segment that is written.
#[derive(Debug)]
struct Active {
    file: Arc<dyn File>,
    number: u64,
    /// Up to here it is on disk.
    durable: u64,
}

impl Writer {
    pub fn new(shared: Arc<Shared>, next_segment: u64, next_ordinal: u64, unsure: Option<u64>) -> Writer {
        Writer { shared, active: None, next_segment, next_ordinal, unsure, group: Vec::new() }
    }

    /// Appends the records of several calls; the answer to each in turn.
    pub fn append(&mut self, calls: &[&[Vec<u8>]]) -> Vec<Result<(), AppendError>> {
        let (bytes, max_bytes) = (self.shared.state().bytes(), self.shared.options.max_bytes);
        let room = self.room(calls.iter().map(|records| size(records)).sum());
        let mut group = 0;
        let mut answers: Vec<Result<(), AppendError>> = calls
            .iter()
            .map(|records| {
                let size = size(records);
                if bytes + group + size > max_bytes {
                    return Err(AppendError::Full { bytes: bytes + group, max_bytes });
                }
                if room.is_some_and(|room| group + size > room) {
                    return Err(AppendError::DiskFull(self.reserved()));
                }
                group += size;
                Ok(())
            })
            .collect();
        let taken = calls.iter().zip(&answers).filter(|(_, answer)| answer.is_ok());
        let records: Vec<&Vec<u8>> = taken.flat_map(|(records, _)| records.iter()).collect();
        if !records.is_empty()
            && let Err(error) = self.write(&records)
        {
            for answer in answers.iter_mut().filter(|answer| answer.is_ok()) {
                *answer = Err(again(&error).into());
            }
        }
        answers
    }

    /// What may be written without touching the reserve; None: as much as fits. When that is less
    /// than what is `wanted`, what is shipped makes room first, this segment too if nothing of it
    /// waits, now or later.
    fn room(&mut self, wanted: u64) -> Option<u64> {
        let shared = self.shared.clone();
        let reserve = shared.options.reserve_bytes;
        if reserve == 0 {
            return None;
        }
        // Where nobody can say it, the write tells.
        let room = || shared.disk.free(&shared.layout.root).ok().map(|free| free.saturating_sub(reserve));
        let now = room();
        if now.is_none_or(|room| room >= wanted) {
            return now;
        }
        self.seal();
        shared.tidy();
        shared.changed.notify_one();
        room()
    }

    fn reserved(&self) -> io::Error {
        let reserve = self.shared.options.reserve_bytes;
        let text =
            format!("less than the {reserve} bytes would stay free that are reserved for dead letters");
        io::Error::new(io::ErrorKind::StorageFull, text)
    }

    /// All of the records or none.
    fn write(&mut self, records: &[&Vec<u8>]) -> io::Result<()> {
        if self.active.as_ref().is_some_and(|active| active.durable >= self.shared.options.segment_bytes) {
            self.seal();
        }
        let active = match self.active.take() {
            Some(active) => active,
            None => self.begin()?,
        };
        let now = self.shared.disk.now();
        self.encode(&active, records, millis(now));
        let wrote = active.file.write_at(&self.group, active.durable).and_then(|()| active.file.sync());
        if let Err(error) = wrote {
            self.abandon(active);
            return Err(error);
        }
        let durable = active.durable + self.group.len() as u64;
        let count = records.len() as u64;
        self.next_ordinal += count;
        self.unsure = None;
        let mut state = self.shared.state();
        if let Some(segment) = state.segments.back_mut() {
            segment.durable = durable;
            segment.next = self.next_ordinal;
            segment.waiting += count;
        }
        state.oldest.get_or_insert(frame::time(millis(now)));
        drop(state);
        self.active = Some(Active { durable, ..active });
        self.shared.changed.notify_one();
        Ok(())
    }

    fn encode(&mut self, active: &Active, records: &[&Vec<u8>], appended: u64) {
        self.group.clear();
        // A single large call must not keep its memory for ever.
        if self.group.capacity() > 2 * GROUP {
            self.group.shrink_to(GROUP);
        }
        for (record, ordinal) in records.iter().zip(self.next_ordinal..) {
            let offset = active.durable + self.group.len() as u64;
            let place = Place { spool: self.shared.spool, segment: active.number, offset };
            frame::encode(&mut self.group, place, ordinal, appended, record);
        }
    }

    /// A new segment, whose header and name are on disk.
    fn begin(&mut self) -> io::Result<Active> {
        let shared = self.shared.clone();
        let number = self.next_segment;
        self.next_segment += 1;
        let path = shared.layout.segment(number);
        let header = SegmentHeader {
            number,
            spool: shared.spool,
            first: self.next_ordinal,
            unsure: self.unsure.map_or(0, |from| u32::try_from(self.next_ordinal - from).unwrap_or(u32::MAX)),
            created: millis(shared.disk.now()),
        };
        let file = shared.disk.create(&path)?;
        let begun = file
            .write_at(&header.encode(), 0)
            .and_then(|()| file.sync())
            .and_then(|()| shared.disk.sync_dir(&shared.layout.segments()));
        if let Err(error) = begun {
            drop(shared.disk.remove(&path));
            return Err(error);
        }
        let durable = HEADER as u64;
        shared.state().segments.push_back(Segment {
            number,
            first: self.next_ordinal,
            next: self.next_ordinal,
            durable,
            from: durable,
            waiting: 0,
            sealed: false,
        });
        Ok(Active { file, number, durable })
    }

    /// After a failure. What the file holds past its durable length was promised to nobody; if it
    /// can't be cut off, the next segment's first ordinal tells readers so.
    fn abandon(&mut self, active: Active) {
        drop(active.file.cut(active.durable));
        let mut state = self.shared.state();
        let is_last = state.segments.back().is_some_and(|segment| segment.number == active.number);
        if active.durable == HEADER as u64 && is_last {
            state.segments.pop_back();
            drop(state);
            drop(self.shared.disk.remove(&self.shared.layout.segment(active.number)));
        } else if let Some(segment) = state.segments.back_mut() {
            segment.sealed = true;
            drop(state);
            // It may be wholly shipped, and its bytes the ones that lack.
            self.shared.tidy();
        }
        self.shared.changed.notify_one();
    }

    /// The segment is long enough.
    fn seal(&mut self) {
        if self.active.take().is_some()
            && let Some(segment) = self.shared.state().segments.back_mut()
        {
            segment.sealed = true;
        }
    }

    /// Nothing more comes.
    fn close(&mut self) {
        self.seal();
        self.shared.state().closed = true;
        self.shared.changed.notify_one();
    }
}

/// A call that waits for its answer.
#[derive(Debug)]
pub(super) struct Call {
    pub records: Vec<Vec<u8>>,
    pub answer: oneshot::Sender<Result<(), AppendError>>,
    /// Given back when the call is done with.
    pub _room: OwnedSemaphorePermit,
}

/// The writer's thread: takes a call and all others that wait by then, as long as anybody may call.
pub(super) fn run(mut writer: Writer, mut calls: mpsc::Receiver<Call>) {
    while let Some(first) = calls.blocking_recv() {
        let mut bytes = size(&first.records);
        let mut group = vec![first];
        while bytes < GROUP as u64
            && let Ok(call) = calls.try_recv()
        {
            bytes += size(&call.records);
            group.push(call);
        }
        let records: Vec<&[Vec<u8>]> = group.iter().map(|call| call.records.as_slice()).collect();
        let answers = writer.append(&records);
        for (call, answer) in group.into_iter().zip(answers) {
            // Nobody may be there any more; the records stay.
            drop(call.answer.send(answer));
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.close();
    }
}

/// What records take in a segment.
pub(super) fn size(records: &[Vec<u8>]) -> u64 {
    records.iter().map(|record| (frame::FRAME + record.len()) as u64).sum()
}

/// The same error once more; the type has no clone.
fn again(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}
