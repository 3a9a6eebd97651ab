//! The sender: takes events into a durable spool and ships them to the service, whatever happens
//! in between.
//!
//! [`Forwarder::append`] promises that the events are on the disk when it returns. From then on
//! each is stored by the service exactly once, or set aside as a dead letter with the reason, as
//! long as the disk keeps what it was given; outages, restarts and crashes on either side only
//! make it later. It refuses what it can't keep (the spool's limit, a full disk) and never makes
//! room by dropping what waits.
//!
//! ```no_run
//! use std::path::Path;
//! use rater::forwarder::{Forwarder, Options};
//! use rater::grpc::client::Server;
//! use rater::proto::BillingEvent;
//! use tokio_util::sync::CancellationToken;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let server = Server { url: "http://127.0.0.1:50051".into(), ..Server::default() };
//! let (forwarder, shipping) =
//!     Forwarder::open(Path::new("/var/lib/proxy/spool"), &server, Options::default()).await?;
//! let stop = CancellationToken::new();
//! let shipping = tokio::spawn(shipping.run(stop.clone()));
//!
//! let event = BillingEvent { request_id: "8b1c".into(), prompt_tokens: 12, ..Default::default() };
//! forwarder.append(vec![event]).await?; // on the disk
//! forwarder.append_json(br#"{"request_id":"8b1d","prompt_tokens":7}"#).await?;
//! println!("{} events wait", forwarder.seen().depth.events);
//!
//! forwarder.close(); // takes no more; `stop.cancel()` would leave the rest in the spool
//! let seen = shipping.await?; // everything is shipped
//! assert_eq!(seen.depth.events, 0);
//! # Ok(())
//! # }
//! ```
//!
//! Its place in the flow: `append` → [`crate::spool`] → `ship` → RecordEvents, or
//! [`crate::dead_letters`]. `sockets` is the same for producers in other processes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use prost::Message;

pub mod answers;
mod backoff;
pub mod lines;
pub mod metrics;
mod pace;
mod resend;
mod seen;
mod ship;
mod shipping;
pub mod sockets;
mod source;
mod status_file;
mod verdict;
mod watch;

pub use answers::{MAX_EVENT_BYTES, Word};
pub use pace::Pace;
pub use resend::{Again, Resent, resend};
pub use seen::{Counts, Mishap, Saved, Seen};
pub use shipping::Shipping;
pub use status_file::read as saved;
pub use verdict::{Blame, Refusal, blame, refusals};

use crate::dead_letters::{DeadLetters, Refused};
use crate::grpc::client::{ConnectError, Server, connect_lazy};
use crate::proto::BillingEvent;
use crate::spool::{self, Spool};

/// How a forwarder works.
#[derive(Debug, Clone)]
pub struct Options {
    /// How the spool is kept.
    pub spool: spool::Options,
    /// The most events in one call, at most 10,000.
    pub batch_size: usize,
    /// An event that waits longer is told of in the log.
    pub alert_age: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options { spool: spool::Options::default(), batch_size: 1_000, alert_age: Duration::from_secs(300) }
    }
}

/// Why there is no forwarder.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder can't be used.
    #[error(transparent)]
    Spool(#[from] spool::Error),
    /// The server's URL, or what TLS needs, is wrong. A service that isn't there is no error.
    #[error(transparent)]
    Server(#[from] ConnectError),
}

/// Events that were not taken: none of a call's.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// It is no event.
    #[error("{0}")]
    NotAnEvent(String),
    /// It can't be one.
    #[error("is longer than {max_bytes} bytes; put one event on a line")]
    TooLong {
        /// The limit.
        max_bytes: usize,
    },
    /// The spool does not take them.
    #[error(transparent)]
    Spool(#[from] spool::AppendError),
}

/// The side that takes events in. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Forwarder {
    dir: PathBuf,
    letters: DeadLetters,
    book: Arc<seen::Book>,
    watch: Arc<watch::Watch>,
}

impl Forwarder {
    /// Opens the spool in `dir`, which is made when it is missing and used by one process at a
    /// time, with what waits in it. Nothing is shipped before [`Shipping::run`].
    pub async fn open(
        dir: &Path,
        server: &Server,
        options: Options,
    ) -> Result<(Forwarder, Shipping), OpenError> {
        let channel = connect_lazy(server)?;
        let (folder, how) = (dir.to_path_buf(), options.spool.clone());
        let opened = tokio::task::spawn_blocking(move || {
            let (spool, consumer) = Spool::open(&folder, how)?;
            DeadLetters::of(&folder).sweep();
            Ok::<_, spool::Error>((spool, consumer, status_file::read(&folder)))
        });
        let (spool, consumer, saved) =
            opened.await.unwrap_or_else(|lost| std::panic::resume_unwind(lost.into_panic()))?;
        let forwarder = Forwarder {
            dir: dir.to_path_buf(),
            letters: DeadLetters::of(dir),
            book: Arc::new(seen::Book::new(Some(spool), saved)),
            watch: Arc::new(watch::Watch::new(options.alert_age)),
        };
        let shipping = Shipping::new(forwarder.clone(), consumer, channel, options.batch_size);
        Ok((forwarder, shipping))
    }

    /// Takes events in, all of them or none. On the disk when it returns.
    pub async fn append(&self, events: Vec<BillingEvent>) -> Result<(), AppendError> {
        let count = events.len();
        let timeless = events.iter().any(|event| event.event_time.is_none());
        let payloads: Vec<Vec<u8>> = events.iter().map(Message::encode_to_vec).collect();
        let taken = match payloads.iter().all(|payload| payload.len() <= MAX_EVENT_BYTES) {
            true => self.take(payloads, timeless).await,
            false => Err(AppendError::TooLong { max_bytes: MAX_EVENT_BYTES }),
        };
        if let Err(error) = &taken {
            self.book.refused(error.word().as_str(), count);
        }
        taken
    }

    /// Takes one event in, in the contract's JSON: unknown fields are refused, and what the
    /// fields hold is the service's to judge.
    pub async fn append_json(&self, event: &[u8]) -> Result<(), AppendError> {
        match answers::event(event) {
            Ok(event) => self.append(vec![event]).await,
            Err(error) => {
                self.book.refused(error.word().as_str(), 1);
                Err(error)
            }
        }
    }

    /// Takes encoded events in, all of them or none. What is refused here is counted by whoever
    /// tells the producer.
    async fn take(&self, payloads: Vec<Vec<u8>>, timeless: bool) -> Result<(), AppendError> {
        let taken = self.spool(payloads, timeless).await;
        self.tell(taken.as_ref().err());
        Ok(taken?)
    }

    /// Takes the first of these encoded events in, as many as there is room for: all of them, or
    /// how many, and why not more. One that would not fit into an empty spool, either, is too long.
    pub async fn take_some(
        &self,
        mut payloads: &[Vec<u8>],
        timeless: bool,
    ) -> Result<(), (usize, AppendError)> {
        if payloads.is_empty() {
            return Ok(());
        }
        let (all, mut size) = (payloads.len(), payloads.len());
        while !payloads.is_empty() {
            let (part, rest) = payloads.split_at(size.min(payloads.len()));
            match self.spool(part.to_vec(), timeless).await {
                Ok(()) => payloads = rest,
                Err(spool::AppendError::Full { .. }) if part.len() > 1 => size = part.len() / 2,
                Err(error) => {
                    self.tell(Some(&error));
                    let error = match (&error, part) {
                        (spool::AppendError::Full { max_bytes, .. }, [lone])
                            if too_long(lone, *max_bytes) =>
                        {
                            AppendError::TooLong {
                                max_bytes: usize::try_from(*max_bytes).unwrap_or(usize::MAX),
                            }
                        }
                        _ => error.into(),
                    };
                    return Err((all - payloads.len(), error));
                }
            }
        }
        self.tell(None);
        Ok(())
    }

    async fn spool(&self, payloads: Vec<Vec<u8>>, timeless: bool) -> Result<(), spool::AppendError> {
        let spool = self.book.spool().ok_or(spool::AppendError::Closed)?;
        let count = payloads.len();
        spool.append(payloads).await?;
        self.book.spooled(count);
        if timeless {
            self.watch.no_event_time();
        }
        Ok(())
    }

    /// Whether events are taken in, and why not.
    fn tell(&self, error: Option<&spool::AppendError>) {
        match error {
            None => self.watch.intake_works(),
            Some(spool::AppendError::Full { bytes, max_bytes }) => self.watch.full(*bytes, *max_bytes),
            Some(error @ (spool::AppendError::DiskFull(_) | spool::AppendError::Io(_))) => {
                self.watch.intake_fails(&error.to_string());
            }
            Some(spool::AppendError::TooLong { .. } | spool::AppendError::Closed) => {}
        }
    }

    /// Sets aside what is no event, whole and on the disk when it returns.
    pub async fn set_aside(&self, letters: Vec<Refused>) -> Result<(), crate::dead_letters::Error> {
        let (folder, count) = (self.letters.clone(), letters.len());
        let put = tokio::task::spawn_blocking(move || folder.put(letters));
        put.await.unwrap_or_else(|lost| std::panic::resume_unwind(lost.into_panic()))?;
        self.book.dead_lettered(count);
        Ok(())
    }

    /// Takes no more from now on. Shipping ends when all that was taken is shipped, and what is
    /// on its way to the disk, too.
    pub fn close(&self) {
        self.book.close();
    }

    /// What there is to see now. No I/O.
    pub fn seen(&self) -> Seen {
        self.book.seen()
    }
}

/// Whether it would not fit into an empty spool, with what is written around it.
fn too_long(payload: &[u8], max_bytes: u64) -> bool {
    u64::try_from(payload.len()).unwrap_or(u64::MAX).saturating_add(256) > max_bytes
}

#[cfg(test)]
mod tests;
