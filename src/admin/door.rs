//! Whoever comes to the admin address, and for how long: few at once, each soon out again. Where all
//! places are taken, the oldest of the address that has most makes place, so that nobody who holds
//! on keeps a probe out.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Sleep, sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Connections at once.
const PLACES: usize = 64;
/// How long until the first byte, and until all is over.
const BEGINS_WITHIN: Duration = Duration::from_secs(5);
const ENDS_WITHIN: Duration = Duration::from_secs(10);
/// Where nothing can be accepted, how long until it is tried again.
const PAUSE: Duration = Duration::from_millis(50);

/// The listener.
pub(super) struct Door {
    pub(super) listener: TcpListener,
    pub(super) inside: Inside,
}

/// Who is in, in the order of their coming. Each is told to go by its token.
#[derive(Clone, Default)]
pub(super) struct Inside(Arc<Mutex<VecDeque<(IpAddr, CancellationToken)>>>);

impl Inside {
    fn enter(&self, address: IpAddr) -> CancellationToken {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(_, leave)| !leave.is_cancelled());
        if all.len() >= PLACES {
            let mut counts: HashMap<IpAddr, usize> = HashMap::new();
            for (address, _) in all.iter() {
                *counts.entry(*address).or_default() += 1;
            }
            let most = counts.values().copied().max().unwrap_or(0);
            let oldest = all.iter().position(|(address, _)| counts.get(address) == Some(&most));
            if let Some((_, leave)) = oldest.and_then(|oldest| all.remove(oldest)) {
                leave.cancel();
            }
        }
        let leave = CancellationToken::new();
        all.push_back((address, leave.clone()));
        leave
    }
}

impl axum::serve::Listener for Door {
    type Io = Visit;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Visit, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => {
                    let leave = self.inside.enter(address.ip().to_canonical());
                    return (Visit::new(stream, leave), address);
                }
                // Gone before it was looked at.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(_) => sleep(PAUSE).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection, which breaks off when its time is over.
pub(super) struct Visit {
    stream: TcpStream,
    leave: CancellationToken,
    left: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Until its first byte.
    begins: Option<Pin<Box<Sleep>>>,
    ends: Pin<Box<Sleep>>,
}

impl Visit {
    fn new(stream: TcpStream, leave: CancellationToken) -> Visit {
        let left = Box::pin(leave.clone().cancelled_owned());
        let (begins, ends) = (Some(Box::pin(sleep(BEGINS_WITHIN))), Box::pin(sleep(ENDS_WITHIN)));
        Visit { stream, leave, left, begins, ends }
    }

    fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        self.left.as_mut().poll(context).is_ready()
            || self.ends.as_mut().poll(context).is_ready()
            || self.begins.as_mut().is_some_and(|begins| begins.as_mut().poll(context).is_ready())
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.leave.cancel();
    }
}

impl AsyncRead for Visit {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_over(context) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_ready() {
            self.begins = None;
        }
        read
    }
}

impl AsyncWrite for Visit {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_over(context) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
