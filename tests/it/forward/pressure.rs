//! A full spool takes no more and gives nothing up: producers on the socket are told, a file is
//! not read on, and it goes on when there is room again.

use nix::sys::signal::Signal;

use super::account::{Fate, any_event, line};
use super::producer::{Answer, Connection, Crowd, Manner};
use super::sender::{complaints, number};
use super::*;
use crate::events::Random;
use crate::harness::Process;
use crate::stage::until;

const SMALL: [&str; 4] = ["--max-spool-bytes", "262144", "--segment-bytes", "65536"];

#[tokio::test(flavor = "multi_thread")]
async fn a_full_spool_refuses_what_comes_and_evicts_nothing() {
    let seed = seed(20_261_130);
    let mut scene = Scene::without_service(Stage::new().await).await;
    let mut sender = scene.place.start(&SMALL).await;
    let mut random = Random(seed);
    let mut connection = Connection::open(&scene.place.socket).await.unwrap();
    // One by one, until there is no room.
    let mut taken = 0;
    let (reason, error) = loop {
        let event = any_event(&mut random, &format!("full-{taken}"));
        scene.account.sends(&event);
        connection.write(line(&event).as_bytes()).await.unwrap();
        match connection.answer().await.unwrap().unwrap() {
            Answer::UpTo(_) => scene.account.acknowledged(&event.adapter),
            Answer::Refused { reason, error, .. } => {
                scene.account.not_taken(&event.adapter);
                break (reason, error);
            }
        }
        taken += 1;
        assert!(taken < 20_000, "there is always room");
    };
    assert_eq!(reason, "SPOOL_FULL");
    assert!(!error.is_empty() && !error.contains('\n'), "{error}");
    let (status, _) = scene.place.status();
    assert_eq!(number(&status, "events"), taken);
    let bytes = number(&status, "bytes");
    assert!(bytes <= 262_144 && bytes > 262_144 - 65_536, "{bytes}");
    // It stays so, for everybody, and across a restart.
    let crowd =
        Crowd::on(&scene.place.socket, &scene.account, seed, Manner { batch: 40, ..Manner::default() });
    let refusals = async || crowd.seen.refused.load(std::sync::atomic::Ordering::Relaxed) > 30;
    until("producers are refused", SOON, refusals).await;
    sender.signal(Signal::SIGTERM);
    assert_eq!(sender.wait(SOON).await.code(), Some(0));
    sender = scene.place.start(&SMALL).await;
    assert!(number(&scene.place.status().0, "events") >= taken, "nothing was given up");
    scene.serve().await;
    let before = scene.account.count(Fate::Acknowledged);
    until("there is room again", SOON, async || scene.account.count(Fate::Acknowledged) > before + 100).await;
    crowd.end().await;
    sender.signal(Signal::SIGTERM);
    assert_eq!(sender.wait(SOON).await.code(), Some(0));
    let figures = scene.settle().await;
    println!("a full spool: {taken} until it was, {figures}, seed {seed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_waits_for_room_and_is_told_of_once() {
    let seed = seed(20_261_131);
    let mut scene = Scene::without_service(Stage::new().await).await;
    let mut random = Random(seed);
    let mut text = String::new();
    for n in 0..so_many(4_000, 100_000) {
        let event = any_event(&mut random, &format!("file-{n}"));
        scene.account.sends(&event);
        scene.account.acknowledged(&event.adapter);
        text += &line(&event);
    }
    let file = scene.place.spool.with_extension("ndjson");
    std::fs::write(&file, &text).unwrap();
    let mut command = scene.place.command();
    command.arg(&file).args(SMALL).args(["-o", "json"]);
    let mut sender = Process::spawn(command);
    let told = || complaints(&sender).iter().filter(|line| line.to_string().contains("full")).count();
    until("it says that the spool is full", SOON, async || told() > 0).await;
    let full = number(&scene.place.status().0, "events");
    assert!(full > 0 && full < 4_000, "{full}");
    scene.serve().await;
    let status = sender.wait(SOON * 4).await;
    assert_eq!(status.code(), Some(0), "{:#?}", sender.logs());
    // However often it was tried: a line for each change.
    let room =
        |line: &str| ["the spool is full", "has room again"].into_iter().find(|what| line.contains(what));
    let lines: Vec<String> = sender.logs().iter().map(ToString::to_string).collect();
    let changes: Vec<&str> = lines.iter().filter_map(|line| room(line)).collect();
    assert!(changes.windows(2).all(|pair| pair[0] != pair[1]), "{changes:?}");
    let figures = scene.settle().await;
    assert_eq!(figures.stored, figures.sent);
    println!("a file of {} bytes through a spool of 262144: {figures}, seed {seed}", text.len());
}
