//! A connection that has begun to speak HTTP/2. It ends by itself where its peer takes nothing that
//! it is sent, or resets more calls than anybody has a use for: HTTP/2's own keepalive sees neither,
//! since it has to write before it can listen.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::transport::server::Connected;

use super::activity::Activity;
use super::places::Place;
use crate::identity::Presented;

/// What a client of HTTP/2 sends first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long a peer may take nothing of what waits for it.
const STALLED_AFTER: Duration = Duration::from_secs(6);

/// What is written at once that says more than that the peer is there.
const WORDS: usize = 512;

/// Who is at the other end of a connection; in the extensions of each of its requests.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Where it comes from.
    pub address: Option<SocketAddr>,
    /// The client's certificate, verified by the handshake; none without one.
    pub certificate: Option<Arc<Presented>>,
    pub(super) activity: Arc<Activity>,
}

impl Peer {
    pub(super) fn new(address: SocketAddr, certificate: Option<Arc<Presented>>) -> Peer {
        Peer { address: Some(address), certificate, activity: Arc::new(Activity::new()) }
    }
}

/// A connection that speaks HTTP/2.
pub struct Connection {
    io: Io,
    /// Of the preface, which was read already.
    unread: &'static [u8],
    peer: Peer,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    /// While something waits to be taken.
    stalled: Option<Pin<Box<Sleep>>>,
    /// Given back when the connection is closed.
    _place: Option<Place>,
}

/// The bytes, plain or not.
pub(super) enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection {
    /// Waits for the preface: hyper would wait for ever, and a graceful stop with it.
    pub(super) async fn begin(mut io: Io, peer: Peer) -> io::Result<Connection> {
        let mut first = [0; PREFACE.len()];
        let mut seen = 0;
        while seen < PREFACE.len() {
            let read = match &mut io {
                Io::Plain(io) => io.read(&mut first[seen..]).await?,
                Io::Tls(io) => io.read(&mut first[seen..]).await?,
            };
            // Told as early as it is known.
            if read == 0 || first[seen..seen + read] != PREFACE[seen..seen + read] {
                return Err(io::ErrorKind::InvalidData.into());
            }
            seen += read;
        }
        let cut = Box::pin(peer.activity.cut.clone().cancelled_owned());
        Ok(Connection { io, unread: PREFACE, peer, cut, stalled: None, _place: None })
    }

    /// With the place that it takes.
    pub(super) fn at(self, place: Place) -> Connection {
        Connection { _place: Some(place), ..self }
    }

    pub(super) fn activity(&self) -> &Arc<Activity> {
        &self.peer.activity
    }

    #[cfg(test)]
    pub(super) fn nodelay(&self) -> io::Result<bool> {
        match &self.io {
            Io::Plain(io) => io.nodelay(),
            Io::Tls(io) => io.get_ref().0.nodelay(),
        }
    }

    /// What a write came to; an error where nothing was taken for too long.
    fn taken<T>(&mut self, context: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.stalled = None;
            return poll;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(STALLED_AFTER)));
        match stalled.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.cut.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        if !self.unread.is_empty() {
            let (now, later) = self.unread.split_at(self.unread.len().min(buffer.remaining()));
            buffer.put_slice(now);
            self.unread = later;
            return Poll::Ready(Ok(()));
        }
        match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_read(context, buffer),
            Io::Tls(io) => Pin::new(io).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.peer.activity.cut.is_cancelled() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let poll = match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_write(context, data),
            Io::Tls(io) => Pin::new(io).poll_write(context, data),
        };
        if matches!(poll, Poll::Ready(Ok(written)) if written >= WORDS) {
            self.peer.activity.moves();
        }
        self.taken(context, poll)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_flush(context),
            Io::Tls(io) => Pin::new(io).poll_flush(context),
        };
        self.taken(context, poll)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_shutdown(context),
            Io::Tls(io) => Pin::new(io).poll_shutdown(context),
        };
        self.taken(context, poll)
    }
}
