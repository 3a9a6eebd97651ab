//! Connections, from their acceptance to the server.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use super::tls::Tls;
use crate::identity::Presented;

/// Who is at the other end of a connection; in the extensions of each of its requests.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Where it comes from.
    pub address: Option<SocketAddr>,
    /// The client's certificate, verified by the handshake; none without one.
    pub certificate: Option<Arc<Presented>>,
}

/// A connection that speaks HTTP/2.
pub struct Connection {
    io: Io,
    peer: Peer,
}

enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Connections as they come.
pub fn incoming(listener: TcpListener, tls: Option<Arc<Tls>>) -> ReceiverStream<io::Result<Connection>> {
    let (sender, receiver) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((stream, address)) = tokio::select! {
            accepted = listener.accept() => accepted,
            () = sender.closed() => return,
        } {
            let (sender, tls) = (sender.clone(), tls.clone());
            tokio::spawn(async move {
                if let Ok(connection) = open(stream, address, tls).await {
                    drop(sender.send(Ok(connection)).await);
                }
            });
        }
    });
    ReceiverStream::new(receiver)
}

async fn open(stream: TcpStream, address: SocketAddr, tls: Option<Arc<Tls>>) -> io::Result<Connection> {
    // The end of an answer would else wait for the client's ACK, which a client with nothing to say
    // delays by 40 ms.
    stream.set_nodelay(true)?;
    let address = Some(address);
    let Some(tls) = tls else {
        return Ok(Connection { io: Io::Plain(stream), peer: Peer { address, certificate: None } });
    };
    let stream = tls.acceptor().accept(stream).await?;
    let certificate = tls.presented(stream.get_ref().1);
    Ok(Connection { io: Io::Tls(Box::new(stream)), peer: Peer { address, certificate } })
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
        match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_write(context, data),
            Io::Tls(io) => Pin::new(io).poll_write(context, data),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_flush(context),
            Io::Tls(io) => Pin::new(io).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_shutdown(context),
            Io::Tls(io) => Pin::new(io).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt;

    use super::*;

    #[tokio::test]
    async fn an_answer_is_sent_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let mut connections = incoming(listener, None);
        let _client = TcpStream::connect(address).await.expect("connected");
        let accepted = connections.next().await.expect("a connection").expect("accepted");
        let Io::Plain(stream) = &accepted.io else { panic!("without TLS") };
        assert!(stream.nodelay().expect("an option"));
    }
}
