//! A replay that is killed at any moment.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use rater::dead_letters::{DeadLetters, Entry};

use super::{event, fast_dir, letters, poison, put, replaying, totals};
use crate::events::Random;
use crate::harness::soak;
use crate::rig::{BOOK, Rig};

/// The letters of one round.
const LETTERS: u32 = 40;

/// The request ids of the letters that are there, each of which is whole.
fn set_aside(letters: &DeadLetters) -> BTreeSet<String> {
    let entries = letters.list().unwrap().into_iter();
    entries
        .map(|entry| match entry {
            Entry::Letter(letter) => letter.content.request_id().unwrap().to_owned(),
            damaged => panic!("{damaged:?}"),
        })
        .collect()
}

#[tokio::test]
async fn a_replay_that_is_killed_loses_no_event_and_stores_none_twice() {
    let seed = std::env::var("RATER_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_120);
    let (kills, mut random) = (if soak() { 200 } else { 10 }, Random(seed));
    let (rig, spool) = (Rig::start(BOOK, &[]).await, fast_dir());
    let folder = DeadLetters::of(spool.path());
    let (mut all, mut bad) = (BTreeSet::new(), BTreeSet::new());
    let (mut early, mut between, mut late) = (0, 0, 0);
    for round in 0..kills {
        let ids: Vec<String> = (0..LETTERS).map(|n| format!("{round}-{n}")).collect();
        put(spool.path(), ids.iter().map(|id| if id.ends_with('7') { poison(id) } else { event(id) }));
        bad.extend(ids.iter().filter(|id| id.ends_with('7')).cloned());
        all.extend(ids);
        let before = set_aside(&folder).len();
        let mut child = replaying(&rig.service.url(), spool.path(), &["--rate", "500"]);
        // Most of the time it only begins; three of four are killed once it is at work.
        let works = random.below(4) > 0;
        while works && folder.count().unwrap() as usize == before && child.try_wait().unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_micros(random.below(120_000))).await;
        child.kill().unwrap();
        child.wait().unwrap();
        let there = set_aside(&folder);
        match there.len() {
            left if left == before => early += 1,
            left if left > bad.len() => between += 1,
            _ => late += 1,
        }
        let stored = request_ids(&rig).await;
        let lost: Vec<_> = all.iter().filter(|id| !there.contains(*id) && !stored.contains(*id)).collect();
        assert_eq!(lost, Vec::<&String>::new(), "after kill {round}");
        if round % 10 == 9 {
            // So that each goes over few letters.
            ended(&rig, spool.path(), &all, &bad).await;
            bad.clear();
            all = request_ids(&rig).await;
        }
    }
    println!(
        "{kills} kills: {early} before the first letter went, {between} between, {late} after the last; seed {seed}"
    );
}

/// At the end each event is stored, once, or still a letter; those are then dropped.
async fn ended(rig: &Rig, spool: &Path, all: &BTreeSet<String>, bad: &BTreeSet<String>) {
    let last = letters(rig, spool, &["replay", "--all", "--rate", "1000", "-o", "csv"]);
    assert_eq!((last.code(), totals(&last)[3] as usize), (Some(1), bad.len()), "{}", last.stderr);
    assert_eq!(&set_aside(&DeadLetters::of(spool)), bad);
    let stored = request_ids(rig).await;
    assert_eq!(&stored.union(bad).cloned().collect::<BTreeSet<_>>(), all);
    assert!(stored.is_disjoint(bad));
    assert_eq!(rig.count("billing_event").await as usize, stored.len(), "each once");
    assert_eq!(letters(rig, spool, &["drop", "--all"]).code(), Some(0));
}

async fn request_ids(rig: &Rig) -> BTreeSet<String> {
    let ids: Vec<String> =
        sqlx::query_scalar("SELECT request_id FROM billing_event").fetch_all(rig.pool()).await.unwrap();
    ids.into_iter().collect()
}
