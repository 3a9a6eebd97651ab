//! Against a service that does as it is told, over a real spool.

use std::io::Write;

use super::*;
use crate::dead_letters::{Content, DeadLetters, Entry};
use crate::grpc::client::scripted::{Does, Judge, Scripted, serve, serve_judged};
use crate::service;

#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    forward: Forward,
}

struct Scene {
    folder: tempfile::TempDir,
    service: Scripted,
    stop: CancellationToken,
}

impl Scene {
    async fn new(does: Vec<Does>) -> Scene {
        Scene::of(serve(does, 0).await)
    }

    fn of(service: Scripted) -> Scene {
        Scene { folder: tempfile::tempdir().expect("a folder"), service, stop: CancellationToken::new() }
    }

    fn options(&self, arguments: &[&str]) -> Forward {
        let spool = self.folder.path().join("spool");
        let (spool, url) = (spool.to_str().expect("text"), self.service.server().url);
        let mut all = vec!["forward"];
        for default in [["--spool", spool], ["--server", &url]] {
            if !arguments.contains(&default[0]) {
                all.extend(default);
            }
        }
        all.extend(arguments);
        <Cli as clap::Parser>::try_parse_from(all).expect("valid arguments").forward
    }

    fn file(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.to_str().expect("text").into()
    }

    /// To its end.
    async fn run(&self, arguments: &[&str]) -> (Seen, bool) {
        let forward = self.options(arguments);
        let parts = forward.prepare().await.expect("it starts");
        let ended = forward.forward(parts, self.stop.clone());
        tokio::time::timeout(Duration::from_secs(60), ended).await.expect("it ends")
    }

    async fn refused(&self, arguments: &[&str]) -> String {
        self.options(arguments).prepare().await.map(|_| ()).expect_err("refused")
    }

    fn letters(&self) -> Vec<(Content, String)> {
        let entries = DeadLetters::of(&self.folder.path().join("spool")).list().expect("letters");
        let letters = entries.into_iter().map(|entry| match entry {
            Entry::Letter(letter) => (letter.content, letter.history[0].reason.clone()),
            Entry::Damaged { .. } => panic!("damaged"),
        });
        letters.collect()
    }
}

fn lines(range: std::ops::Range<usize>) -> String {
    range.map(|i| format!("{{\"request_id\":\"r{i}\"}}\n")).collect()
}

/// Lines of a hundred bytes and more.
fn padded(count: usize) -> String {
    let line = |i: usize| format!("{{\"request_id\":\"r{i}\",\"model\":\"{}\"}}\n", "m".repeat(100));
    (0..count).map(line).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_taken_in_turn_and_everything_is_shipped() {
    let scene = Scene::new(vec![]).await;
    let (first, second) = (scene.file("first", lines(0..2_500)), scene.file("second", lines(2_000..3_000)));
    let (seen, complete) = scene.run(&[&first, &second]).await;
    assert!(complete);
    assert_eq!(scene.service.stored().len(), 3_000);
    let counts = seen.counts;
    assert_eq!((counts.spooled, counts.stored, counts.duplicates), (3_500, 3_000, 500));
    let table = "spooled  stored  duplicates  dead_lettered  left\n   3500    3000         500              0     0\n";
    assert_eq!(summary(Format::Table, &seen).as_deref(), Ok(table));
    let csv = "spooled,stored,duplicates,dead_lettered,left\n3500,3000,500,0,0\n";
    assert_eq!(summary(Format::Csv, &seen).as_deref(), Ok(csv));
    let json = r#"{"spooled":3500,"stored":3000,"duplicates":500,"dead_lettered":0,"left":0}"#;
    assert_eq!(summary(Format::Json, &seen), Ok(format!("{json}\n")));
    // The next one goes on counting, and has nothing to do.
    let (seen, complete) = scene.run(&[]).await;
    assert_eq!((complete, seen.counts.stored, seen.ever.stored, seen.ever.spooled), (true, 0, 3_000, 3_500));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_is_no_event_is_kept_whole_and_the_others_are_shipped() {
    let scene = Scene::new(vec![]).await;
    let long = format!("{{\"request_id\":\"{}\"}}", "l".repeat(300 * 1024));
    let endless = "e".repeat(1_100_000);
    let mut text = format!("{}nonsense\n{long}\n{endless}\n", lines(0..3)).into_bytes();
    text.extend_from_slice(b"\xff\x00\n");
    text.extend_from_slice(lines(3..6).as_bytes());
    let (seen, complete) = scene.run(&[&scene.file("mixed", text)]).await;
    assert!(!complete);
    assert_eq!((scene.service.stored().len(), seen.counts.dead_lettered), (6, 3));
    let letters = scene.letters();
    for (content, reason) in [
        (Content::Line("nonsense".into()), "NOT_AN_EVENT"),
        (Content::Line(long), "LINE_TOO_LONG"),
        (Content::of_line(b"\xff\x00"), "NOT_AN_EVENT"),
    ] {
        assert!(letters.contains(&(content, reason.into())), "{reason}");
    }
    assert_eq!(letters.len(), 3, "the endless one is not taken, and says so");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_spool_makes_an_input_wait_and_loses_nothing() {
    let down = (0..12).map(|_| Does::Code("UNAVAILABLE", None)).collect();
    let scene = Scene::new(down).await;
    let file = scene.file("many", padded(10_000));
    // No group of lines fits as a whole.
    let small = ["--max-spool-bytes", "64KiB", "--segment-bytes", "16KiB"];
    // Twelve failures take a while that is no use to wait for: the pauses end with the stop.
    let forward = scene.options(&[&small[..], &[&file]].concat());
    let parts = forward.prepare().await.expect("it starts");
    let (forwarder, stop) = (parts.forwarder.clone(), scene.stop.clone());
    let ended = tokio::spawn(async move { forward.forward(parts, stop).await });
    let room = || forwarder.seen().depth;
    let full = async {
        while room().bytes < 60 * 1024 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), full).await.expect("full");
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(room().bytes <= 64 * 1024 && !ended.is_finished(), "{:?}", room());
    // A stop ends the waiting, and what was taken stays.
    scene.stop.cancel();
    let (seen, complete) = ended.await.expect("no panic");
    assert!(!complete && seen.depth.events > 0);
    drop(forwarder);
    let again = Scene { stop: CancellationToken::new(), ..scene };
    again.service.judges(Box::new(|_| None));
    let (seen, complete) = again.run(&[&small[..], &[&file]].concat()).await;
    assert!(complete && seen.depth.events == 0);
    assert_eq!(again.service.stored().len(), 10_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_is_taken_as_it_comes_and_a_silent_one_does_not_hold_up_a_stop() {
    let scene = Scene::new(vec![]).await;
    let forward = scene.options(&[]);
    let mut parts = forward.prepare().await.expect("it starts");
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    parts.inputs.push(("stdin".into(), Input::Open(File::from(std::os::fd::OwnedFd::from(reader)))));
    let stop = scene.stop.clone();
    let ended = tokio::spawn(async move { forward.forward(parts, stop).await });
    for n in 0..3 {
        writer.write_all(lines(n..n + 1).as_bytes()).expect("it reads");
        while scene.service.stored().len() <= n {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    writer.write_all(b"{\"request_id\":\"half").expect("it reads");
    scene.stop.cancel();
    let (seen, complete) =
        tokio::time::timeout(Duration::from_secs(8), ended).await.expect("soon").expect("well");
    assert_eq!((seen.counts.stored, complete), (3, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_service_refuses_is_set_aside_and_the_rest_is_stored() {
    let judge: Judge = Box::new(|request| {
        let poison = request.events.iter().any(|event| event.request_id == "r7");
        poison.then(|| Does::Refuses(service::Error::EventConflict(Vec::new())))
    });
    let scene = Scene::of(serve_judged(judge, 0).await);
    let (seen, complete) = scene.run(&[&scene.file("poison", lines(0..10))]).await;
    assert!(complete, "every line was an event");
    assert_eq!((seen.counts.stored, seen.counts.dead_lettered, seen.dead_letters), (9, 1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_told_before_anything_is_taken() {
    let scene = Scene::new(vec![]).await;
    let file = scene.file("any", lines(0..1));
    for (arguments, says) in [
        (&["--server", "127.0.0.1:1", &file][..], "--server 127.0.0.1:1: begins with neither"),
        (&["--server", "http://a b", &file], "is no URL"),
        (&[&file, "/nowhere/at/all"], "/nowhere/at/all: No such file"),
        (&["--listen-socket", &file], "no socket"),
        (&["--spool", &file], "--spool "),
        (&["--admin-listen", "192.0.2.1:1"], "can't listen on --admin-listen"),
    ] {
        let error = scene.refused(arguments).await;
        assert!(error.contains(says) && error.lines().count() == 1, "{error}");
    }
    let held = scene.options(&[]).prepare().await.expect("free");
    let error = scene.refused(&[]).await;
    assert!(error.contains("in use"), "{error}");
    drop(held);
    assert!(scene.service.calls().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_pipe_that_nobody_writes_to_holds_up_neither_a_start_nor_a_stop() {
    let scene = Scene::new(vec![]).await;
    let [silent, spoken] = ["silent", "spoken"].map(|name| scene.folder.path().join(name));
    let made = std::process::Command::new("mkfifo").args([&silent, &spoken]).status();
    assert!(made.expect("it runs").success());
    let forward = scene.options(&[silent.to_str().expect("text")]);
    // On a thread of its own: if it waited, nothing here would go on.
    let parts = tokio::spawn(async move { (forward.prepare().await, forward) });
    let parts = tokio::time::timeout(Duration::from_secs(10), parts).await.expect("it starts");
    let (parts, forward) = parts.expect("no panic");
    let (parts, stop) = (parts.expect("it starts"), scene.stop.clone());
    let ended = tokio::spawn(async move { forward.forward(parts, stop).await });
    scene.stop.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(8), ended).await.expect("soon");
    assert!(!ended.expect("well").1, "what was named was not taken in");
    // With a writer it is an input like any other.
    let fifo = spoken.to_str().expect("text").to_owned();
    let writes = tokio::task::spawn_blocking(move || std::fs::write(&spoken, lines(0..3)));
    let again = Scene { stop: CancellationToken::new(), ..scene };
    let (seen, complete) = again.run(&[&fifo]).await;
    assert_eq!((seen.counts.stored, complete), (3, true));
    writes.await.expect("no panic").expect("it reads");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_lost_events_to_damage_does_not_end_well() {
    let scene = Scene::new(vec![]).await;
    let (stop, forward) = (scene.stop.clone(), scene.options(&[&scene.file("in", lines(0..64))]));
    let parts = forward.prepare().await.expect("it starts");
    // What is in the spool when it stops, before anything is shipped.
    scene.service.judges(Box::new(|_| Some(Does::Code("UNAVAILABLE", None))));
    let forwarder = parts.forwarder.clone();
    let ended = tokio::spawn(async move { forward.forward(parts, stop).await });
    while forwarder.seen().counts.spooled < 64 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    scene.stop.cancel();
    assert_eq!(damage(&ended.await.expect("no panic").0), None);
    drop(forwarder);
    let segments = scene.folder.path().join("spool/segments");
    for segment in std::fs::read_dir(segments).expect("there").map(|entry| entry.expect("there").path()) {
        let mut bytes = std::fs::read(&segment).expect("there");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&segment, bytes).expect("written");
    }
    let again = Scene { stop: CancellationToken::new(), ..scene };
    again.service.judges(Box::new(|_| None));
    let (seen, complete) = again.run(&[]).await;
    assert!(complete && seen.depth.events == 0);
    assert_eq!((again.service.stored().len(), seen.depth.damaged_ranges), (63, 1));
    let mut err = Vec::new();
    assert!(!again.options(&[]).well(&seen, &mut Console::to(std::io::sink(), &mut err)));
    let err = String::from_utf8(err).expect("text");
    assert!(err.starts_with("rater: the spool was damaged: "), "{err}");
    assert!(again.options(&["--listen-socket", "x"]).well(&seen, &mut Console::standard()));
}

#[test]
fn sizes_have_limits() {
    for wrong in ["0", "65535", "1GB", "-1"] {
        assert!(max_spool_bytes(wrong).is_err(), "{wrong}");
    }
    for wrong in ["0", "4095", "2GiB"] {
        assert!(segment_bytes(wrong).is_err(), "{wrong}");
    }
}

#[tokio::test]
async fn what_is_reserved_of_the_disk_is_not_given_to_the_spool() {
    let scene = Scene::new(Vec::new()).await;
    assert_eq!(scene.options(&[]).reserve_bytes, 16 << 20);
    let parts = scene.options(&["--reserve-bytes", "8388607TiB"]).prepare().await.expect("free");
    let refused = parts.forwarder.append_json(b"{\"request_id\":\"r\"}").await.expect_err("refused");
    assert!(refused.to_string().contains("reserved for dead letters"), "{refused}");
}
