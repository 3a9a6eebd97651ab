//! Connections, from their acceptance to the server. Each has a short time to shake hands and to
//! begin; those that have not yet are few, and the oldest of whoever has most of them makes place
//! for a new one, so that nobody who says nothing keeps others out. Those that have begun are
//! bounded, too ([`super::places`]).

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;

use super::connection::{Connection, Io};
use super::limits::Limits;
use super::places::Open;
use super::tls::Tls;
use crate::metrics::Metrics;

pub use super::connection::Peer;

/// Connections that have not begun yet.
pub const MAX_WAITING: usize = 512;

/// Where nothing can be accepted (no more file descriptors), how long until it is tried again.
const PAUSE: Duration = Duration::from_millis(50);

/// Connections as they come.
pub fn incoming(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    limits: &Limits,
    metrics: Arc<Metrics>,
) -> ReceiverStream<io::Result<Connection>> {
    let (sender, receiver) = mpsc::channel(16);
    let door = Door {
        tls,
        open: Arc::new(Open::new(limits.max_connections, metrics)),
        within: limits.first_byte_timeout,
        sender,
    };
    let open = door.open.clone();
    tokio::spawn(async move {
        door.accept(listener).await;
        open.clear().await;
    });
    ReceiverStream::new(receiver)
}

#[derive(Clone)]
struct Door {
    tls: Option<Arc<Tls>>,
    open: Arc<Open>,
    within: Duration,
    sender: mpsc::Sender<io::Result<Connection>>,
}

impl Door {
    /// Until the server takes no more. Then the listener is closed, and so are connections that
    /// have not begun.
    async fn accept(self, listener: TcpListener) {
        let mut tasks = JoinSet::new();
        let mut waiting = Waiting::default();
        loop {
            tokio::select! {
                () = self.sender.closed() => return,
                Some(ended) = tasks.join_next_with_id() => {
                    waiting.remove(ended.map_or_else(|error| error.id(), |(id, ())| id));
                }
                accepted = listener.accept() => {
                    let (stream, address) = match accepted {
                        Ok(accepted) => accepted,
                        // Gone before it was looked at.
                        Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                        Err(_) => {
                            self.open.metrics.connection_refused("accept");
                            tokio::time::sleep(PAUSE).await;
                            continue;
                        }
                    };
                    if waiting.0.len() >= MAX_WAITING {
                        waiting.make_place();
                        self.open.metrics.connection_refused("crowded_out");
                    }
                    let task = tasks.spawn(self.clone().open(stream, address));
                    waiting.0.push_back((network(address.ip()), task));
                }
            }
        }
    }

    async fn open(self, stream: TcpStream, address: SocketAddr) {
        let begun = timeout(self.within, begin(stream, address, self.tls)).await;
        let connection = match begun {
            Ok(Ok(connection)) => connection,
            Ok(Err(_)) => return self.open.metrics.connection_refused("handshake"),
            Err(_) => return self.open.metrics.connection_refused("silent"),
        };
        let Some(place) = self.open.enter(network(address.ip()), connection.activity()) else {
            return self.open.metrics.connection_refused("full");
        };
        // An error: the server has stopped.
        drop(self.sender.send(Ok(connection.at(place))).await);
    }
}

async fn begin(stream: TcpStream, address: SocketAddr, tls: Option<Arc<Tls>>) -> io::Result<Connection> {
    // The end of an answer would else wait for the client's ACK, which a client with nothing to say
    // delays by 40 ms.
    stream.set_nodelay(true)?;
    let (io, certificate) = match tls {
        None => (Io::Plain(stream), None),
        Some(tls) => {
            let stream = tls.acceptor().accept(stream).await?;
            let certificate = tls.presented(stream.get_ref().1);
            (Io::Tls(Box::new(stream)), certificate)
        }
    };
    Connection::begin(io, Peer::new(address, certificate)).await
}

/// Connections that have not begun, in the order of their coming.
#[derive(Default)]
struct Waiting(VecDeque<(IpAddr, AbortHandle)>);

impl Waiting {
    fn remove(&mut self, id: Id) {
        self.0.retain(|(_, task)| task.id() != id);
    }

    /// Ends the oldest of the address that has most.
    fn make_place(&mut self) {
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        for (address, _) in &self.0 {
            *counts.entry(*address).or_default() += 1;
        }
        let most = counts.values().copied().max().unwrap_or(0);
        let oldest = self.0.iter().position(|(address, _)| counts.get(address) == Some(&most));
        if let Some((_, task)) = oldest.and_then(|oldest| self.0.remove(oldest)) {
            task.abort();
        }
    }
}

/// Whom an address stands for: of IPv6 a host has a whole /64 to itself.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_stream::StreamExt;

    use super::*;

    const LIMITS: Limits = Limits {
        max_connections: 3,
        first_byte_timeout: Duration::from_millis(300),
        max_connection_age: Duration::from_secs(60),
        max_streams: 1,
        max_calls: 1,
        max_calls_per_second: None,
        max_call_time: Duration::from_secs(60),
    };

    async fn listening() -> (SocketAddr, ReceiverStream<io::Result<Connection>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        (address, incoming(listener, None, &LIMITS, Arc::new(Metrics::new())))
    }

    /// Whether what is sent first gets a connection closed.
    async fn closed(address: SocketAddr, first: &[u8]) -> bool {
        let mut client = TcpStream::connect(address).await.expect("connected");
        client.write_all(first).await.expect("sent");
        let read = timeout(Duration::from_secs(5), client.read(&mut [0])).await;
        read.is_ok_and(|read| read.unwrap_or(0) == 0)
    }

    #[tokio::test]
    async fn an_answer_is_sent_at_once() {
        let (address, mut connections) = listening().await;
        let mut client = TcpStream::connect(address).await.expect("connected");
        client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("sent");
        let accepted = connections.next().await.expect("a connection").expect("accepted");
        assert!(accepted.nodelay().expect("an option"));
    }

    #[tokio::test]
    async fn what_does_not_begin_as_http_2_does_is_closed() {
        let (address, _connections) = listening().await;
        for first in
            [&b""[..], b"PRI * HTTP/2.0\r\n\r\nSM", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01"]
        {
            assert!(closed(address, first).await, "{first:?}");
        }
    }

    #[tokio::test]
    async fn whoever_has_most_makes_place() {
        let mut waiting = Waiting::default();
        let mut tasks = JoinSet::new();
        let [busy, quiet] = ["10.0.0.1", "10.0.0.2"].map(|text| text.parse::<IpAddr>().expect("an address"));
        for address in [quiet, busy, busy] {
            waiting.0.push_back((address, tasks.spawn(std::future::pending::<()>())));
        }
        waiting.make_place();
        assert_eq!(waiting.0.iter().map(|(address, _)| *address).collect::<Vec<_>>(), [quiet, busy]);
        assert!(tasks.join_next().await.expect("one").expect_err("aborted").is_cancelled());
    }
}
