//! HTTP/2 by hand, as nobody of ours would speak it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const CONTINUATION: u8 = 9;

pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Everything before the first call.
pub fn beginning() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[]), &frame(SETTINGS, ACK, 0, &[])].concat()
}

/// The headers of a call, none of them compressed.
pub fn headers(path: &str) -> Vec<u8> {
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "rater"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    fields.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect()
}

/// From another address of this machine than our own callers come from.
pub async fn connect(address: &str) -> TcpStream {
    connect_with(address, None).await
}

/// The same with room for so many bytes that were not read.
pub async fn connect_with(address: &str, room: Option<u32>) -> TcpStream {
    connect_from("127.0.0.2", address, room).await
}

/// The same from one of this machine's addresses.
pub async fn connect_from(from: &str, address: &str, room: Option<u32>) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    if let Some(room) = room {
        socket.set_recv_buffer_size(room).unwrap();
    }
    socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
    let address: SocketAddr = address.parse().unwrap();
    socket.connect(address).await.unwrap()
}

/// Waits until the other end has closed: how long that took since `began`.
pub async fn closed(stream: &mut TcpStream, began: Instant) -> Duration {
    let mut buffer = [0; 4096];
    let end = async { while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {} };
    tokio::time::timeout(Duration::from_secs(60), end).await.expect("closed within a minute");
    began.elapsed()
}

/// The same while `more` is sent again and again, so often.
pub async fn closed_while_sending(
    mut stream: TcpStream,
    began: Instant,
    mut more: impl FnMut() -> Vec<u8>,
    every: Duration,
) -> Duration {
    let mut buffer = [0; 4096];
    loop {
        let sent = async {
            let sent = stream.write_all(&more()).await;
            tokio::time::sleep(every).await;
            sent
        };
        if !matches!(tokio::time::timeout(Duration::from_secs(60), sent).await, Ok(Ok(()))) {
            return began.elapsed();
        }
        match stream.try_read(&mut buffer) {
            Ok(0) => return began.elapsed(),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return began.elapsed(),
        }
        assert!(began.elapsed() < Duration::from_secs(60), "still open");
    }
}

/// Sends this, and then is there whenever it is asked for: resolves when the other end has closed.
pub async fn hold(mut stream: TcpStream, first: Vec<u8>) {
    let mut frames = Vec::new();
    let mut buffer = [0; 4096];
    if stream.write_all(&first).await.is_err() {
        return;
    }
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        frames.extend_from_slice(&buffer[..read]);
        while let Some(length) = frames.first_chunk().map(|[a, b, c]| u32::from_be_bytes([0, *a, *b, *c])) {
            let whole = 9 + length as usize;
            if frames.len() < whole {
                break;
            }
            let asked: Vec<u8> = frames.drain(..whole).collect();
            if asked[3] == PING
                && asked[4] & ACK == 0
                && stream.write_all(&frame(PING, ACK, 0, &asked[9..])).await.is_err()
            {
                return;
            }
        }
    }
}

/// A call of which only so much comes.
pub fn half(path: &str, stream: u32, begun: &[u8]) -> Vec<u8> {
    [frame(HEADERS, END_HEADERS, stream, &headers(path)), frame(DATA, 0, stream, begun)].concat()
}
