//! Producers on the sender's socket: each sends events line by line or many at once, believes only
//! what it is told, connects again when it was cut off, and sends again what was not acknowledged.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rater::proto::BillingEvent;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::account::{Account, any_event, line, poison};
use crate::events::Random;

/// What has happened on all sockets so far.
#[derive(Debug, Default)]
pub struct Seen {
    pub written: AtomicU64,
    pub answered: AtomicU64,
    pub refused: AtomicU64,
    pub connections: AtomicU64,
}

/// A connection to the sender and the lines that wait for their answer.
pub struct Connection {
    answers: Lines<BufReader<OwnedReadHalf>>,
    to: OwnedWriteHalf,
    sent: u64,
    heard: u64,
    waiting: BTreeMap<u64, String>,
}

/// An answer: up to that line all is on disk, or that line was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    UpTo(u64),
    Refused { line: u64, reason: String, error: String },
}

impl Connection {
    pub async fn open(path: &Path) -> std::io::Result<Connection> {
        let (from, to) = UnixStream::connect(path).await?.into_split();
        let answers = BufReader::new(from).lines();
        Ok(Connection { answers, to, sent: 0, heard: 0, waiting: BTreeMap::new() })
    }

    /// Sends bytes as they are; the caller counts the lines.
    pub async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.to.write_all(bytes).await
    }

    /// No more lines come.
    pub async fn end(&mut self) {
        self.to.shutdown().await.unwrap();
    }

    /// The next answer; None at the end.
    pub async fn answer(&mut self) -> std::io::Result<Option<Answer>> {
        let Some(text) = self.answers.next_line().await? else { return Ok(None) };
        // A sender that dies may leave half a line.
        let Ok(value) = serde_json::from_str::<Value>(&text) else {
            let more = self.answers.next_line().await?;
            assert!(more.is_none(), "no answer: {text}, and then {more:?}");
            return Ok(None);
        };
        let line = value["line"].as_u64().unwrap_or_else(|| panic!("no line in {text}"));
        assert!(line > self.heard, "line {line} after {}: answers ascend", self.heard);
        self.heard = line;
        Ok(Some(match value["refused"].as_str() {
            None => Answer::UpTo(line),
            Some(reason) => {
                let error = value["error"].as_str().unwrap_or_else(|| panic!("no error in {text}"));
                Answer::Refused { line, reason: reason.into(), error: error.into() }
            }
        }))
    }
}

/// One of many.
pub struct Producer {
    pub name: String,
    /// Of the socket.
    pub path: PathBuf,
    pub account: Arc<Account>,
    pub seen: Arc<Seen>,
    pub random: Random,
    /// The most events at once.
    pub batch: u64,
    /// One in so many can never be stored; 0: none.
    pub poison_every: u64,
    /// Of what got no answer it sends only some again.
    pub gives_up: bool,
    /// Between what was answered and what it sends next, at most.
    pub pause: Duration,
    pub count: u64,
}

impl Producer {
    /// Until it is told to stop, and what it sends again is acknowledged.
    pub async fn run(mut self, mut over: watch::Receiver<bool>) {
        let mut pending: Vec<BillingEvent> = Vec::new();
        while !*over.borrow() || !pending.is_empty() {
            let Ok(mut connection) = Connection::open(&self.path).await else {
                tokio::time::sleep(Duration::from_millis(3)).await;
                continue;
            };
            self.seen.connections.fetch_add(1, Ordering::Relaxed);
            while self.exchange(&mut connection, &mut pending).await.is_ok() {
                if pending.is_empty() && *over.borrow_and_update() {
                    return;
                }
                let pause = self.random.below(self.pause.as_micros() as u64 + 1);
                tokio::time::sleep(Duration::from_micros(pause)).await;
            }
            connection.waiting.values().for_each(|key| self.account.unanswered(key));
            if self.gives_up {
                pending.retain(|_| self.random.below(2) == 0);
            }
        }
    }

    /// Sends what is pending, or else new events, and takes the answers; an error when the
    /// connection is of no more use.
    async fn exchange(
        &mut self,
        connection: &mut Connection,
        pending: &mut Vec<BillingEvent>,
    ) -> std::io::Result<()> {
        if pending.is_empty() {
            *pending = (0..1 + self.random.below(self.batch)).map(|_| self.next()).collect();
        }
        let mut text = Vec::new();
        for event in pending.iter() {
            self.account.sends(event);
            connection.sent += 1;
            connection.waiting.insert(connection.sent, event.adapter.clone());
            text.extend_from_slice(line(event).as_bytes());
        }
        // In pieces that end in the middle of a line, too.
        let cut = self.random.below(text.len() as u64) as usize;
        for piece in [&text[..cut], &text[cut..]] {
            connection.write(piece).await?;
            self.seen.written.fetch_add(1, Ordering::Release);
        }
        let mut refused = false;
        while !connection.waiting.is_empty() {
            let gone = || std::io::Error::other("it hung up");
            match connection.answer().await?.ok_or_else(gone)? {
                Answer::UpTo(line) => {
                    assert!(line <= connection.sent, "{line} of {} lines", connection.sent);
                    let later = connection.waiting.split_off(&(line + 1));
                    for key in std::mem::replace(&mut connection.waiting, later).into_values() {
                        self.account.acknowledged(&key);
                        pending.retain(|event| event.adapter != key);
                    }
                }
                Answer::Refused { line, reason, .. } => {
                    refused = true;
                    self.seen.refused.fetch_add(1, Ordering::Release);
                    let key = connection.waiting.remove(&line).expect("a line that waits");
                    match reason.as_str() {
                        "SPOOL_FULL" | "STOPPING" => self.account.not_taken(&key),
                        "DISK_FULL" | "SPOOL_FAILED" => self.account.unanswered(&key),
                        _ => panic!("{reason} of {key}"),
                    }
                }
            }
            self.seen.answered.fetch_add(1, Ordering::Release);
        }
        if refused {
            // It was told to wait.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    fn next(&mut self) -> BillingEvent {
        self.count += 1;
        let key = format!("{}-{}", self.name, self.count);
        if self.poison_every > 0 && self.random.below(self.poison_every) == 0 {
            return poison(&mut self.random, &key);
        }
        any_event(&mut self.random, &key)
    }
}

/// Many producers at once, until they are told to stop.
pub struct Crowd {
    pub seen: Arc<Seen>,
    over: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

/// What the producers of a crowd have in common.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    pub producers: u64,
    pub batch: u64,
    pub poison_every: u64,
    pub pause: Duration,
    /// One in so many sends only some of what got no answer again; 0: none.
    pub gives_up: u64,
}

impl Default for Manner {
    fn default() -> Manner {
        let pause = Duration::from_millis(40);
        Manner { producers: 8, batch: 20, poison_every: 0, pause, gives_up: 0 }
    }
}

impl Crowd {
    pub fn on(path: &Path, account: &Arc<Account>, seed: u64, manner: Manner) -> Crowd {
        let (over, _) = watch::channel(false);
        let mut crowd = Crowd { seen: Arc::default(), over, tasks: JoinSet::new() };
        for n in 0..manner.producers {
            let producer = Producer {
                name: format!("{seed}-{n}"),
                path: path.into(),
                account: account.clone(),
                seen: crowd.seen.clone(),
                random: Random(seed.wrapping_mul(31) + n + 1),
                // Every third goes line by line.
                batch: if n % 3 == 0 { 1 } else { manner.batch },
                poison_every: manner.poison_every,
                gives_up: manner.gives_up > 0 && n % manner.gives_up == 1,
                pause: manner.pause,
                count: 0,
            };
            crowd.tasks.spawn(producer.run(crowd.over.subscribe()));
        }
        crowd
    }

    /// What has no answer yet is sent until it has one; then they stop.
    pub async fn end(mut self) {
        self.over.send_replace(true);
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }
}
