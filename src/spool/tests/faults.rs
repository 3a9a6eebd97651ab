//! Calls that fail and disks that are full: told, and nothing that was acknowledged is lost.

use std::io::ErrorKind;

use super::super::layout::Layout;
use super::memory::{Fault, MemoryDisk};
use super::{Random, all, dir, open, options, payloads};
use crate::spool::consumer::Reader;
use crate::spool::writer::Writer;
use crate::spool::{AppendError, Options, Record};

fn record(i: usize) -> Vec<u8> {
    format!("record {i} {}", "x".repeat(i * 37 % 400)).into_bytes()
}

fn small() -> Options {
    Options { segment_bytes: 1024, ..options() }
}

/// A life of a spool in which one call fails. What was acknowledged and not shipped, and whether
/// anything was refused.
fn life(disk: &MemoryDisk) -> (Vec<Vec<u8>>, bool) {
    let (mut waiting, mut refused) = (Vec::new(), false);
    // What fails once is tried again.
    let opened = open(disk, &small()).or_else(|_| {
        refused = true;
        open(disk, &small())
    });
    let (mut writer, mut reader) = opened.expect("the second time nothing fails");
    for i in 0..24 {
        match writer.append(&[&[record(i)]])[0] {
            Ok(()) => waiting.push(record(i)),
            Err(_) => refused = true,
        }
        if i % 5 == 4 {
            let found = reader.peek(3, usize::MAX).unwrap();
            assert_eq!(payloads(&found), waiting[..found.len()], "in order, and none that was refused");
            if reader.done(found.len()).is_err() {
                refused = true;
                reader.done(found.len()).expect("it can be tried again");
            }
            waiting.drain(..found.len());
        }
    }
    let works = |writer: &mut Writer| writer.append(&[&[record(24)]])[0].is_ok();
    assert!(works(&mut writer) || works(&mut writer), "it works again");
    waiting.push(record(24));
    assert_eq!(payloads(&all(&mut reader)), waiting);
    assert_eq!(disk.get().retried, 0, "a file that failed was written or synced again");
    (waiting, refused)
}

#[test]
fn whichever_call_fails_nothing_acknowledged_is_lost_and_the_spool_works_again() {
    let whole = MemoryDisk::new();
    let (_, refused) = life(&whole);
    assert!(!refused);
    let calls = whole.get().calls;
    assert!(calls > 80, "{calls} calls");
    for fault in [Fault::NoSpace, Fault::Broken] {
        let mut told = 0;
        for call in 0..calls {
            let disk = MemoryDisk::new();
            disk.get().fail_in = Some((call, fault));
            let (waiting, refused) = life(&disk);
            told += u64::from(refused);
            let ended = [disk.fork().restart(), disk.fork().crash(&mut Random(call))];
            for (how, disk) in ["killed", "without power"].iter().zip(ended) {
                let (_writer, mut reader) = open(&disk, &small()).unwrap();
                assert_eq!(payloads(&all(&mut reader)), waiting, "{fault:?} at call {call}, {how}");
                assert_eq!(reader.shared().depth().missing_records, 0, "{fault:?} at call {call}, {how}");
            }
        }
        assert!(told > calls / 3, "{fault:?}: {told} of {calls} were told");
    }
}

/// What became of the records of one life.
#[derive(Debug, Clone, Default)]
struct Fates {
    acknowledged: Vec<usize>,
    done: Vec<usize>,
    maybe_done: Vec<usize>,
}

impl Fates {
    fn live(&mut self, disk: &MemoryDisk) {
        let Ok((mut writer, mut reader)) = open(disk, &small()) else { return };
        for i in 0..24 {
            if writer.append(&[&[record(i)]])[0].is_ok() {
                self.acknowledged.push(i);
            }
            if i % 5 == 4
                && let Ok(found) = reader.peek(3, usize::MAX)
            {
                let noted = reader.done(found.len()).is_ok();
                if noted { &mut self.done } else { &mut self.maybe_done }.extend(found.iter().map(id));
            }
        }
    }

    /// The next start looks, and takes a record.
    fn begin(&mut self, disk: &MemoryDisk, how: &str) {
        // Of a spool that was only being made the call is another one.
        let opened = open(disk, &small()).or_else(|_| open(disk, &small()));
        let (mut writer, mut reader) = opened.unwrap();
        self.see(&mut reader, how);
        assert!(writer.append(&[&[record(24)]])[0].is_ok());
        self.acknowledged.push(24);
    }

    fn see(&self, reader: &mut Reader, how: &str) {
        let found: Vec<usize> = all(reader).iter().map(id).collect();
        assert!(found.windows(2).all(|two| two[0] < two[1]), "{how}: {found:?}");
        assert!(found.iter().all(|id| !self.done.contains(id)), "{how}: again, {found:?} {self:?}");
        for id in &self.acknowledged {
            let over = self.done.contains(id) || self.maybe_done.contains(id);
            assert!(over || found.contains(id), "{how}: {id} is lost, {found:?} {self:?}");
        }
        assert_eq!(reader.shared().depth().missing_records, 0, "{how}: none is");
    }
}

fn id(record: &Record) -> usize {
    (0..=24).find(|i| self::record(*i) == record.payload).expect("one that was appended")
}

/// The call of a start that writes the checkpoint's slot anew; the next one syncs it.
const SETTLE: u64 = 5;

#[test]
fn a_start_goes_by_nothing_that_the_process_before_left_off_the_disk() {
    let whole = MemoryDisk::new();
    life(&whole);
    let (calls, mut killed) = (whole.get().calls, 0);
    // A call that is cut short, or one that fails, and the process is killed soon after it.
    for (call, after) in (0..calls).flat_map(|call| (0..4).map(move |after| (call, after))) {
        let disk = MemoryDisk::new();
        disk.get().fail_in = Some((call, if after == 0 { Fault::Killed } else { Fault::Broken }));
        disk.get().killed_in = (after > 0).then(|| after - 1);
        let (mut fates, how) = (Fates::default(), format!("call {call}, {after} later"));
        fates.live(&disk);
        killed += u64::from(disk.get().killed);
        // At the next start all goes well, or the checkpoint can be written anew only in a new file.
        for fails in [None, Some(SETTLE), Some(SETTLE + 1)] {
            let (disk, mut fates) = (disk.fork().restart(), fates.clone());
            disk.get().fail_in = fails.map(|call| (call, Fault::Broken));
            fates.begin(&disk, &how);
            for power in 0..3 {
                let disk = disk.fork().crash(&mut Random(call * 16 + power));
                let (_writer, mut reader) = open(&disk, &small()).unwrap();
                fates.see(&mut reader, &format!("{how}, {fails:?}, without power"));
            }
        }
    }
    assert!(killed > calls * 3, "{killed} of {} were killed", calls * 4);
}

#[test]
fn a_file_whose_sync_failed_is_never_written_again() {
    let disk = MemoryDisk::new();
    let (mut writer, mut reader) = open(&disk, &options()).unwrap();
    assert!(writer.append(&[&[record(0)]])[0].is_ok());
    // The write, then the sync.
    disk.get().fail_in = Some((1, Fault::Broken));
    assert!(matches!(writer.append(&[&[record(1)], &[record(2)]])[..], [Err(_), Err(_)]));
    for i in 3..6 {
        assert!(writer.append(&[&[record(i)]])[0].is_ok());
    }
    let segments = disk.get().paths().iter().filter(|path| path.starts_with("/spool/segments")).count();
    assert_eq!(segments, 2, "it goes on in a new segment");
    assert_eq!(disk.get().retried, 0);
    let expected = [record(0), record(3), record(4), record(5)];
    assert_eq!(payloads(&all(&mut reader)), expected);
    let (_writer, mut reader) = open(&disk.crash(&mut Random(1)), &options()).unwrap();
    assert_eq!(payloads(&all(&mut reader)), expected);
}

#[test]
fn what_a_failed_write_left_behind_is_not_taken_for_a_record() {
    let disk = MemoryDisk::new();
    let (mut writer, reader) = open(&disk, &options()).unwrap();
    assert!(writer.append(&[&[record(0)]])[0].is_ok());
    let before = disk.get().content(&layout().segment(1)).clone();
    assert!(writer.append(&[&[record(1)]])[0].is_ok());
    let whole = disk.get().content(&layout().segment(1)).clone();
    // As if the second write had failed in its sync and could not be cut off.
    *disk.get().content(&layout().segment(1)) = before;
    drop((writer, reader));
    let (mut writer, _reader) = open(&disk, &options()).unwrap();
    assert!(writer.append(&[&[record(2)]])[0].is_ok());
    *disk.get().content(&layout().segment(1)) = whole;
    drop((writer, _reader));
    let (_writer, mut reader) = open(&disk, &options()).unwrap();
    assert_eq!(payloads(&all(&mut reader)), [record(0), record(2)]);
    assert_eq!(reader.shared().depth().missing_records, 0);
}

#[test]
fn a_full_disk_is_told_and_what_is_shipped_makes_room() {
    let disk = MemoryDisk::new();
    let (mut writer, mut reader) = open(&disk, &small()).unwrap();
    disk.get().capacity = Some(16 * 1024);
    let mut waiting = Vec::new();
    let mut i = 0;
    for round in 0..5 {
        let full = loop {
            match writer.append(&[&[record(i)]]).remove(0) {
                Ok(()) => waiting.push(record(i)),
                Err(error) => break error,
            }
            i += 1;
        };
        let full = matches!(full, AppendError::DiskFull(error) if error.kind() == ErrorKind::StorageFull);
        assert!(full, "round {round}");
        assert!(waiting.len() > 8, "round {round}: {} records", waiting.len());
        // To the last byte.
        let left = 16 * 1024 - used(&disk);
        disk.get().capacity = Some(16 * 1024 - left);
        assert!(writer.append(&[&[record(i)]])[0].is_err());
        let found = reader.peek(8 + round, usize::MAX).unwrap();
        assert_eq!(payloads(&found), waiting[..found.len()]);
        reader.done(found.len()).expect("what is shipped can be noted on a full disk");
        waiting.drain(..found.len());
        disk.get().capacity = Some(16 * 1024);
    }
    assert_eq!(payloads(&all(&mut reader)), waiting);
}

fn used(disk: &MemoryDisk) -> u64 {
    let mut memory = disk.get();
    memory.paths().iter().map(|path| memory.content(path).len() as u64).sum()
}

fn layout() -> Layout {
    Layout { root: dir() }
}

#[test]
fn a_segment_that_is_wholly_shipped_makes_room_without_another_record() {
    let disk = MemoryDisk::new();
    let (mut writer, mut reader) = open(&disk, &options()).unwrap();
    assert!(writer.append(&[&[vec![7; 2000]]])[0].is_ok());
    assert_eq!(all(&mut reader).len(), 1);
    reader.done(1).unwrap();
    let full = used(&disk);
    disk.get().capacity = Some(full);
    assert!(writer.append(&[&[record(0)]])[0].is_err());
    assert!(writer.append(&[&[record(1)]])[0].is_ok(), "the failure gave the shipped segment up");
    assert_eq!(payloads(&all(&mut reader)), [record(1)]);
}

#[test]
fn damage_that_comes_while_the_spool_is_open_is_told_and_costs_no_other_record() {
    let disk = MemoryDisk::new();
    let (mut writer, mut reader) = open(&disk, &options()).unwrap();
    for i in 0..6 {
        assert!(writer.append(&[&[record(i)]])[0].is_ok());
    }
    let second = 64 + 32 + record(0).len() + 40;
    disk.get().content(&layout().segment(1))[second] ^= 1;
    let last = disk.get().content(&layout().segment(1)).len() - 1;
    disk.get().content(&layout().segment(1))[last] ^= 1;
    let found = all(&mut reader);
    assert_eq!(payloads(&found), [record(0), record(2), record(3), record(4)]);
    let depth = reader.shared().depth();
    assert_eq!((depth.events, depth.damaged_ranges, depth.missing_records), (4, 2, 2));
    assert!(writer.append(&[&[record(6)]])[0].is_ok());
    assert_eq!(all(&mut reader).last().unwrap().payload, record(6), "what follows is read");
    assert_eq!(all(&mut reader).last().unwrap().ordinal, 7);
    reader.done(5).unwrap();
    assert_eq!(reader.shared().depth().missing_records, 2, "still");
    drop((writer, reader));
    let (_writer, reader) = open(&disk, &options()).unwrap();
    let depth = reader.shared().depth();
    assert_eq!((depth.events, depth.damaged_ranges, depth.missing_records), (0, 2, 2), "still");
}

#[test]
fn damage_that_cannot_be_set_aside_keeps_its_segment() {
    let disk = MemoryDisk::new();
    let (mut writer, reader) = open(&disk, &small()).unwrap();
    for i in 0..20 {
        assert!(writer.append(&[&[record(i)]])[0].is_ok());
    }
    disk.get().content(&layout().segment(1))[64 + 40] ^= 1;
    drop((writer, reader));
    disk.get().capacity = Some(1);
    let (_writer, mut reader) = open(&disk, &small()).unwrap();
    let found = all(&mut reader);
    assert_eq!(found.len(), 19);
    reader.done(19).unwrap();
    assert!(disk.get().paths().contains(&layout().segment(1)), "its bytes are nowhere else");
    assert_eq!(reader.shared().depth().damaged_ranges, 1);
    disk.get().capacity = None;
    reader.tidy();
    assert!(!disk.get().paths().contains(&layout().segment(1)));
    assert!(disk.get().paths().iter().any(|path| path.starts_with("/spool/damaged")));
}
