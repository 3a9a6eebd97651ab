//! What a spool leaves free, what it keeps after it was shipped, and what it says when somebody
//! else changes its folder.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::super::disk::{Disk, RealDisk};
use super::super::layout::Layout;
use super::super::retained::retained;
use super::memory::MemoryDisk;
use super::{all, dir, open, options};
use crate::spool::writer::Writer;
use crate::spool::{AppendError, Error, Options, Spool};

const RESERVE: u64 = 16 * 1024;
const DISK: u64 = 64 * 1024;

fn append(writer: &mut Writer, record: Vec<u8>) -> Result<(), AppendError> {
    writer.append(&[&[record]]).remove(0)
}

fn fill(writer: &mut Writer) -> (usize, AppendError) {
    let mut taken = 0;
    loop {
        match append(writer, vec![7; 1000]) {
            Ok(()) => taken += 1,
            Err(error) => return (taken, error),
        }
    }
}

#[test]
fn a_reserve_of_the_disk_stays_free_and_what_is_shipped_makes_room() {
    // One segment that is never full, and many.
    for segment_bytes in [1 << 20, 4096] {
        let disk = MemoryDisk::new();
        let keep = Options { segment_bytes, reserve_bytes: RESERVE, ..options() };
        let (mut writer, mut reader) = open(&disk, &keep).unwrap();
        disk.get().capacity = Some(DISK);
        for round in 0..3 {
            let (taken, full) = fill(&mut writer);
            assert!(taken > 30, "round {round}: only {taken}");
            assert!(matches!(&full, AppendError::DiskFull(_)), "round {round}: {full}");
            assert!(full.to_string().contains("16384 bytes"), "{full}");
            assert!(disk.free(&dir()).unwrap() >= RESERVE, "round {round}");
            assert!(append(&mut writer, vec![7; 1000]).is_err(), "still");
            let found = all(&mut reader);
            assert_eq!(found.len(), taken);
            reader.done(taken).unwrap();
        }
    }
}

#[test]
fn without_a_reserve_all_of_the_disk_is_taken() {
    let disk = MemoryDisk::new();
    let (mut writer, _reader) = open(&disk, &options()).unwrap();
    disk.get().capacity = Some(DISK);
    fill(&mut writer);
    assert!(disk.free(&dir()).unwrap() < 2 * 1100);
}

#[tokio::test]
async fn the_real_disk_says_what_is_free() {
    let temp = tempfile::tempdir().unwrap();
    let free = RealDisk.free(temp.path()).unwrap();
    assert!(free > 0 && free < 1 << 60, "{free}");
    let all_of_it = Options { reserve_bytes: free + (1 << 40), ..options() };
    let (spool, _consumer) = Spool::open(&temp.path().join("spool"), all_of_it).unwrap();
    let refused = spool.append(vec![vec![1]]).await.unwrap_err();
    assert!(matches!(refused, AppendError::DiskFull(_)), "{refused}");
}

/// A spool of small segments that keeps what it shipped.
fn keeping(seconds: u64) -> Options {
    Options { segment_bytes: 100, retain: Duration::from_secs(seconds), ..options() }
}

fn record(i: u8) -> Vec<u8> {
    vec![i; 100]
}

/// What is kept, each by its first byte; the errors apart.
fn kept(disk: &MemoryDisk, since: Option<SystemTime>) -> (Vec<u8>, Vec<Error>) {
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for item in retained(Arc::new(disk.clone()), &dir(), since).unwrap() {
        match item {
            Ok(record) => found.push(record.payload[0]),
            Err(error) => errors.push(error),
        }
    }
    (found, errors)
}

#[test]
fn what_was_shipped_after_an_outage_is_kept_and_offered_from_then_on() {
    let disk = MemoryDisk::new();
    let (mut writer, mut reader) = open(&disk, &keeping(3_600)).unwrap();
    for i in 0..4 {
        append(&mut writer, record(i)).unwrap();
    }
    assert_eq!(all(&mut reader).len(), 4);
    // An outage that is longer than what is shipped is kept. A backup is made in it.
    disk.get().millis += 7_000_000;
    let backup = disk.now();
    disk.get().millis += 1_000;
    reader.done(4).unwrap();
    append(&mut writer, record(4)).unwrap();
    assert_eq!(kept(&disk, None).0, [0, 1, 2, 3], "it is only now that it is kept");
    assert_eq!(kept(&disk, Some(backup)).0, [0, 1, 2, 3], "the backup has none of it");
    drop((writer, reader));
    // As if all of it had been shipped at once, long ago.
    disk.get().millis += 2_000_000;
    let (mut writer, mut reader) = open(&disk, &keeping(3_600)).unwrap();
    disk.get().millis += 1_000;
    let later = disk.now();
    append(&mut writer, record(5)).unwrap();
    assert_eq!(all(&mut reader).len(), 2);
    reader.done(2).unwrap();
    assert_eq!(kept(&disk, Some(later)).0, [4, 5], "shipped since, though one was appended before");
    assert_eq!(kept(&disk, None).0, [0, 1, 2, 3, 4, 5]);
    disk.get().millis += 2_000_000;
    reader.tidy();
    assert_eq!(kept(&disk, None).0, [3, 4, 5], "over, an hour after it was shipped");
}

#[test]
fn a_start_without_a_time_gives_up_nothing_that_was_kept() {
    let disk = MemoryDisk::new();
    let (mut writer, mut reader) = open(&disk, &keeping(60)).unwrap();
    append(&mut writer, record(1)).unwrap();
    append(&mut writer, record(2)).unwrap();
    assert_eq!(all(&mut reader).len(), 2);
    reader.done(2).unwrap();
    drop((writer, reader));
    disk.get().millis += 1_000_000;
    let (mut writer, mut reader) = open(&disk, &keeping(0)).unwrap();
    append(&mut writer, record(3)).unwrap();
    append(&mut writer, record(4)).unwrap();
    assert_eq!(all(&mut reader).len(), 2);
    reader.done(2).unwrap();
    reader.tidy();
    assert!(disk.get().paths().contains(&Layout { root: dir() }.shipped_segment(1)));
    assert!(!kept(&disk, None).0.contains(&3), "what this run shipped is not kept");
    drop((writer, reader));
    let (_writer, _reader) = open(&disk, &keeping(60)).unwrap();
    disk.get().millis += 1_000_000;
    _reader.tidy();
    assert!(kept(&disk, None).0.is_empty());
}

#[test]
fn a_kept_segment_that_goes_while_the_others_are_read_is_told() {
    let disk = MemoryDisk::new();
    let (mut writer, mut reader) = open(&disk, &keeping(60)).unwrap();
    for i in 0..4 {
        append(&mut writer, record(i)).unwrap();
    }
    assert_eq!(all(&mut reader).len(), 4);
    reader.done(4).unwrap();
    let mut found = retained(Arc::new(disk.clone()), &dir(), None).unwrap();
    assert_eq!(found.next().unwrap().unwrap().payload, record(0));
    let gone = Layout { root: dir() }.shipped_segment(2);
    disk.remove(&gone).unwrap();
    let told = found.next().unwrap().unwrap_err();
    assert!(matches!(&told, Error::Gone { path } if *path == gone), "{told}");
    assert!(told.to_string().contains("00000002.seg is gone"), "{told}");
    let rest: Vec<u8> = found.map(|record| record.unwrap().payload[0]).collect();
    assert_eq!(rest, [2, 3], "and then the rest");
}

#[test]
fn the_depth_follows_when_somebody_has_looked_at_the_damage() {
    let disk = MemoryDisk::new();
    let (mut writer, mut reader) = open(&disk, &options()).unwrap();
    for i in 0..4 {
        append(&mut writer, record(i)).unwrap();
    }
    disk.get().content(&Layout { root: dir() }.segment(1))[64 + 132 + 50] ^= 1;
    assert_eq!(all(&mut reader).len(), 3);
    reader.done(3).unwrap();
    let bad = |reader: &super::Reader| {
        let depth = reader.shared().depth();
        (depth.damaged_ranges, depth.damaged_bytes, depth.missing_records)
    };
    disk.get().millis += 60_000;
    reader.tidy();
    assert_eq!(bad(&reader), (1, 132, 1), "until somebody has");
    let aside: Vec<_> = disk.files(&Layout { root: dir() }.damaged()).unwrap();
    disk.remove(&Layout { root: dir() }.damaged().join(&aside[0].name)).unwrap();
    disk.get().millis += 60_000;
    reader.tidy();
    assert_eq!(bad(&reader), (0, 0, 0));
    append(&mut writer, record(9)).unwrap();
    assert_eq!(all(&mut reader).len(), 1);
    reader.done(1).unwrap();
    drop((writer, reader));
    let (_writer, reader) = open(&disk, &options()).unwrap();
    assert_eq!(bad(&reader), (0, 0, 0), "for good");
}

#[tokio::test]
async fn what_root_makes_in_somebody_elses_folder_is_theirs() {
    const OTHER: (u32, u32) = (12_345, 12_346);
    let temp = tempfile::tempdir().unwrap();
    let home = temp.path().join("home");
    fs::create_dir(&home).unwrap();
    if chown(&home, Some(OTHER.0), Some(OTHER.1)).is_err() {
        println!("only root can see this");
        return;
    }
    let dir = home.join("spool");
    let (spool, mut consumer) = Spool::open(&dir, keeping(60)).unwrap();
    for i in 0..3 {
        spool.append(vec![record(i)]).await.unwrap();
    }
    assert_eq!(consumer.peek(9, 9_999).await.unwrap().len(), 3);
    consumer.done(2).await.unwrap();
    let mut seen = 0;
    let mut look = |path: &Path| {
        let found = fs::symlink_metadata(path).unwrap();
        assert_eq!((found.uid(), found.gid()), OTHER, "{}", path.display());
        seen += 1;
    };
    look(&dir);
    for entry in fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()) {
        look(&entry);
        if entry.is_dir() {
            fs::read_dir(&entry).unwrap().for_each(|inner| look(&inner.unwrap().path()));
        }
    }
    assert!(seen >= 10, "{seen} files and folders");
}
