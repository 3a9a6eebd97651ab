//! A wire that can be cut at any byte, over TCP or a Unix socket, and that can catch a message of
//! HTTP/2 before it is passed on. What is behind it may come, go and change.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::events::Random;

type From = Box<dyn AsyncRead + Send + Unpin>;
type To = Box<dyn AsyncWrite + Send + Unpin>;

/// Where bytes go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Toward {
    Server,
    Client,
}

pub struct Wire {
    /// `127.0.0.1:port`, or a path.
    address: String,
    plan: Arc<Plan>,
}

/// A message that waits at the wire. Dropped: it is lost with its connection.
pub struct Caught(oneshot::Sender<()>);

impl Caught {
    pub fn pass(self) {
        // Its connection may be gone.
        self.0.send(()).unwrap_or_default();
    }
}

struct Plan {
    /// None: nobody answers.
    behind: Mutex<Option<Behind>>,
    cutting: Mutex<Option<Cutting>>,
    trap: Mutex<Option<(Toward, oneshot::Sender<Caught>)>>,
    cuts: [AtomicU64; 2],
    connections: Mutex<CancellationToken>,
}

#[derive(Clone)]
enum Behind {
    Tcp(String),
    Unix(PathBuf),
}

/// Each new connection breaks somewhere within so many bytes.
struct Cutting {
    random: Random,
    within: [u64; 2],
}

impl Wire {
    /// Over TCP; nothing is behind it yet.
    pub async fn tcp() -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, plan) = (listener.local_addr().unwrap().to_string(), Plan::new(None));
        let serves = plan.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                client.set_nodelay(true).unwrap();
                let (from, to) = client.into_split();
                tokio::spawn(serves.clone().connection(Box::new(from), Box::new(to)));
            }
        });
        Wire { address, plan }
    }

    /// Over a Unix socket at this path, in front of another one.
    pub async fn unix(path: &Path, behind: &Path) -> Wire {
        let listener = UnixListener::bind(path).unwrap();
        let plan = Plan::new(Some(Behind::Unix(behind.into())));
        let serves = plan.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (from, to) = client.into_split();
                tokio::spawn(serves.clone().connection(Box::new(from), Box::new(to)));
            }
        });
        Wire { address: path.to_str().unwrap().into(), plan }
    }

    /// For `RATER_SERVER`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// New connections lead there, or nowhere.
    pub fn lead_to(&self, address: Option<&str>) {
        *self.plan.behind.lock().unwrap() = address.map(|address| Behind::Tcp(address.into()));
    }

    /// From now on each new connection breaks at a random byte, toward the server within so
    /// many bytes, or toward the client.
    pub fn cut_within(&self, seed: u64, toward_server: u64, toward_client: u64) {
        let cutting = Cutting { random: Random(seed), within: [toward_server, toward_client] };
        *self.plan.cutting.lock().unwrap() = Some(cutting);
        self.cut_all();
    }

    /// New connections hold again.
    pub fn hold(&self) {
        *self.plan.cutting.lock().unwrap() = None;
        self.cut_all();
    }

    /// Breaks what is connected now.
    pub fn cut_all(&self) {
        let mut connections = self.plan.connections.lock().unwrap();
        connections.cancel();
        *connections = CancellationToken::new();
    }

    /// How many connections broke at a random byte: toward the server, toward the client.
    pub fn cuts(&self) -> [u64; 2] {
        [0, 1].map(|side| self.plan.cuts[side].load(Ordering::Relaxed))
    }

    /// The next message in this direction, before it is passed on.
    pub fn catch(&self, toward: Toward) -> oneshot::Receiver<Caught> {
        let (send, receive) = oneshot::channel();
        *self.plan.trap.lock().unwrap() = Some((toward, send));
        receive
    }
}

impl Plan {
    fn new(behind: Option<Behind>) -> Arc<Plan> {
        Arc::new(Plan {
            behind: Mutex::new(behind),
            cutting: Mutex::default(),
            trap: Mutex::default(),
            cuts: Default::default(),
            connections: Mutex::default(),
        })
    }

    async fn connection(self: Arc<Plan>, mut from_client: From, mut to_client: To) {
        let behind = self.behind.lock().unwrap().clone();
        let server: std::io::Result<(From, To)> = match behind {
            None => return,
            Some(Behind::Tcp(address)) => TcpStream::connect(address).await.map(|server| {
                drop(server.set_nodelay(true));
                let (from, to) = server.into_split();
                (Box::new(from) as From, Box::new(to) as To)
            }),
            Some(Behind::Unix(path)) => UnixStream::connect(path).await.map(|server| {
                let (from, to) = server.into_split();
                (Box::new(from) as From, Box::new(to) as To)
            }),
        };
        let Ok((mut from_server, mut to_server)) = server else { return };
        let cut = self.connections.lock().unwrap().child_token();
        let mut limits = [u64::MAX; 2];
        if let Some(cutting) = self.cutting.lock().unwrap().as_mut() {
            let side = cutting.random.below(2) as usize;
            limits[side] = cutting.random.below(cutting.within[side]);
        }
        let up = self.relay(Toward::Server, &mut from_client, &mut to_server, limits[0], &cut);
        let down = self.relay(Toward::Client, &mut from_server, &mut to_client, limits[1], &cut);
        // A side that ends by itself leaves the other one open: half-closed. A cut ends both, and
        // closes nothing before: no answer to what was cut off may come through.
        tokio::join!(up, down);
    }

    async fn relay(&self, toward: Toward, from: &mut From, to: &mut To, limit: u64, cut: &CancellationToken) {
        let broken = tokio::select! {
            biased;
            () = cut.cancelled() => return,
            broken = self.pass(toward, from, to, limit) => broken,
        };
        if broken {
            cut.cancel();
        } else {
            drop(to.shutdown().await);
        }
    }

    /// Whether it broke, and did not end by itself.
    async fn pass(&self, toward: Toward, from: &mut From, to: &mut To, limit: u64) -> bool {
        let (mut buffer, mut passed) = (vec![0; 16 * 1024], 0);
        let mut frames = Frames::new(toward);
        loop {
            let read = match from.read(&mut buffer).await {
                Ok(0) => return false,
                Ok(read) => read,
                Err(_) => return true,
            };
            let has_data = frames.have_data(&buffer[..read]);
            if has_data && !self.spring(toward).await {
                return true;
            }
            let room = usize::try_from(limit - passed).unwrap_or(usize::MAX);
            if to.write_all(&buffer[..read.min(room)]).await.is_err() {
                return true;
            }
            passed += read.min(room) as u64;
            if room <= read {
                drop(to.flush().await);
                self.cuts[usize::from(toward == Toward::Client)].fetch_add(1, Ordering::Relaxed);
                return true;
            }
        }
    }

    /// Lets the trap have what comes; whether it goes on afterwards.
    async fn spring(&self, toward: Toward) -> bool {
        let trap = self.trap.lock().unwrap().take_if(|(direction, _)| *direction == toward);
        let Some((_, catcher)) = trap else { return true };
        let (send, receive) = oneshot::channel();
        // Nobody waits for it any more: it goes on.
        catcher.send(Caught(send)).is_err() || receive.await.is_ok()
    }
}

/// Follows the frames of HTTP/2 in one direction.
struct Frames {
    header: Vec<u8>,
    skip: usize,
}

impl Frames {
    fn new(toward: Toward) -> Frames {
        // The client's preface comes before its first frame.
        Frames { header: Vec::new(), skip: if toward == Toward::Server { 24 } else { 0 } }
    }

    /// Whether a frame of data begins in these bytes.
    fn have_data(&mut self, mut bytes: &[u8]) -> bool {
        let mut found = false;
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            (self.skip, bytes) = (self.skip - skipped, &bytes[skipped..]);
            let wanted = (9 - self.header.len()).min(bytes.len());
            self.header.extend_from_slice(&bytes[..wanted]);
            bytes = &bytes[wanted..];
            if let [a, b, c, kind, ..] = self.header[..]
                && self.header.len() == 9
            {
                self.skip = u32::from_be_bytes([0, a, b, c]) as usize;
                found |= kind == 0 && self.skip > 0;
                self.header.clear();
            }
        }
        found
    }
}
