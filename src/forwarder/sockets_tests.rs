//! Producers on a real socket, over a real spool.

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::*;
use crate::forwarder::{Options, Shipping};
use crate::grpc::client::Server;
use crate::spool::inspect;

/// A forwarder that listens, and whose service is not there.
struct Scene {
    folder: tempfile::TempDir,
    forwarder: Forwarder,
    shipping: Option<Shipping>,
    stop: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
}

impl Scene {
    async fn new() -> Scene {
        Scene::of(spool::Options::default()).await
    }

    async fn of(spool: spool::Options) -> Scene {
        let folder = tempfile::tempdir().expect("a folder");
        let server = Server { url: "http://127.0.0.1:1".into(), ..Server::default() };
        let options = Options { spool, ..Options::default() };
        let opened = Forwarder::open(&folder.path().join("spool"), &server, options).await;
        let (forwarder, shipping) = opened.expect("a spool");
        let socket = Socket::bind(&folder.path().join("socket")).await.expect("it listens");
        let stop = CancellationToken::new();
        let serving = tokio::spawn(socket.serve(forwarder.clone(), stop.clone()));
        Scene { folder, forwarder, shipping: Some(shipping), stop, serving }
    }

    async fn connect(&self) -> Producer {
        let stream = UnixStream::connect(self.folder.path().join("socket")).await.expect("it listens");
        let (read, write) = stream.into_split();
        Producer { read: BufReader::new(read), write }
    }

    /// What is on the disk, as somebody else sees it.
    fn on_disk(&self) -> u64 {
        inspect(&self.folder.path().join("spool")).expect("a spool").depth.events
    }

    fn refused(&self, word: &str) -> u64 {
        self.forwarder.seen().refused.get(word).copied().unwrap_or_default()
    }
}

struct Producer {
    read: BufReader<OwnedReadHalf>,
    write: OwnedWriteHalf,
}

impl Producer {
    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.write.write_all(bytes.as_ref()).await.expect("it reads");
    }

    /// The next answer; none at the end.
    async fn answer(&mut self) -> Option<Value> {
        let mut line = String::new();
        let read = self.read.read_line(&mut line);
        let read = tokio::time::timeout(Duration::from_secs(30), read).await.expect("an answer");
        (read.expect("an answer") > 0).then(|| serde_json::from_str(&line).expect("JSON"))
    }

    /// Answers up to that for this line: the lines that were refused, with the words.
    async fn up_to(&mut self, last: u64) -> Vec<(u64, String)> {
        let (mut refused, mut line) = (Vec::new(), 0);
        while line < last {
            let answer = self.answer().await.expect("an answer");
            let this = answer["line"].as_u64().expect("a line");
            assert!(this > line, "ascending: {this} after {line}");
            line = this;
            if let Some(word) = answer["refused"].as_str() {
                assert!(answer["error"].as_str().is_some_and(|error| !error.is_empty()), "{answer}");
                refused.push((line, word.to_owned()));
            }
        }
        assert_eq!(line, last);
        refused
    }
}

fn events(from: u64, count: u64) -> String {
    (from..from + count).map(|n| format!("{{\"request_id\":\"r{n}\"}}\n")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_comes_when_the_lines_are_on_the_disk() {
    let scene = Scene::new().await;
    let mut producer = scene.connect().await;
    for n in 0..20 {
        producer.send(events(n, 1)).await;
        assert!(producer.up_to(n + 1).await.is_empty());
        assert_eq!(scene.on_disk(), n + 1);
    }
    producer.send(events(20, 5_000)).await;
    assert!(producer.up_to(5_020).await.is_empty());
    assert_eq!((scene.on_disk(), scene.forwarder.seen().counts.spooled), (5_020, 5_020));
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_no_event_is_refused_and_the_connection_stays() {
    let scene = Scene::new().await;
    let mut producer = scene.connect().await;
    let longest = format!("{{\"request_id\":\"a\"}}{}", " ".repeat(MAX_EVENT_BYTES - 18));
    assert_eq!(longest.len(), MAX_EVENT_BYTES);
    let mut text = b"\xff\xfe\x00\n".to_vec();
    for line in ["nonsense", "", "  \r", "{\"request_id\":\"b\"}\r", &longest, &format!("{longest} "), "[1]"]
    {
        text.extend_from_slice(line.as_bytes());
        text.push(b'\n');
    }
    producer.send(&text).await;
    let refused = producer.up_to(8).await;
    let expected = [(1, "NOT_AN_EVENT"), (2, "NOT_AN_EVENT"), (7, "LINE_TOO_LONG"), (8, "NOT_AN_EVENT")];
    assert_eq!(refused, expected.map(|(line, word)| (line, word.to_owned())));
    producer.send(events(0, 1)).await;
    assert!(producer.up_to(9).await.is_empty());
    assert_eq!(scene.on_disk(), 3);
    assert_eq!((scene.refused("NOT_AN_EVENT"), scene.refused("LINE_TOO_LONG")), (3, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_that_is_done_writing_gets_all_of_its_answers() {
    let scene = Scene::new().await;
    let mut producer = scene.connect().await;
    producer.send(format!("{}{{\"request_id\":\"last\"}}", events(0, 3_000))).await;
    producer.write.shutdown().await.expect("half-closed");
    assert!(producer.up_to(3_001).await.is_empty());
    assert_eq!(producer.answer().await, None);
    assert_eq!(scene.on_disk(), 3_001);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_cut_costs_nobody_else() {
    let scene = Scene::new().await;
    let mut other = scene.connect().await;
    for cut in 1..40 {
        let mut producer = scene.connect().await;
        producer.send(&events(cut, 2).as_bytes()[..cut as usize]).await;
        drop(producer);
        other.send(events(1_000 + cut, 1)).await;
        assert!(other.up_to(cut).await.is_empty());
    }
    // At most what was whole: two lines of each, and never half of one.
    assert!((39..=39 + 2 * 39).contains(&scene.on_disk()), "{}", scene.on_disk());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_that_never_reads_its_answers_waits_alone() {
    let scene = Scene::new().await;
    let mut deaf = scene.connect().await;
    let nonsense = "x\n".repeat(10_000);
    let mut sent = 0;
    // Its answers fill its socket, and then it can't write, either.
    let stuck = async {
        loop {
            deaf.send(&nonsense).await;
            sent += nonsense.len();
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(2), stuck).await.is_err());
    assert!(sent < 16 * 1024 * 1024, "{sent} bytes were taken from it");
    let mut other = scene.connect().await;
    other.send(events(0, 100)).await;
    assert!(other.up_to(100).await.is_empty());
    // It does not hold up a stop, either.
    scene.stop.cancel();
    tokio::time::timeout(Duration::from_secs(8), scene.serving).await.expect("it ends").expect("no panic");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_spool_refuses_and_takes_again_when_there_is_room() {
    let small =
        spool::Options { max_bytes: 64 * 1024, segment_bytes: 16 * 1024, ..spool::Options::default() };
    let mut scene = Scene::of(small).await;
    let mut producer = scene.connect().await;
    let (mut sent, mut refused) = (0, Vec::new());
    while refused.is_empty() {
        assert!(sent < 100_000, "it takes more than there is room for");
        producer.send(events(sent, 100)).await;
        sent += 100;
        refused = producer.up_to(sent).await;
    }
    assert!(refused.iter().all(|(_, word)| word == "SPOOL_FULL"), "{refused:?}");
    let taken = sent - refused.len() as u64;
    assert_eq!((scene.on_disk(), scene.refused("SPOOL_FULL")), (taken, refused.len() as u64));
    let consumer = scene.shipping.take().expect("there").into_consumer();
    let mut consumer = consumer;
    let peeked = consumer.peek(usize::MAX, usize::MAX).await.expect("whole").len();
    consumer.done(peeked).await.expect("done");
    producer.send(events(sent, 10)).await;
    assert!(producer.up_to(sent + 10).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_answers_for_what_was_taken_and_removes_the_socket() {
    let scene = Scene::new().await;
    let (mut busy, mut idle) = (scene.connect().await, scene.connect().await);
    busy.send(events(0, 500)).await;
    assert_eq!(busy.answer().await.expect("an answer")["refused"], Value::Null);
    scene.stop.cancel();
    tokio::time::timeout(Duration::from_secs(8), scene.serving).await.expect("it ends").expect("no panic");
    // Each line is answered for, or it was never read; what was refused is not there.
    let (mut taken, mut stopped) = (0, 0);
    while let Some(answer) = busy.answer().await {
        match answer["refused"].as_str() {
            None => taken = answer["line"].as_u64().expect("a line"),
            Some(word) => {
                assert_eq!(word, "STOPPING");
                stopped += 1;
            }
        }
    }
    assert!(taken.max(1) + stopped <= 500);
    assert_eq!(idle.answer().await, None);
    assert!(!scene.folder.path().join("socket").exists());
    drop(scene.forwarder);
}

#[tokio::test]
async fn a_socket_is_for_its_user_alone_and_only_a_stale_one_is_replaced() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("socket");
    let socket = Socket::bind(&path).await.expect("it listens");
    let mode = fs::metadata(&path).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let error = Socket::bind(&path).await.expect_err("somebody answers");
    assert!(error.contains("another process answers there"), "{error}");
    drop(socket);
    assert!(!path.exists());
    // As a killed process leaves it.
    drop(std::os::unix::net::UnixListener::bind(&path).expect("it listens"));
    assert!(path.exists());
    drop(Socket::bind(&path).await.expect("replaced"));
    fs::write(&path, "precious").expect("a file");
    let error = Socket::bind(&path).await.expect_err("a file");
    assert!(error.contains("no socket"), "{error}");
    assert_eq!(fs::read_to_string(&path).expect("untouched"), "precious");
    let error = Socket::bind(&folder.path().join("x".repeat(120))).await.expect_err("too long");
    assert!(error.contains("too long for a socket"), "{error}");
    let error = Socket::bind(&folder.path().join("none/socket")).await.expect_err("no folder");
    assert!(error.starts_with("can't listen on "), "{error}");
}

#[tokio::test]
async fn nobody_can_connect_before_the_socket_is_for_its_user_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("socket");
    let socket = bound(&path).expect("bound");
    assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
    let refused = UnixStream::connect(&path).await.expect_err("it does not listen");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    drop(socket);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_without_a_place_is_told_so_and_may_come_again() {
    let scene = Scene::new().await;
    let mut producers = Vec::new();
    for n in 0..MAX_CONNECTIONS as u64 {
        let mut producer = scene.connect().await;
        producer.send(events(n, 1)).await;
        assert!(producer.up_to(1).await.is_empty());
        producers.push(producer);
    }
    let mut refused = scene.connect().await;
    let answer = refused.answer().await.expect("an answer");
    assert_eq!((&answer["line"], &answer["refused"]), (&0.into(), &"TOO_MANY_CONNECTIONS".into()));
    assert_eq!(refused.answer().await, None);
    assert_eq!(scene.refused("TOO_MANY_CONNECTIONS"), 1);
    producers.pop();
    loop {
        let mut next = scene.connect().await;
        // It may be closed before it has written.
        drop(next.write.write_all(events(9_999, 1).as_bytes()).await);
        let answer = next.answer().await.expect("an answer");
        if answer["line"] == 1 {
            break;
        }
        assert_eq!(answer["refused"], "TOO_MANY_CONNECTIONS");
    }
    assert_eq!(scene.on_disk(), MAX_CONNECTIONS as u64 + 1);
}
