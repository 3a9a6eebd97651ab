//! The sender's disk is full, at every kind of write: producers are told, nothing that was
//! acknowledged is lost, and with room again it goes on by itself.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use nix::sys::signal::Signal;

use super::account::{Fate, any_event, line, poison};
use super::letters::letters;
use super::producer::{Answer, Connection, Crowd, Manner};
use super::sender::{complaints, number};
use super::*;
use crate::events::Random;
use crate::harness::{Process, Tmpfs, skipped};
use crate::stage::until;

const PAGE: u64 = 4096;

/// A small disk for a spool, and a file that takes its room away.
struct Disk {
    filler: PathBuf,
    tmpfs: Tmpfs,
}

impl Disk {
    fn new(test: &str, megabytes: u32) -> Option<Disk> {
        match Tmpfs::mount(megabytes) {
            Ok(tmpfs) => Some(Disk { filler: tmpfs.path().join("filler"), tmpfs }),
            Err(why) => {
                skipped(test, &why);
                None
            }
        }
    }

    /// Leaves so many pages.
    fn fill(&self, leave: u64) {
        let mut filler = OpenOptions::new().create(true).append(true).open(&self.filler).unwrap();
        for piece in [1 << 16, PAGE as usize] {
            while filler.write_all(&vec![0; piece]).is_ok() {}
        }
        let size = filler.metadata().unwrap().len();
        filler.set_len(size.saturating_sub(leave * PAGE) / PAGE * PAGE).unwrap();
    }

    fn free(&self) {
        File::create(&self.filler).unwrap();
    }
}

/// A scene whose spool is on this disk.
fn moved(mut scene: Scene, disk: &Disk) -> Scene {
    scene.place.spool = disk.tmpfs.path().join("spool");
    scene
}

const TINY: [&str; 4] = ["--segment-bytes", "65536", "--batch-size", "40"];

/// Segments begin and end all the time, letters come, the checkpoint moves and the status is
/// written: whatever finds no room first.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_at_any_moment_loses_nothing_that_was_acknowledged() {
    // Letters stay, a page each.
    let name = "a_disk_that_fills_at_any_moment_loses_nothing_that_was_acknowledged";
    let Some(disk) = Disk::new(name, so_many(12, 128)) else { return };
    let seed = seed(20_261_133);
    let rounds = so_many(8, 300);
    let mut random = Random(seed);
    let scene = moved(Scene::new().await, &disk);
    let mut sender = scene.place.start(&TINY).await;
    let manner = Manner { poison_every: 50, ..Manner::default() };
    let crowd = Crowd::on(&scene.place.socket, &scene.account, seed, manner);
    for round in 0..rounds {
        let refused = crowd.seen.refused.load(Ordering::Relaxed);
        let mut leave = random.below(12);
        until("producers are told", SOON, async || {
            disk.fill(leave);
            // What is shipped gives room back, which is taken away again.
            leave = leave.saturating_sub(1);
            crowd.seen.refused.load(Ordering::Relaxed) > refused
        })
        .await;
        // It is seen from outside as well, without room for anything.
        if round % 10 == 0 {
            scene.place.status();
        }
        disk.free();
        let (taken, stored) = (scene.account.count(Fate::Acknowledged), scene.stored().await);
        let goes_on = async || scene.account.count(Fate::Acknowledged) > taken + 20;
        until("producers are served again", SOON, goes_on).await;
        until("it ships again", SOON, async || scene.stored().await > stored).await;
        assert!(sender.ended().is_none(), "round {round}, seed {seed}: {:#?}", sender.logs());
    }
    let refused = crowd.seen.refused.load(Ordering::Relaxed);
    crowd.end().await;
    sender.signal(Signal::SIGTERM);
    assert_eq!(sender.wait(SOON).await.code(), Some(0), "{:#?}", sender.logs());
    let figures = scene.settle().await;
    println!("{rounds} full disks, {refused} lines refused, {figures}, seed {seed}");
}

/// Events through the socket, each acknowledged, until one is not for want of room; why it was not.
async fn until_refused(scene: &Scene, random: &mut Random, name: &str, poison_every: u64) -> String {
    let mut connection = Connection::open(&scene.place.socket).await.unwrap();
    for n in 0.. {
        let key = format!("{name}-{n}");
        let event = match poison_every > 0 && n % poison_every == 0 {
            true => poison(random, &key),
            false => any_event(random, &key),
        };
        scene.account.sends(&event);
        connection.write(line(&event).as_bytes()).await.unwrap();
        match connection.answer().await.unwrap().unwrap() {
            Answer::UpTo(_) => scene.account.acknowledged(&event.adapter),
            Answer::Refused { reason, error, .. } => {
                assert!(!error.is_empty(), "{reason}");
                scene.account.unanswered(&event.adapter);
                return reason;
            }
        }
        assert!(n < 100_000, "there is always room");
    }
    unreachable!()
}

/// With no room for a letter, its batch waits; nothing of it is given up.
#[tokio::test(flavor = "multi_thread")]
async fn without_room_for_a_letter_its_event_stays_in_the_spool() {
    let Some(disk) = Disk::new("without_room_for_a_letter_its_event_stays_in_the_spool", 4) else { return };
    let mut random = Random(20_261_134);
    let mut scene = moved(Scene::without_service(Stage::new().await).await, &disk);
    let mut sender = scene.place.start(&TINY).await;
    disk.fill(40);
    let reason = until_refused(&scene, &mut random, "a", 5).await;
    assert!(matches!(reason.as_str(), "DISK_FULL" | "SPOOL_FAILED"), "{reason}");
    disk.fill(0);
    let taken = number(&scene.place.status().0, "events");
    scene.serve().await;
    let told = |sender: &Process, what: &str| {
        complaints(sender).iter().filter(|line| line.to_string().contains(what)).count()
    };
    until("it tells that there is no room for the letters", SOON, async || {
        // What is shipped gives room back, which is taken away again.
        disk.fill(0);
        told(&sender, "the disk fails") > 0
    })
    .await;
    assert!(number(&scene.place.status().0, "events") > 0 && taken > 0);
    assert!(sender.ended().is_none());
    disk.free();
    until("all is shipped", SOON, async || number(&scene.place.status().0, "events") == 0).await;
    assert!(!letters(&scene.place.spool).is_empty());
    assert_eq!(told(&sender, "the disk fails"), 1, "once");
    sender.signal(Signal::SIGTERM);
    assert_eq!(sender.wait(SOON).await.code(), Some(0), "{:#?}", sender.logs());
    let figures = scene.settle().await;
    println!("no room for letters: {figures}");
}

/// Killed and started again on a full disk, it ships what is there, and takes more once there
/// is room.
#[tokio::test(flavor = "multi_thread")]
async fn started_on_a_full_disk_it_ships_what_is_there() {
    let Some(disk) = Disk::new("started_on_a_full_disk_it_ships_what_is_there", 4) else { return };
    let mut random = Random(20_261_135);
    let mut scene = moved(Scene::without_service(Stage::new().await).await, &disk);
    for leave in 0..so_many(3, 20) {
        scene.unserve();
        let mut sender = scene.place.start(&TINY).await;
        disk.fill(8 + u64::from(leave));
        until_refused(&scene, &mut random, &format!("{leave}"), 0).await;
        disk.fill(0);
        sender.signal(Signal::SIGKILL);
        sender.wait(SOON).await;
        sender = scene.place.start(&TINY).await;
        scene.serve().await;
        until("it ships", SOON, async || number(&scene.place.status().0, "events") == 0).await;
        disk.free();
        let mut connection = Connection::open(&scene.place.socket).await.unwrap();
        until("it takes more", SOON, async || {
            let event = any_event(&mut random, &format!("{leave}-more"));
            scene.account.sends(&event);
            connection.write(line(&event).as_bytes()).await.unwrap();
            match connection.answer().await.unwrap().unwrap() {
                Answer::UpTo(_) => scene.account.acknowledged(&event.adapter),
                Answer::Refused { .. } => scene.account.unanswered(&event.adapter),
            }
            scene.account.count(Fate::Unknown) <= leave as usize + 1
        })
        .await;
        sender.signal(Signal::SIGTERM);
        assert_eq!(sender.wait(SOON).await.code(), Some(0), "{:#?}", sender.logs());
    }
    let figures = scene.settle().await;
    println!("started on a full disk: {figures}");
}

/// Where there is no room for a spool, that is said, and what was begun is in nobody's way.
#[tokio::test(flavor = "multi_thread")]
async fn begun_without_room_for_a_spool_it_says_so_and_begins_later() {
    let Some(disk) = Disk::new("begun_without_room_for_a_spool_it_says_so_and_begins_later", 4) else {
        return;
    };
    let mut random = Random(20_261_139);
    let mut scene = moved(Scene::new().await, &disk);
    let mut begun = 0;
    for leave in 0..12 {
        // A few files find room, and the next does not.
        scene.place.spool = disk.tmpfs.path().join(format!("spool-{leave}"));
        disk.fill(leave);
        let event = any_event(&mut random, &format!("room-{leave}"));
        let (place, text) = (scene.place.clone(), line(&event));
        let mut command = place.command();
        command.arg("--listen-socket").arg(&place.socket);
        let mut sender = Process::spawn(command);
        let listens =
            |sender: &Process| sender.logs().iter().any(|line| line.to_string().contains("listening"));
        until("it begins or ends", SOON, async || sender.ended().is_some() || listens(&sender)).await;
        if listens(&sender) {
            begun += 1;
        } else {
            let said = sender.logs();
            assert!(sender.wait(SOON).await.code() == Some(1) && said.len() == 1, "{leave} pages: {said:#?}");
            assert!(said[0]["unparsed"].as_str().unwrap().contains("No space left"), "{said:#?}");
        }
        sender.kill();
        sender.wait(SOON).await;
        disk.free();
        scene.account.sends(&event);
        let output = tokio::task::spawn_blocking(move || place.forward(&["-"], &text)).await.unwrap();
        assert_eq!(output.code(), Some(0), "{leave} pages: {output:?}");
        scene.account.acknowledged(&event.adapter);
    }
    assert!(begun < 12, "there was always room");
    let figures = scene.settle().await;
    println!("{begun} of 12 found room for a spool: {figures}");
}

/// A damaged record is told; without room to set it aside, the others are shipped all the same.
#[tokio::test(flavor = "multi_thread")]
async fn damage_on_a_full_disk_costs_no_other_record() {
    let Some(disk) = Disk::new("damage_on_a_full_disk_costs_no_other_record", 4) else { return };
    let mut random = Random(20_261_136);
    let mut scene = moved(Scene::without_service(Stage::new().await).await, &disk);
    let mut sender = scene.place.start(&TINY).await;
    disk.fill(20);
    until_refused(&scene, &mut random, "d", 0).await;
    sender.signal(Signal::SIGTERM);
    assert_eq!(sender.wait(SOON).await.code(), Some(0));
    flip_in(&scene.place.spool.join("segments"), b"id-d-7");
    scene.account.lost("d-7");
    disk.fill(0);
    sender = scene.place.start(&TINY).await;
    scene.serve().await;
    until("the others are shipped", SOON, async || {
        disk.fill(0);
        scene.stored().await >= scene.account.count(Fate::Acknowledged) as i64
    })
    .await;
    disk.free();
    // With the next step that it makes.
    let mut connection = Connection::open(&scene.place.socket).await.unwrap();
    let event = any_event(&mut random, "d-last");
    scene.account.sends(&event);
    connection.write(line(&event).as_bytes()).await.unwrap();
    assert_eq!(connection.answer().await.unwrap(), Some(Answer::UpTo(1)));
    scene.account.acknowledged("d-last");
    let ranges = async || number(&scene.place.status().0, "damaged_ranges") == 1;
    until("the damage is set aside", SOON, ranges).await;
    sender.signal(Signal::SIGTERM);
    assert_eq!(sender.wait(SOON).await.code(), Some(0), "{:#?}", sender.logs());
    let figures = scene.settle().await;
    let (status, output) = scene.place.status();
    assert_eq!(number(&status, "missing_records"), 1, "{output:?}");
    println!("damaged: {figures}, {status}");
}

/// Flips a bit in the middle of these bytes, wherever they stand.
fn flip_in(folder: &Path, needle: &[u8]) {
    for file in std::fs::read_dir(folder).unwrap().flatten() {
        let mut bytes = std::fs::read(file.path()).unwrap();
        if let Some(at) = bytes.windows(needle.len()).position(|found| found == needle) {
            bytes[at + needle.len() / 2] ^= 1;
            // In place: the disk has no room for a copy.
            let mut open = OpenOptions::new().write(true).open(file.path()).unwrap();
            open.write_all(&bytes).unwrap();
            return;
        }
    }
    panic!("{} stands nowhere", String::from_utf8_lossy(needle));
}
