//! Events from other processes on this machine, over a Unix socket: NDJSON in, answers out (see
//! [`super::answers`]).
//!
//! A connection is served one group of lines at a time: what is there is taken, made durable and
//! answered before more is read. So a producer that is faster than the disk, or that does not
//! read its answers, waits in its own socket, and nobody else for it.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixSocket, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::answers::{Group, MAX_EVENT_BYTES, Word, no_place};
use super::lines::{GROUP_BYTES, Line, Lines};
use super::{AppendError, Forwarder};
use crate::spool;

/// Connections at once; the next ones are told so, and closed.
const MAX_CONNECTIONS: usize = 256;
/// What is read in one go.
const READ_BYTES: usize = 64 * 1024;
/// Connections that wait to be accepted.
const BACKLOG: u32 = 1_024;
/// How long a stop waits for producers that don't read their answers.
const LAST_ANSWER: Duration = Duration::from_secs(2);

/// A socket that listens. Its file is removed when it goes.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl Socket {
    /// Listens at `path`, for this user alone. A socket that nobody answers on any more is
    /// replaced; anything else there is an error, which says what to do.
    pub async fn bind(path: &Path) -> Result<Socket, String> {
        let fail = |what: String| Err(format!("can't listen on {}: {what}", path.display()));
        match fs::symlink_metadata(path) {
            Ok(there) if !there.file_type().is_socket() => {
                return fail("there is something else, which is no socket; name another path".into());
            }
            Ok(_) => match UnixStream::connect(path).await {
                Ok(_) => return fail("another process answers there; stop it, or name another path".into()),
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                    if let Err(error) = fs::remove_file(path) {
                        return fail(format!("the old socket can't be removed: {error}"));
                    }
                }
                Err(error) => return fail(format!("it can't be told whether the socket is in use: {error}")),
            },
            Err(_) => {}
        }
        match Socket::new(path) {
            Ok(socket) => Ok(socket),
            Err(error) if error.kind() == ErrorKind::InvalidInput => {
                fail("the path is too long for a socket; name one of at most 107 bytes".into())
            }
            Err(error) => fail(error.to_string()),
        }
    }

    fn new(path: &Path) -> io::Result<Socket> {
        let socket = bound(path)?;
        let inode = fs::symlink_metadata(path)?.ino();
        Ok(Socket { listener: socket.listen(BACKLOG)?, path: path.into(), inode })
    }

    /// Takes events in until it is told to stop. Then it answers for what is on its way and
    /// refuses what it has read beyond that.
    pub async fn serve(self, forwarder: Forwarder, stop: CancellationToken) {
        let (connections, places) = (TaskTracker::new(), Arc::new(Semaphore::new(MAX_CONNECTIONS)));
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let Ok(place) = places.clone().try_acquire_owned() else {
                        refuse(&stream, &forwarder);
                        continue;
                    };
                    // Not at once when one has gone: the next one may be refused again.
                    if places.available_permits() >= MAX_CONNECTIONS / 8 {
                        forwarder.watch.places();
                    }
                    let connection = Connection::new(stream, forwarder.clone(), stop.clone());
                    connections.spawn(async move {
                        let _place = place;
                        // It is the producer's to notice that its connection broke.
                        drop(connection.serve().await);
                    });
                }
                // Out of files, most likely, which passes.
                Err(error) => {
                    tracing::warn!(%error, "a connection to the socket was not accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        connections.close();
        connections.wait().await;
    }
}

/// A socket at `path` for this user alone. While it does not listen nobody can connect, whatever
/// the umask made of its mode.
fn bound(path: &Path) -> io::Result<UnixSocket> {
    let socket = UnixSocket::new_stream()?;
    socket.bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(socket)
}

/// Says that there is no place, as far as that is written at once.
fn refuse(stream: &UnixStream, forwarder: &Forwarder) {
    drop(stream.try_write(no_place(MAX_CONNECTIONS).as_bytes()));
    forwarder.book.refused(Word::TooManyConnections.as_str(), 1);
    forwarder.watch.crowded(MAX_CONNECTIONS);
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Unless somebody put another one there.
        if fs::symlink_metadata(&self.path).is_ok_and(|there| there.ino() == self.inode) {
            drop(fs::remove_file(&self.path));
        }
    }
}

struct Connection {
    read: OwnedReadHalf,
    write: OwnedWriteHalf,
    lines: Lines,
    forwarder: Forwarder,
    stop: CancellationToken,
}

impl Connection {
    fn new(stream: UnixStream, forwarder: Forwarder, stop: CancellationToken) -> Connection {
        let (read, write) = stream.into_split();
        Connection { read, write, lines: Lines::new(MAX_EVENT_BYTES), forwarder, stop }
    }

    /// Until the producer says that it has no more, or we are told to stop.
    async fn serve(mut self) -> io::Result<()> {
        while !self.stop.is_cancelled() {
            let lines = self.lines.take();
            if !lines.is_empty() {
                self.take(lines).await?;
            } else if !self.fill().await? {
                if let Some(last) = self.lines.rest() {
                    self.take(vec![last]).await?;
                }
                return self.write.shutdown().await;
            }
        }
        loop {
            let lines = self.lines.take();
            if lines.is_empty() {
                return self.write.shutdown().await;
            }
            let stopping = AppendError::Spool(spool::AppendError::Closed);
            self.answer(&Group::of(lines), Err((0, stopping))).await?;
        }
    }

    /// Waits for bytes, and then reads all that are there, up to a group's; false at their end.
    async fn fill(&mut self) -> io::Result<bool> {
        let mut buffer = Vec::with_capacity(READ_BYTES);
        let read = tokio::select! {
            () = self.stop.cancelled() => return Ok(true),
            read = self.read.read_buf(&mut buffer) => read?,
        };
        self.lines.push(&buffer);
        while self.lines.waiting() < GROUP_BYTES {
            buffer.clear();
            match self.read.try_read_buf(&mut buffer) {
                Ok(0) => break,
                Ok(_) => self.lines.push(&buffer),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(read > 0)
    }

    async fn take(&mut self, lines: Vec<Line>) -> io::Result<()> {
        let group = Group::of(lines);
        let taken = self.forwarder.take_some(&group.payloads, group.timeless).await;
        self.answer(&group, taken).await
    }

    async fn answer(&mut self, group: &Group, taken: Result<(), (usize, AppendError)>) -> io::Result<()> {
        for bad in &group.bad {
            self.forwarder.book.refused(bad.error.word().as_str(), 1);
        }
        if let Err((count, error)) = &taken {
            self.forwarder.book.refused(error.word().as_str(), group.numbers.len() - count);
        }
        let answers = group.answers(&taken);
        let too_late = async {
            self.stop.cancelled().await;
            tokio::time::sleep(LAST_ANSWER).await;
        };
        tokio::select! {
            written = self.write.write_all(answers.as_bytes()) => written,
            () = too_late => Err(ErrorKind::TimedOut.into()),
        }
    }
}

#[cfg(test)]
#[path = "sockets_tests.rs"]
mod tests;
