//! A spool as others use it, on real files.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use super::super::frame::FRAME;
use super::super::{ROOM, Spool, inspect, retained};
use super::memory::MemoryDisk;
use super::{Random, dir, options, payloads};
use crate::spool::{AppendError, Consumer, Depth, Error, Options, Record};

fn folder() -> (TempDir, PathBuf) {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("a/b/spool");
    (temp, dir)
}

async fn next(consumer: &mut Consumer, records: usize) -> Vec<Record> {
    consumer.peek(records, usize::MAX).await.unwrap()
}

fn one(text: &str) -> Vec<Vec<u8>> {
    vec![text.into()]
}

#[tokio::test]
async fn what_was_appended_comes_out_until_it_is_done() {
    let (_temp, dir) = folder();
    let (spool, mut consumer) = Spool::open(&dir, options()).unwrap();
    assert_eq!(spool.dir(), dir);
    spool.append(vec![b"a".to_vec(), Vec::new(), b"c".to_vec()]).await.unwrap();
    spool.append(Vec::new()).await.unwrap();
    let first = next(&mut consumer, 2).await;
    assert_eq!(payloads(&first), [b"a".to_vec(), Vec::new()]);
    assert_eq!(first.iter().map(|record| record.ordinal).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(next(&mut consumer, 2).await, first, "the same again");
    assert_eq!(spool.depth().events, 3);
    assert_eq!(spool.depth().oldest, Some(first[0].appended_at));
    consumer.done(1).await.unwrap();
    assert!(matches!(consumer.done(1).await, Err(Error::NotPeeked { count: 1, peeked: 0 })));
    drop((spool, consumer));
    let (spool, mut consumer) = Spool::open(&dir, options()).unwrap();
    assert_eq!(payloads(&next(&mut consumer, 9).await), [Vec::new(), b"c".to_vec()]);
    drop(spool);
    consumer.done(2).await.unwrap();
    assert_eq!(next(&mut consumer, 9).await, [], "closed and drained");
    drop(consumer);
    let (spool, _consumer) = Spool::open(&dir, options()).unwrap();
    assert_eq!(spool.depth(), Depth { max_bytes: options().max_bytes, ..Depth::default() });
}

#[tokio::test]
async fn a_look_waits_for_a_record() {
    let (_temp, dir) = folder();
    let (spool, mut consumer) = Spool::open(&dir, options()).unwrap();
    let waits = tokio::spawn(async move { next(&mut consumer, 5).await });
    tokio::task::yield_now().await;
    spool.append(one("late")).await.unwrap();
    assert_eq!(payloads(&waits.await.unwrap()), one("late"));
}

#[test]
fn a_spool_is_used_by_one_process_at_a_time() {
    let (_temp, dir) = folder();
    let (spool, consumer) = Spool::open(&dir, options()).unwrap();
    let refused = Spool::open(&dir, options()).unwrap_err();
    assert!(matches!(refused, Error::InUse { .. }));
    assert!(refused.to_string().contains(dir.to_str().unwrap()), "{refused}");
    assert!(inspect(&dir).unwrap().in_use);
    drop(spool);
    assert!(Spool::open(&dir, options()).is_err(), "its consumer is still there");
    drop(consumer);
    assert!(Spool::open(&dir, options()).is_ok());
}

#[test]
fn a_folder_with_other_files_is_left_alone() {
    let (temp, _) = folder();
    fs::write(temp.path().join("precious.txt"), "x").unwrap();
    let refused = Spool::open(temp.path(), options()).unwrap_err();
    assert!(matches!(refused, Error::NotASpool { .. }), "{refused}");
    assert!(matches!(inspect(temp.path()), Err(Error::NotASpool { .. })));
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1, "nothing was made in it");
    let file = temp.path().join("precious.txt");
    let refused = Spool::open(&file, options()).unwrap_err().to_string();
    assert!(refused.contains("precious.txt") && !refused.contains('\n'), "{refused}");
    let missing = inspect(&temp.path().join("nothing")).unwrap_err().to_string();
    assert!(missing.contains("nothing"), "{missing}");
}

#[tokio::test]
async fn only_the_owner_may_read_what_waits() {
    let (temp, dir) = folder();
    fs::create_dir_all(temp.path().join("elsewhere")).unwrap();
    fs::create_dir_all(dir.parent().unwrap()).unwrap();
    symlink(temp.path().join("elsewhere"), &dir).unwrap();
    let keep = Options { retain: Duration::from_secs(60), segment_bytes: 1, ..options() };
    let (spool, mut consumer) = Spool::open(&dir.join("spool"), keep).unwrap();
    for text in ["a", "b"] {
        spool.append(one(text)).await.unwrap();
    }
    assert_eq!(next(&mut consumer, 1).await.len(), 1);
    consumer.done(1).await.unwrap();
    let mut seen = 0;
    let mut left = vec![dir.join("spool")];
    while let Some(path) = left.pop() {
        let meta = fs::metadata(&path).unwrap();
        let mode = if meta.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(meta.permissions().mode() & 0o777, mode, "{}", path.display());
        seen += 1;
        if meta.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    assert!(seen >= 9, "{seen} files and folders");
}

#[tokio::test]
async fn concurrent_appends_share_their_syncs() {
    let disk = MemoryDisk::new();
    let wide = Options { segment_bytes: 1 << 20, ..options() };
    let (spool, _consumer) = Spool::open_on(Arc::new(disk.clone()), &dir(), wide).unwrap();
    spool.append(one("the first")).await.unwrap();
    let before = disk.get().syncs;
    // While the disk stands still, everybody comes.
    let still = disk.get();
    let appends: Vec<_> = (0..256)
        .map(|i| {
            let spool = spool.clone();
            tokio::spawn(async move { spool.append(one(&format!("{i:03}"))).await })
        })
        .collect();
    while spool.room.available_permits() > ROOM - 256 * (FRAME + 3) {
        tokio::task::yield_now().await;
    }
    drop(still);
    for append in appends {
        append.await.unwrap().unwrap();
    }
    let syncs = disk.get().syncs - before;
    assert!(syncs <= 3, "{syncs} syncs for 256 appends");
}

#[tokio::test]
async fn what_is_on_its_way_to_the_disk_is_bounded() {
    let disk = MemoryDisk::new();
    let wide = Options { max_bytes: 1 << 30, ..options() };
    let (spool, _consumer) = Spool::open_on(Arc::new(disk.clone()), &dir(), wide).unwrap();
    let size = 1 << 20;
    let still = disk.get();
    let appends: Vec<_> = (0..40)
        .map(|_| {
            let spool = spool.clone();
            tokio::spawn(async move { spool.append(vec![vec![0; size]]).await })
        })
        .collect();
    while spool.room.available_permits() > size {
        tokio::task::yield_now().await;
    }
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    let taken = super::super::CALLS - spool.calls.capacity();
    assert!(taken * size <= ROOM, "{taken} calls were let in");
    drop(still);
    for append in appends {
        append.await.unwrap().unwrap();
    }
    assert_eq!(spool.depth().events, 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn records_of_a_call_stay_together_and_calls_of_a_producer_in_order() {
    let (_temp, dir) = folder();
    let (spool, mut consumer) = Spool::open(&dir, options()).unwrap();
    let producers: Vec<_> = (0..8)
        .map(|producer| {
            let spool = spool.clone();
            tokio::spawn(async move {
                for call in 0..40 {
                    let records = (0..1 + call % 5).map(|i| format!("{producer} {call:02} {i}").into_bytes());
                    spool.append(records.collect()).await.unwrap();
                }
            })
        })
        .collect();
    drop(spool);
    let (mut seen, mut expected) = (Vec::new(), 1);
    loop {
        let found = next(&mut consumer, 17).await;
        if found.is_empty() {
            break;
        }
        for record in &found {
            assert_eq!(record.ordinal, expected);
            expected += 1;
            seen.push(String::from_utf8(record.payload.clone()).unwrap());
        }
        consumer.done(found.len()).await.unwrap();
    }
    for producer in producers {
        producer.await.unwrap();
    }
    assert_eq!(seen.len(), 8 * 40 * 3);
    let calls: Vec<&str> = seen.iter().map(|text| &text[..4]).collect();
    let mut begun = HashSet::new();
    for two in calls.windows(2).filter(|two| two[0] != two[1]) {
        assert!(begun.insert(two[0].to_owned()), "a call is in two pieces");
    }
    for producer in 0..8 {
        let own: Vec<_> = seen.iter().filter(|text| text.starts_with(&format!("{producer} "))).collect();
        assert!(own.is_sorted(), "producer {producer}");
    }
}

#[tokio::test]
async fn a_full_spool_takes_nothing_and_keeps_everything() {
    let (_temp, dir) = folder();
    let tight = Options { max_bytes: 1000, ..options() };
    let (spool, mut consumer) = Spool::open(&dir, tight.clone()).unwrap();
    for _ in 0..7 {
        spool.append(vec![vec![1; 100]]).await.unwrap();
    }
    let full = spool.append(vec![vec![2; 100]]).await.unwrap_err();
    assert!(matches!(full, AppendError::Full { bytes: 924, max_bytes: 1000 }), "{full}");
    spool.append(vec![vec![3; 40]]).await.unwrap();
    assert_eq!(spool.depth().events, 8);
    drop((spool, consumer));
    (_, consumer) = {
        let (spool, mut consumer) = Spool::open(&dir, tight).unwrap();
        assert!(spool.append(vec![vec![2; 100]]).await.is_err(), "also after a start");
        assert_eq!(next(&mut consumer, 9).await.len(), 8);
        consumer.done(2).await.unwrap();
        spool.append(vec![vec![2; 100]]).await.unwrap();
        (spool, consumer)
    };
    assert_eq!(next(&mut consumer, 9).await.len(), 7);
    let (_temp, dir) = folder();
    let (spool, _consumer) = Spool::open(&dir, Options::default()).unwrap();
    let long = spool.append(vec![vec![], vec![0; (4 << 20) + 1]]).await.unwrap_err();
    assert!(matches!(long, AppendError::TooLong { index: 1, .. }), "{long}");
    spool.append(vec![vec![0; 4 << 20]]).await.unwrap();
}

#[tokio::test]
async fn a_shipped_segment_is_kept_for_as_long_as_it_was_asked_for() {
    let disk = MemoryDisk::new();
    let keep = Options { segment_bytes: 100, retain: Duration::from_secs(10), ..options() };
    let (spool, mut consumer) = Spool::open_on(Arc::new(disk.clone()), &dir(), keep).unwrap();
    let began = SystemTime::UNIX_EPOCH + Duration::from_millis(disk.get().millis);
    for i in 0..6 {
        spool.append(one(&format!("{i} {}", "x".repeat(80)))).await.unwrap();
        disk.get().millis += 1_000;
    }
    let kept = |since: Option<u64>| {
        let since = since.map(|seconds| began + Duration::from_secs(seconds));
        let found = super::super::retained::retained(Arc::new(disk.clone()), &dir(), since).unwrap();
        found.map(|record| record.unwrap().payload[0] - b'0').collect::<Vec<_>>()
    };
    assert!(kept(None).is_empty());
    assert_eq!(next(&mut consumer, 4).await.len(), 4);
    consumer.done(4).await.unwrap();
    assert_eq!(kept(None), [0, 1, 2, 3]);
    assert_eq!(kept(Some(6)), [0, 1, 2, 3], "by when it was shipped");
    assert!(kept(Some(7)).is_empty());
    assert!(spool.depth().retained_bytes > 400);
    assert_eq!(next(&mut consumer, 4).await.len(), 2);
    consumer.done(1).await.unwrap();
    disk.get().millis += 6_000;
    assert_eq!(next(&mut consumer, 1).await.len(), 1);
    consumer.done(1).await.unwrap();
    assert_eq!(kept(None), [0, 1, 2, 3, 4, 5]);
    disk.get().millis += 5_000;
    spool.append(one("6")).await.unwrap();
    assert_eq!(next(&mut consumer, 1).await.len(), 1);
    consumer.done(1).await.unwrap();
    assert_eq!(kept(None), [5, 6], "the time of the others is over");
    drop((spool, consumer));
    disk.get().millis -= 60_000;
    let keep = Options { retain: Duration::from_secs(10), ..options() };
    let opened = Spool::open_on(Arc::new(disk.clone()), &dir(), keep).unwrap();
    assert_eq!(kept(None), [5, 6], "a clock that went back gives nothing up early");
    drop(opened);
    disk.get().millis += 120_000;
    let opened = Spool::open_on(Arc::new(disk.clone()), &dir(), options()).unwrap();
    assert_eq!(kept(None), [5, 6], "who keeps nothing gives up nothing that somebody kept");
    drop(opened);
    let keep = Options { retain: Duration::from_secs(10), ..options() };
    let opened = Spool::open_on(Arc::new(disk.clone()), &dir(), keep).unwrap();
    assert!(kept(None).is_empty(), "gone at the next start with a time");
    drop(opened);
}

#[tokio::test]
async fn a_look_from_outside_says_what_the_spool_itself_says() {
    let (_temp, dir) = folder();
    let small = Options { segment_bytes: 500, retain: Duration::from_secs(60), ..options() };
    let (spool, mut consumer) = Spool::open(&dir, small.clone()).unwrap();
    assert_eq!(inspect(&dir).unwrap().depth, Depth::default());
    for i in 0..40 {
        spool.append(one(&format!("{i:02} {}", "y".repeat(50)))).await.unwrap();
    }
    assert_eq!(next(&mut consumer, 13).await.len(), 13);
    consumer.done(13).await.unwrap();
    let own = Depth { max_bytes: 0, ..spool.depth() };
    assert_eq!((own.events, own.retained_bytes > 0), (27, true));
    let seen = inspect(&dir).unwrap();
    assert_eq!((seen.depth, seen.in_use), (own.clone(), true));
    let kept: Vec<Record> = retained(&dir, None).unwrap().map(Result::unwrap).collect();
    assert_eq!(kept.len(), 13);
    drop((spool, consumer));
    // The writer's thread ends on its own.
    while inspect(&dir).unwrap().in_use {
        std::thread::yield_now();
    }
    assert_eq!(inspect(&dir).unwrap().depth, own);
    let again = Spool::open(&dir, small).unwrap();
    drop(again);
}

#[tokio::test]
async fn real_files_that_are_cut_and_flipped_give_what_is_whole() {
    let (_temp, dir) = folder();
    let segment = dir.join(format!("segments/{:020}.seg", 1));
    let whole = {
        let (spool, _consumer) = Spool::open(&dir, options()).unwrap();
        for i in 0..64 {
            spool.append(one(&format!("record {i:02}"))).await.unwrap();
        }
        fs::read(&segment).unwrap()
    };
    let frame = (whole.len() - 64) / 64;
    let mut random = Random(7);
    for _ in 0..25 {
        let at = 64 + random.below(whole.len() - 64);
        let hit = (at - 64) / frame;
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << random.below(8);
        for (content, expected) in [
            (whole[..at].to_vec(), (0..hit).collect::<Vec<_>>()),
            (flipped, (0..64).filter(|i| *i != hit).collect()),
        ] {
            fs::write(&segment, content).unwrap();
            let (spool, mut consumer) = Spool::open(&dir, options()).unwrap();
            let mut found = Vec::new();
            if !expected.is_empty() {
                found = next(&mut consumer, 100).await;
            }
            let expected: Vec<Vec<u8>> = expected.iter().map(|i| format!("record {i:02}").into()).collect();
            assert_eq!(payloads(&found), expected, "at {at}");
            drop((spool, consumer));
        }
    }
}

#[tokio::test]
async fn what_a_newer_build_or_another_spool_wrote_is_refused() {
    let (_temp, dir) = folder();
    let (spool, consumer) = Spool::open(&dir, options()).unwrap();
    spool.append(one("mine")).await.unwrap();
    drop((spool, consumer));
    let segment = dir.join(format!("segments/{:020}.seg", 1));
    let whole = fs::read(&segment).unwrap();
    let refuse = |path: &Path| {
        let refused = Spool::open(&dir, options()).unwrap_err().to_string();
        assert!(refused.contains(path.to_str().unwrap()) && !refused.contains('\n'), "{refused}");
        assert!(inspect(&dir).is_err());
        refused
    };
    let mut newer = whole.clone();
    newer[8] = 2;
    let crc = crc32c::crc32c(&newer[..60]).to_le_bytes();
    newer[60..64].copy_from_slice(&crc);
    fs::write(&segment, newer).unwrap();
    assert!(refuse(&segment).contains("format 2"));
    fs::write(&segment, &whole).unwrap();
    let moved = dir.join(format!("segments/{:020}.seg", 2));
    fs::copy(&segment, &moved).unwrap();
    refuse(&moved);
    fs::remove_file(&moved).unwrap();
    let (_spool, mut consumer) = Spool::open(&dir, options()).unwrap();
    assert_eq!(payloads(&next(&mut consumer, 9).await), one("mine"), "nothing was lost by it");
}
