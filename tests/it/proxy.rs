//! A proxy in front of PostgreSQL that understands enough of its protocol to break in at a chosen
//! statement: to cut the connection there, or to kill or stop the process behind it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

/// On which side of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The server has not seen it.
    Before,
    /// The server is at it.
    During,
    /// The server has done it, and its answer is on the way.
    After,
}

/// A moment in what a service says to its database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spot {
    /// A piece of the statement that no other has.
    pub statement: &'static str,
    /// The how manieth from now, from 1.
    pub nth: u32,
    pub side: Side,
}

/// What happens there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// The connection breaks.
    Cut,
    /// The process is killed.
    Kill(u32),
    /// The process is stopped. What it said is held back until [`Proxy::release`], if the server
    /// has not seen it.
    Stop(u32),
    /// This connection and all others pass nothing on any more, and stay open, as on a network that
    /// swallows everything. So do new ones, until [`Proxy::recover`].
    Swallow,
}

pub struct Proxy {
    port: u16,
    plan: Arc<Plan>,
}

#[derive(Default)]
struct Plan {
    armed: Mutex<Option<(Spot, Deed)>>,
    held: watch::Sender<bool>,
    /// Of the connections that are made now.
    swallows: Mutex<Arc<AtomicBool>>,
}

impl Proxy {
    /// In front of the server that a URL names.
    pub async fn to(url: &str) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (server, plan) = (address(url).to_owned(), Arc::new(Plan::default()));
        let proxy = Proxy { port, plan: plan.clone() };
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let (server, plan) = (server.clone(), plan.clone());
                tokio::spawn(async move {
                    let server = TcpStream::connect(server).await.unwrap();
                    drop(relay(client, server, plan).await);
                });
            }
        });
        proxy
    }

    /// The same database through this proxy.
    pub fn url(&self, url: &str) -> String {
        url.replace(address(url), &format!("127.0.0.1:{}", self.port))
    }

    /// Does it when the moment comes.
    pub fn strike(&self, spot: Spot, deed: Deed) {
        self.plan.held.send_replace(true);
        *self.plan.armed.lock().unwrap() = Some((spot, deed));
    }

    /// Breaks the nth COMMIT from now, from 1.
    pub fn cut(&self, nth: u32, side: Side) {
        self.strike(Spot { statement: "COMMIT", nth, side }, Deed::Cut);
    }

    /// Whether it has happened.
    pub fn has_struck(&self) -> bool {
        self.plan.armed.lock().unwrap().is_none()
    }

    /// Lets new connections through again. The others stay as they are.
    pub fn recover(&self) {
        *self.plan.swallows.lock().unwrap() = Arc::default();
    }

    /// Lets what was held back go on to the server.
    pub fn release(&self) {
        self.plan.held.send_replace(false);
    }
}

impl Plan {
    /// Whether this statement is the one.
    fn due(&self, statement: &str) -> Option<(Side, Deed)> {
        let mut armed = self.armed.lock().unwrap();
        let (spot, deed) = armed.as_mut().filter(|(spot, _)| spot.nth > 0)?;
        if !statement.contains(spot.statement) {
            return None;
        }
        spot.nth -= 1;
        (spot.nth == 0).then_some((spot.side, *deed))
    }

    /// Whether the connection goes on after it.
    fn act(&self, deed: Deed) -> bool {
        let signal = |pid: u32, signal| kill(Pid::from_raw(pid as i32), signal).unwrap();
        match deed {
            Deed::Cut => {}
            Deed::Swallow => self.swallows.lock().unwrap().store(true, Ordering::SeqCst),
            Deed::Kill(pid) => signal(pid, Signal::SIGKILL),
            Deed::Stop(pid) => {
                signal(pid, Signal::SIGSTOP);
                until_still(pid);
            }
        }
        *self.armed.lock().unwrap() = None;
        matches!(deed, Deed::Stop(_) | Deed::Swallow)
    }
}

/// Until every thread of a process has stopped. The signal reaches one of them, and only then the
/// others: one that runs on could still take an answer and commit.
fn until_still(pid: u32) {
    let still = |task: &std::path::Path| {
        // The state follows the name, which ends with the last bracket.
        let stat = std::fs::read_to_string(task.join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('T'))
    };
    let tasks = || std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    while !tasks().all(|task| still(&task.path())) {
        std::thread::yield_now();
    }
}

fn address(url: &str) -> &str {
    url.split('@').nth(1).unwrap().split('/').next().unwrap()
}

/// What waits for the server's next answer.
#[derive(Default)]
struct Answer {
    awaited: AtomicBool,
    came: Notify,
    heard: Notify,
}

async fn relay(client: TcpStream, server: TcpStream, plan: Arc<Plan>) -> std::io::Result<()> {
    // Or each small message waits 40 ms for the last one's acknowledgement.
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, mut to_client) = client.into_split();
    let (mut from_server, to_server) = server.into_split();
    let answer = Arc::new(Answer::default());
    let waits = answer.clone();
    let swallows = plan.swallows.lock().unwrap().clone();
    let swallowed = swallows.clone();
    let down = tokio::spawn(async move {
        let mut buffer = [0; 16 * 1024];
        while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
            if waits.awaited.swap(false, Ordering::SeqCst) {
                waits.came.notify_one();
                waits.heard.notified().await;
            }
            until_never(&swallowed).await;
            drop(to_client.write_all(&buffer[..read]).await);
        }
    });
    let result = up(from_client, to_server, &plan, &answer, &swallows).await;
    down.abort();
    result
}

/// Never comes back where nothing is passed on.
async fn until_never(swallows: &AtomicBool) {
    if swallows.load(Ordering::SeqCst) {
        std::future::pending::<()>().await;
    }
}

async fn up(
    mut client: OwnedReadHalf,
    mut server: OwnedWriteHalf,
    plan: &Plan,
    answer: &Answer,
    swallows: &AtomicBool,
) -> std::io::Result<()> {
    let mut prepared = HashMap::new();
    // What opens a connection has no type.
    let opening = frame(&mut client, 0).await?;
    until_never(swallows).await;
    server.write_all(&opening).await?;
    loop {
        let mut message = frame(&mut client, 1).await?;
        until_never(swallows).await;
        let due = said(&message, &mut prepared).and_then(|statement| plan.due(&statement));
        let Some((side, deed)) = due else {
            server.write_all(&message).await?;
            continue;
        };
        if side == Side::Before {
            if !plan.act(deed) {
                return Ok(());
            }
            until_never(swallows).await;
            drop(plan.held.subscribe().wait_for(|held| !held).await);
        }
        // A statement that was prepared is asked for in several messages; the last one is Sync.
        while !matches!(message[0], b'Q' | b'S') {
            server.write_all(&message).await?;
            message = frame(&mut client, 1).await?;
        }
        answer.awaited.store(side == Side::After, Ordering::SeqCst);
        server.write_all(&message).await?;
        if side == Side::After {
            answer.came.notified().await;
        }
        if side != Side::Before && !plan.act(deed) {
            return Ok(());
        }
        until_never(swallows).await;
        if side == Side::After {
            answer.heard.notify_one();
        }
    }
}

/// The statement that a message asks for: a plain one, or one that was prepared before.
fn said(message: &[u8], prepared: &mut HashMap<String, String>) -> Option<String> {
    let mut texts =
        message[5..].split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into_owned());
    match message[0] {
        b'Q' => texts.next(),
        b'P' => {
            let (name, statement) = (texts.next()?, texts.next()?);
            prepared.insert(name, statement);
            None
        }
        b'B' => prepared.get(&texts.nth(1)?).cloned(),
        _ => None,
    }
}

/// A message: a type of that many bytes, then its length, itself included.
async fn frame(from: &mut OwnedReadHalf, kind: usize) -> std::io::Result<Vec<u8>> {
    let mut frame = vec![0; kind + 4];
    from.read_exact(&mut frame).await?;
    let length = u32::from_be_bytes(frame[kind..].try_into().unwrap()) as usize;
    frame.resize(kind + length, 0);
    from.read_exact(&mut frame[kind + 4..]).await?;
    Ok(frame)
}
