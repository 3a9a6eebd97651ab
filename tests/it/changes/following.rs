//! `follow`: woken by commits, whoever makes them, never silent for long, and gone with its client.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rater::proto::*;
use rater::service::Error;
use rater::service::change_stream::{ChangeFeed, Wanted};
use rater::store::{Db, DbOptions};
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::{SOON, asked, at, changes, end, fabricate, following, ids, next, open};
use crate::harness::{Service, soak};
use crate::rig::{BOOK, Rig, backfill, eventually, hour, timestamp};
use crate::stage::{Refusal, assert_no_panic};

/// Shorter than what passes before a follower looks by itself.
const AT_ONCE: Duration = Duration::from_secs(3);
/// The session that listens.
const LISTENS: &str = "SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND query LIKE 'LISTEN %rater_changes%'";

/// One change of an hour, by this service; when it was committed.
async fn change(rig: &Rig, service: &Service, request_id: &str, h: u32) -> Instant {
    rig.insert([at(request_id, h)]).await;
    let mut client = service.client_rating().await;
    client.rate_window(backfill(h, h + 1)).await.unwrap();
    Instant::now()
}

#[tokio::test]
async fn a_follower_is_woken_by_a_commit_of_any_process() {
    let rig = Rig::start(BOOK, &[]).await;
    let book = rig.book_path();
    let other = Service::start(&rig.db.url, &["--pricebook", book.to_str().unwrap()]).await;
    let mut stream = open(&rig.client(), following("")).await.unwrap();
    for (n, service) in [&rig.service, &other, &rig.service, &other].into_iter().enumerate() {
        let committed = change(&rig, service, &format!("e{n}"), 10 + n as u32).await;
        let told = next(&mut stream).await.unwrap().unwrap();
        assert_eq!(told.changes.len(), 1);
        assert!(committed.elapsed() < AT_ONCE, "{:?}", committed.elapsed());
    }
}

/// From just before a commit to its receipt, with other runs going on, by the machine's one clock.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_is_heard_of_within_a_moment_while_runs_go_on() {
    let rounds = if soak() { 60 } else { 8 };
    let rig = Rig::start(BOOK, &["--chunk-hours", "1"]).await;
    let mut stream = open(&rig.client(), following("")).await.unwrap();
    let follower = tokio::spawn(async move {
        let (mut lags, mut seen) = (Vec::new(), 0);
        while seen < rounds * 12 {
            let told = next(&mut stream).await.unwrap().unwrap();
            let now = chrono::Utc::now();
            seen += told.changes.len();
            lags.extend(told.changes.into_iter().map(|change| {
                let at = change.changed_at.unwrap();
                now.timestamp_micros() - at.seconds * 1_000_000 - i64::from(at.nanos) / 1_000
            }));
        }
        lags
    });
    for round in 0..rounds {
        rig.insert((0..12).map(|h| at(&format!("{round}-{h}"), h))).await;
        let runs = (0..3).map(|n| {
            let mut client = rig.client();
            tokio::spawn(async move { client.rate_window(backfill(n * 4, n * 4 + 4)).await.unwrap() })
        });
        for run in runs.collect::<Vec<_>>() {
            run.await.unwrap();
        }
    }
    let mut lags = follower.await.unwrap();
    lags.sort_unstable();
    let [middle, p99] = [lags.len() / 2, lags.len() * 99 / 100].map(|n| lags[n] / 1_000);
    println!("{} changes: half within {middle} ms, 99 % within {p99} ms", lags.len());
    assert!(middle < 100, "{middle} ms");
}

/// What nobody told of, as an older build beside this one does not, is found by looking.
#[tokio::test]
async fn a_follower_finds_what_nobody_told_of() {
    let rig = Rig::start(BOOK, &[]).await;
    let mut stream = open(&rig.client(), following("")).await.unwrap();
    eventually("it listens", async || rig.one::<i64>(LISTENS).await == 1).await;
    fabricate(rig.pool(), &[3]).await;
    let written = Instant::now();
    let told = next(&mut stream).await.unwrap().unwrap();
    assert_eq!(told.changes.len(), 3);
    assert!(written.elapsed() < Duration::from_secs(10), "{:?}", written.elapsed());
}

#[tokio::test]
async fn a_keep_alive_moves_the_cursor_past_what_the_filter_hides() {
    let rig = Rig::start(BOOK, &[]).await;
    let client = rig.client();
    let beginning = end(&client).await;
    let nobody = UsageFilter { auth_ids: vec!["nobody".into()], ..Default::default() };
    let filtered =
        |cursor: &str| StreamRatedUsageChangesRequest { filter: Some(nobody.clone()), ..following(cursor) };
    let mut stream = open(&client, filtered("")).await.unwrap();
    let asked_at = Instant::now();
    let mut cursors = Vec::new();
    for n in 0..2 {
        change(&rig, &rig.service, &format!("e{n}"), 10 + n).await;
        let told = next(&mut stream).await.unwrap().unwrap();
        assert_eq!(told.changes, []);
        cursors.push(told.cursor);
    }
    assert!(asked_at.elapsed() > Duration::from_secs(9), "{:?}", asked_at.elapsed());
    assert_ne!(cursors[0], cursors[1]);
    // Whoever goes on there reads none of it again: it can be retired.
    rig.sql("UPDATE change_feed SET retired_through = (SELECT max(position) FROM change_batch)").await;
    assert!(open(&client, filtered(&cursors[1])).await.is_ok());
    for late in [open(&client, filtered(&cursors[0])).await, open(&client, asked(&beginning)).await] {
        assert_eq!(Refusal::from(late.expect_err("expired")).reason, "CURSOR_EXPIRED");
    }
}

#[tokio::test]
async fn followers_are_woken_after_their_listener_was_cut_off() {
    let rig = Rig::start(BOOK, &[]).await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(open(&rig.client(), following("")).await.unwrap());
    }
    for round in 0..3 {
        eventually("one listens, for all", async || rig.one::<i64>(LISTENS).await == 1).await;
        rig.sql(&LISTENS.replace("count(*)", "pg_terminate_backend(pid, 10000)")).await;
        // A commit that may fall between two listeners.
        let committed = change(&rig, &rig.service, &format!("e{round}"), 10 + round).await;
        for stream in &mut streams {
            let told = next(stream).await.unwrap().unwrap();
            assert_eq!(told.changes.len(), 1);
            assert!(committed.elapsed() < AT_ONCE, "{:?}", committed.elapsed());
        }
    }
    assert_no_panic(&rig.service);
}

/// What it did not hear of stands for what was committed when there was no listener.
#[tokio::test]
async fn what_was_committed_while_nobody_listened_is_told_once_somebody_does() {
    let rig = Rig::start(BOOK, &[]).await;
    let mut stream = open(&rig.client(), following("")).await.unwrap();
    eventually("it listens", async || rig.one::<i64>(LISTENS).await == 1).await;
    // It has looked again, and the next look that it makes by itself is far.
    change(&rig, &rig.service, "first", 10).await;
    next(&mut stream).await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    fabricate(rig.pool(), &[2]).await;
    rig.sql(&LISTENS.replace("count(*)", "pg_terminate_backend(pid, 10000)")).await;
    let cut_off = Instant::now();
    let told = next(&mut stream).await.unwrap().unwrap();
    assert_eq!(told.changes.len(), 2);
    assert!(cut_off.elapsed() < AT_ONCE, "{:?}", cut_off.elapsed());
}

#[tokio::test]
async fn a_stop_ends_followers_with_its_reason() {
    let mut rig = Rig::start(BOOK, &[]).await;
    fabricate(rig.pool(), &[2]).await;
    let mut stream = open(&rig.client(), following("")).await.unwrap();
    let told = next(&mut stream).await.unwrap().unwrap();
    rig.service.signal(Signal::SIGTERM);
    let stopped = Instant::now();
    let refusal =
        Refusal::from(next(&mut stream).await.expect_err("it does not end as if that had been all"));
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::Unavailable, "SHUTTING_DOWN"));
    assert!(refusal.retry.is_some());
    drop(stream);
    assert_eq!(rig.service.wait(SOON).await.code(), Some(0));
    assert!(stopped.elapsed() < Duration::from_secs(10), "{:?}", stopped.elapsed());
    // It goes on where it was, in another process.
    let book = rig.book_path();
    let other = Service::start(&rig.db.url, &["--pricebook", book.to_str().unwrap()]).await;
    fabricate(rig.pool(), &[1]).await;
    assert_eq!(changes(&other.client_rating().await, asked(&told.cursor)).await.0.len(), 1);
}

#[tokio::test]
async fn a_stream_that_fails_says_so_and_its_cursor_goes_on() {
    let rig = Rig::start(BOOK, &[]).await;
    fabricate(rig.pool(), &[2]).await;
    let mut stream = open(&rig.client(), following("")).await.unwrap();
    let told = next(&mut stream).await.unwrap().unwrap();
    rig.sql("ALTER TABLE change_batch RENAME TO away").await;
    let refusal = Refusal::from(next(&mut stream).await.expect_err("no look succeeds"));
    assert_eq!(refusal.code, Code::Internal);
    rig.sql("ALTER TABLE away RENAME TO change_batch").await;
    fabricate(rig.pool(), &[1]).await;
    assert_eq!(changes(&rig.client(), asked(&told.cursor)).await.0.len(), 1);
}

#[tokio::test]
async fn streams_are_so_many_and_one_whose_client_goes_makes_room() {
    let rig = Rig::start(BOOK, &[]).await;
    let client = rig.client();
    let mut streams = Vec::new();
    for n in 0..200 {
        streams.push(open(&client, following("")).await.unwrap_or_else(|status| panic!("{n}: {status}")));
    }
    let refusal = Refusal::from(open(&client, following("")).await.expect_err("too many"));
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::ResourceExhausted, "OVERLOADED"));
    assert!(refusal.retry.is_some());
    // Others are not held up, and all of them are told.
    let committed = change(&rig, &rig.service, "a", 10).await;
    for stream in &mut streams {
        assert_eq!(next(stream).await.unwrap().unwrap().changes.len(), 1);
    }
    assert!(committed.elapsed() < Duration::from_secs(10), "{:?}", committed.elapsed());
    // Gone while it waits: its place is free at once, not at its next word.
    streams.pop();
    let gone = Instant::now();
    eventually("there is room", async || open(&client, following("")).await.is_ok()).await;
    assert!(gone.elapsed() < AT_ONCE, "{:?}", gone.elapsed());
}

#[tokio::test]
async fn a_stream_that_was_refused_keeps_no_place() {
    let db = crate::harness::database().await;
    let acquire_timeout = Duration::from_secs(10);
    let options = DbOptions { url: db.url.clone(), max_connections: 4, acquire_timeout };
    let feed = ChangeFeed::new(Db::new(&options).unwrap(), CancellationToken::new(), 2);
    let unknown = Wanted { cursor: "garbage".into(), ..Default::default() };
    let other = Wanted { follow: true, ..Default::default() };
    for _ in 0..3 {
        assert!(matches!(feed.stream(unknown.clone()).await, Err(Error::CursorUnknown)));
    }
    sqlx::query("UPDATE change_feed SET whole_story = false").execute(db.pool()).await.unwrap();
    for _ in 0..3 {
        assert!(matches!(feed.stream(other.clone()).await, Err(Error::CursorExpired)));
    }
    sqlx::query("UPDATE change_feed SET whole_story = true").execute(db.pool()).await.unwrap();
    let first = feed.stream(other.clone()).await.unwrap();
    let _second = feed.stream(other.clone()).await.unwrap();
    assert!(matches!(feed.stream(other.clone()).await, Err(Error::Overloaded)));
    drop(first);
    assert!(feed.stream(other).await.is_ok());
}

/// Resident memory of a process, in MiB.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

/// They take one message of the largest, and then nothing.
#[tokio::test]
async fn slow_consumers_cost_a_few_messages_each_however_long_the_feed_is() {
    let (changes_of_5_kb, consumers) = if soak() { (20_000, 40) } else { (8_000, 20) };
    let rig = Rig::start(BOOK, &[]).await;
    fabricate(rig.pool(), &[changes_of_5_kb]).await;
    rig.sql("UPDATE rated_usage_change SET model_id = repeat('m', 5000) || ordinal").await;
    let order: Vec<String> = rig
        .one("SELECT array_agg(batch_id || '-' || ordinal ORDER BY ordinal) FROM rated_usage_change")
        .await;
    let mut warm = open(&rig.client(), asked("")).await.unwrap();
    next(&mut warm).await.unwrap().unwrap();
    let before = resident(rig.service.pid());
    let mut slow = Vec::new();
    for _ in 0..consumers {
        // Each a connection of its own, as consumers have.
        let mut stream = open(&rig.service.client_rating().await, following("")).await.unwrap();
        let told = next(&mut stream).await.unwrap().unwrap();
        slow.push((stream, told.changes.len()));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let grown = resident(rig.service.pid()).saturating_sub(before);
    println!("{grown} MiB for {consumers} slow consumers of a feed of {} MB", changes_of_5_kb / 200);
    assert!(grown < consumers * 8, "{grown} MiB");
    // It was all the same to the others, and nothing is lost for the slow.
    let since = UsageFilter { since: Some(timestamp(&hour(11))), ..Default::default() };
    let other = StreamRatedUsageChangesRequest { filter: Some(since), ..asked("") };
    assert_eq!(changes(&rig.client(), other).await.0, []);
    let (mut stream, mut had) = slow.pop().unwrap();
    while had < order.len() {
        let told = next(&mut stream).await.unwrap().unwrap();
        assert_eq!(ids(&told.changes), order[had..had + told.changes.len()]);
        had += told.changes.len();
    }
}
