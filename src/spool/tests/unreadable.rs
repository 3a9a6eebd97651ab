//! A disk that can't read a stretch of a segment (EIO): what is whole around it is given out, the
//! rest is told and kept, and found when the disk can read it again.

use std::path::PathBuf;
use std::sync::Arc;

use super::super::disk::Disk;
use super::super::frame::{FRAME, HEADER};
use super::super::inspect::inspect;
use super::super::layout::Layout;
use super::super::retained::retained;
use super::memory::MemoryDisk;
use super::{Reader, all, dir, open, options, payloads};
use crate::spool::Options;

const RECORDS: usize = 64;
const PAYLOAD: usize = 8160;
const END: usize = HEADER + RECORDS * (FRAME + PAYLOAD);
const BLOCK: usize = 4096;

fn layout() -> Layout {
    Layout { root: dir() }
}

fn segment() -> PathBuf {
    layout().segment(1)
}

fn wide() -> Options {
    Options { segment_bytes: 1 << 20, ..options() }
}

fn record(i: usize) -> Vec<u8> {
    let mut record = i.to_le_bytes().to_vec();
    record.resize(PAYLOAD, b'x');
    record
}

/// Which of the records they are.
fn ids(payloads: impl IntoIterator<Item = Vec<u8>>) -> Vec<usize> {
    let id = |payload: Vec<u8>| {
        let id = usize::from_le_bytes(payload[..8].try_into().unwrap());
        assert!(payload == record(id), "a record that nobody appended");
        id
    };
    payloads.into_iter().map(id).collect()
}

fn waiting(reader: &mut Reader) -> Vec<usize> {
    ids(payloads(&all(reader)))
}

fn everything() -> Vec<usize> {
    (0..RECORDS).collect()
}

/// 64 records of two blocks each. More than is read at once.
fn spool() -> MemoryDisk {
    let disk = MemoryDisk::new();
    let (mut writer, _reader) = open(&disk, &wide()).unwrap();
    for i in 0..RECORDS {
        assert!(writer.append(&[&[record(i)]])[0].is_ok());
    }
    drop((writer, _reader));
    disk
}

/// Those that lie in no block of these.
fn outside(from: usize, to: usize) -> Vec<usize> {
    let frame = |i: usize| HEADER + i * (FRAME + PAYLOAD)..HEADER + (i + 1) * (FRAME + PAYLOAD);
    let is_hit = |i: usize| frame(i).start < to && from < frame(i).end;
    (0..RECORDS).filter(|i| !is_hit(*i)).collect()
}

fn aside(disk: &MemoryDisk) -> Vec<String> {
    disk.files(&layout().damaged()).unwrap().into_iter().map(|file| file.name).collect()
}

fn kept(disk: &MemoryDisk) -> Vec<usize> {
    ids(retained(Arc::new(disk.clone()), &dir(), None).unwrap().map(|record| record.unwrap().payload))
}

#[test]
fn a_block_that_cannot_be_read_costs_its_own_records_alone_and_is_told_and_kept() {
    let last = END / BLOCK;
    for block in [0, 1, 2, 3, 62, 63, 64, 65, 100, last - 2, last - 1, last] {
        let disk = spool();
        let (from, to) = (block * BLOCK, ((block + 1) * BLOCK).min(END));
        disk.get().spoil(&segment(), [from..to]);
        let expected = outside(from, to);
        let looked = inspect(&disk, &dir()).expect("a look").depth;
        assert_eq!(looked.events, expected.len() as u64, "block {block}");
        assert!(looked.damaged_ranges > 0, "block {block}");
        let (writer, mut reader) = open(&disk, &wide()).expect("it opens");
        let depth = reader.shared().depth();
        assert_eq!(waiting(&mut reader), expected, "block {block}");
        assert!(depth.damaged_ranges > 0 && depth.damaged_bytes > 0, "block {block}");
        // How many there are at the end nobody can know, nor where the first one began.
        let lost = (RECORDS - expected.len()) as u64;
        let known = if block == 0 || expected.last() != Some(&(RECORDS - 1)) { 0 } else { lost };
        assert!(depth.missing_records >= known && depth.missing_records <= lost, "block {block}: {depth:?}");
        assert!(aside(&disk).iter().any(|name| name.ends_with(".unreadable.bin")), "block {block}");
        reader.done(expected.len()).unwrap();
        assert!(!disk.get().paths().contains(&segment()), "block {block}: it is wholly shipped");
        let spared = layout().damaged_segment(1);
        assert!(disk.get().paths().contains(&spared), "block {block}: it is kept");
        assert_eq!(kept(&disk), expected, "block {block}");
        disk.get().spoil(&spared, []);
        assert_eq!(kept(&disk), everything(), "block {block}: with better luck all of it is there");
        drop((writer, reader));
        let (_writer, mut reader) = open(&disk, &wide()).unwrap();
        assert_eq!(all(&mut reader), [], "block {block}");
    }
}

#[test]
fn the_copy_of_what_cannot_be_read_has_zeros_there() {
    let disk = spool();
    disk.get().spoil(&segment(), [2 * BLOCK..3 * BLOCK]);
    let opened = open(&disk, &wide()).unwrap();
    drop(opened);
    let name = aside(&disk).remove(0);
    let mut whole = disk.get().content(&segment()).clone();
    whole[2 * BLOCK..3 * BLOCK].fill(0);
    let from: usize = name.split('-').nth(1).unwrap().parse().unwrap();
    let copy = disk.get().content(&layout().damaged().join(&name)).clone();
    assert!(copy.len() > BLOCK && from < 2 * BLOCK, "{name}");
    assert_eq!(copy, whole[from..from + copy.len()], "{name}");
}

#[test]
fn what_can_be_read_again_is_given_out_and_missing_no_more() {
    for (from, to) in [(70, 71), (71, 72), (80, 110)] {
        let disk = spool();
        disk.get().spoil(&segment(), [from * BLOCK..to * BLOCK]);
        let (writer, mut reader) = open(&disk, &wide()).unwrap();
        assert!(reader.shared().depth().missing_records > 0);
        disk.get().spoil(&segment(), []);
        let mut found = Vec::new();
        while let Some(next) = reader.peek(1, usize::MAX).unwrap().pop() {
            found.push(next.payload);
            assert!(reader.shared().depth().events > 0, "it waits");
            reader.done(1).unwrap();
        }
        assert_eq!(ids(found), everything(), "{from} to {to}");
        let depth = reader.shared().depth();
        assert_eq!((depth.events, depth.missing_records), (0, 0), "{from} to {to}");
        drop((writer, reader));
        let (_writer, mut reader) = open(&disk, &wide()).unwrap();
        assert_eq!(all(&mut reader), []);
        assert_eq!(reader.shared().depth().missing_records, 0);
    }
}

#[test]
fn an_end_that_cannot_be_read_is_never_cut_off() {
    for from in [0, BLOCK, 7 * BLOCK, END / BLOCK * BLOCK] {
        let disk = spool();
        disk.get().spoil(&segment(), [from..END]);
        let whole = outside(from, END);
        // Where nothing is left of it there is nothing to wait for.
        let place = if whole.is_empty() { layout().damaged_segment(1) } else { segment() };
        for life in 0..3 {
            let (mut writer, _reader) = open(&disk, &wide()).unwrap();
            assert_eq!(disk.get().content(&place).len(), END, "from {from}, life {life}");
            assert!(writer.append(&[&[record(100 + life)]])[0].is_ok());
        }
        let (writer, mut reader) = open(&disk, &wide()).unwrap();
        let later = vec![100, 101, 102];
        assert_eq!(waiting(&mut reader), [whole.clone(), later.clone()].concat(), "from {from}");
        drop((writer, reader));
        disk.get().spoil(&place, []);
        let (_writer, mut reader) = open(&disk, &wide()).unwrap();
        let (kept, found) = (kept(&disk), waiting(&mut reader));
        assert_eq!([kept, found].concat(), [everything(), later].concat(), "from {from}");
    }
}

#[test]
fn what_goes_bad_while_the_spool_is_open_is_told_and_its_segment_kept() {
    let disk = spool();
    let (writer, mut reader) = open(&disk, &wide()).unwrap();
    disk.get().spoil(&segment(), [80 * BLOCK..83 * BLOCK]);
    let expected = outside(80 * BLOCK, 83 * BLOCK);
    assert_eq!(waiting(&mut reader), expected);
    let depth = reader.shared().depth();
    let lost = (RECORDS - expected.len()) as u64;
    assert_eq!((depth.events, depth.missing_records), (expected.len() as u64, lost));
    // Past the damage; the rest after another start, which does not see it any more.
    reader.peek(50, usize::MAX).unwrap();
    reader.done(50).unwrap();
    drop((writer, reader));
    disk.get().spoil(&segment(), []);
    let (_writer, mut reader) = open(&disk, &wide()).unwrap();
    assert_eq!(waiting(&mut reader), expected[50..]);
    assert_eq!(reader.shared().depth().missing_records, lost, "still");
    reader.done(expected.len() - 50).unwrap();
    assert!(disk.get().paths().contains(&layout().damaged_segment(1)));
    assert_eq!(kept(&disk), everything());
}

#[test]
fn a_checkpoint_that_cannot_be_read_in_places_costs_nothing() {
    for bad in [0..1, BLOCK..BLOCK + 1, 0..2 * BLOCK] {
        let disk = spool();
        disk.get().spoil(&layout().checkpoint(), [bad]);
        let (_writer, mut reader) = open(&disk, &wide()).unwrap();
        assert_eq!(waiting(&mut reader), everything());
    }
}
