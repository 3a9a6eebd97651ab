//! Damage costs the record that it hit and no other, wherever it is.

use std::path::PathBuf;

use super::super::frame::{FRAME, HEADER, MARKER, Place, SpoolId, encode, head};
use super::super::layout::Layout;
use super::memory::MemoryDisk;
use super::{all, dir, open, options, payloads, soak};
use crate::spool::Options;

const RECORDS: usize = 64;

/// A spool of 64 records in one segment, among them an empty one, one with a whole frame in it that
/// was copied from the same spool, and one of nothing but markers. With where each frame ends.
fn spool() -> (MemoryDisk, Vec<Vec<u8>>, Vec<usize>) {
    let disk = MemoryDisk::new();
    let (mut writer, _reader) = open(&disk, &wide()).unwrap();
    let (mut records, mut ends): (Vec<Vec<u8>>, Vec<usize>) = (Vec::new(), Vec::new());
    for i in 0..RECORDS {
        let end = ends.last().copied().unwrap_or(HEADER);
        let record = match i {
            0 | 31 => Vec::new(),
            40 => {
                let (from, to) = (ends[9], ends[10]);
                let frame = disk.get().content(&segment())[from..to].to_vec();
                [b"{\"copy\":\"".to_vec(), frame, b"\"}".to_vec()].concat()
            }
            41 => MARKER.repeat(20),
            _ => format!("{{\"request_id\":\"r{i}\",\"n\":{}}}", "7".repeat(i * 11 % 60)).into_bytes(),
        };
        ends.push(end + FRAME + record.len());
        assert!(writer.append(&[std::slice::from_ref(&record)])[0].is_ok());
        records.push(record);
    }
    drop((writer, _reader));
    (disk, records, ends)
}

fn wide() -> Options {
    Options { segment_bytes: 1 << 20, ..options() }
}

fn segment() -> PathBuf {
    Layout { root: dir() }.segment(1)
}

/// What comes out of the disk, how many ranges are damaged, how many records are known to be gone;
/// the same again after another start.
fn recovered(disk: &MemoryDisk) -> (Vec<Vec<u8>>, u64, u64) {
    let look = || {
        let (_writer, mut reader) = open(disk, &wide()).unwrap();
        let found = payloads(&all(&mut reader));
        let depth = reader.shared().depth();
        assert_eq!(depth.events, found.len() as u64);
        (found, depth.damaged_ranges, depth.missing_records)
    };
    let found = look();
    // Which one is of no matter; each costs as much as the first.
    if soak() || disk.get().calls.is_multiple_of(5) {
        assert_eq!(look(), found, "a second start sees the same");
    }
    found
}

fn without(records: &[Vec<u8>], index: usize) -> Vec<Vec<u8>> {
    records.iter().enumerate().filter(|(i, _)| *i != index).map(|(_, record)| record.clone()).collect()
}

#[test]
fn a_spool_cut_at_any_byte_gives_exactly_the_whole_records() {
    let (disk, records, ends) = spool();
    let length = ends[RECORDS - 1];
    for at in 0..length {
        let cut = disk.fork();
        cut.get().content(&segment()).truncate(at);
        let whole = ends.iter().filter(|end| **end <= at).count();
        let (found, ..) = recovered(&cut);
        assert_eq!(found, records[..whole], "cut at {at}");
        match whole {
            0 => assert!(!cut.get().paths().contains(&segment()), "cut at {at}: nothing is left of it"),
            _ => assert_eq!(cut.get().content(&segment()).len(), ends[whole - 1], "cut at {at}: a torn tail"),
        }
    }
}

#[test]
fn a_flipped_bit_anywhere_in_a_segment_costs_its_own_record_alone_and_is_told() {
    let (disk, records, ends) = spool();
    for at in 0..ends[RECORDS - 1] {
        let flipped = disk.fork();
        flipped.get().content(&segment())[at] ^= 1 << (at % 8);
        let hit = ends.iter().filter(|end| **end <= at).count();
        let (found, ranges, missing) = recovered(&flipped);
        assert_eq!(ranges, 1, "flipped at {at}: not told");
        if at < HEADER {
            assert_eq!((found, missing), (records.clone(), 0), "flipped at {at}, in the header");
            continue;
        }
        assert_eq!(found, without(&records, hit), "flipped at {at}, in record {hit}");
        // What the last one was is not known: it could be a write that was never finished.
        assert_eq!(missing, u64::from(hit < RECORDS - 1), "flipped at {at}");
        let from = if hit == 0 { HEADER } else { ends[hit - 1] };
        let name = format!("{:020}-{from}-{}.bin", 1, ends[hit] - from);
        let mut kept = disk.get().content(&segment())[from..ends[hit]].to_vec();
        kept[at - from] ^= 1 << (at % 8);
        let aside = Layout { root: dir() }.damaged().join(&name);
        assert!(flipped.get().paths().contains(&aside), "flipped at {at}: {name} is not there");
        assert_eq!(*flipped.get().content(&aside), kept, "flipped at {at}");
    }
}

#[test]
fn a_flipped_bit_or_a_cut_anywhere_in_the_identity_or_the_checkpoint_costs_nothing() {
    let (disk, records, _) = spool();
    let layout = Layout { root: dir() };
    for path in [layout.identity(), layout.checkpoint()] {
        let length = disk.get().content(&path).len();
        for at in 0..length {
            let flipped = disk.fork();
            flipped.get().content(&path)[at] ^= 1 << (at % 8);
            assert_eq!(recovered(&flipped).0, records, "{} flipped at {at}", path.display());
            // Between the slots there is nothing that could be cut half.
            if at % 64 == 0 || at < 256 || at + 256 > length {
                let cut = disk.fork();
                cut.get().content(&path).truncate(at);
                assert_eq!(recovered(&cut).0, records, "{} cut at {at}", path.display());
            }
        }
    }
}

#[test]
fn a_whole_frame_at_another_place_is_no_record() {
    let disk = MemoryDisk::new();
    let (mut writer, _reader) = open(&disk, &wide()).unwrap();
    let record = |i: usize| vec![i as u8; 100];
    for i in 0..20 {
        assert!(writer.append(&[&[record(i)]])[0].is_ok());
    }
    drop((writer, _reader));
    let at = |i: usize| HEADER + i * (FRAME + 100)..HEADER + (i + 1) * (FRAME + 100);
    // The disk lost a block and put another one into its place, with a number that would do.
    let mut bytes = disk.get().content(&segment()).clone();
    bytes[at(10)].fill(0);
    bytes.copy_within(at(13), at(11).start);
    *disk.get().content(&segment()) = bytes;
    let expected: Vec<Vec<u8>> = (0..20).filter(|i| ![10, 11].contains(i)).map(record).collect();
    assert_eq!(recovered(&disk), (expected, 1, 2));
    // Nor is one of another segment, or of another spool.
    let place = Place { spool: SpoolId([1; 16]), segment: 1, offset: 64 };
    let mut frame = Vec::new();
    encode(&mut frame, place, 1, 0, b"payload");
    assert!(head(&frame, place).is_some());
    for other in [
        Place { spool: SpoolId([2; 16]), ..place },
        Place { segment: 2, ..place },
        Place { offset: 65, ..place },
    ] {
        assert!(head(&frame, other).is_none(), "{other:?}");
    }
}
