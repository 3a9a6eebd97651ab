//! A connection that shows a certificate is as good as that certificate was. Shortly before it
//! ends, and after the service knew nobody over it, the next call goes over a new connection, which
//! shows what is in the files by then. Calls under way stay where they are.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use chrono::Utc;
use tonic::transport::Channel;

/// A new connection is made so many seconds before the old one's certificate ends.
const AHEAD: i64 = 5;

/// When the certificate ends that was shown last, in Unix seconds; shared with the connector.
#[derive(Debug, Clone, Default)]
pub(super) struct Ends(Arc<AtomicI64>);

impl Ends {
    pub fn at(&self, seconds: i64) {
        self.0.store(seconds, Ordering::Relaxed);
    }
}

/// Where calls go, exchanged when it must be. Shared by all clones of a channel.
pub(super) struct Renewal {
    make: Box<dyn Fn() -> Channel + Send + Sync>,
    current: ArcSwap<Channel>,
    /// Counts the connections.
    generation: AtomicU64,
    ends: Ends,
    /// No more often than once a second, also when the files stay as they are.
    renewed: AtomicI64,
}

impl std::fmt::Debug for Renewal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Renewal").finish_non_exhaustive()
    }
}

impl Renewal {
    /// Begins with `first`; others come from `make`.
    pub fn new(first: Channel, ends: Ends, make: impl Fn() -> Channel + Send + Sync + 'static) -> Renewal {
        Renewal {
            make: Box::new(make),
            current: ArcSwap::from_pointee(first),
            generation: AtomicU64::new(0),
            ends,
            renewed: AtomicI64::new(0),
        }
    }

    /// The connection for the next call, where it is not the one of `generation`.
    pub fn newer_than(&self, generation: u64) -> Option<(u64, Channel)> {
        let ends = self.ends.0.load(Ordering::Relaxed);
        if ends != 0 && Utc::now().timestamp() >= ends.saturating_sub(AHEAD) {
            self.renew();
        }
        let now = self.generation.load(Ordering::Acquire);
        (now != generation).then(|| (now, Channel::clone(&self.current.load())))
    }

    /// The next call goes over a new connection.
    pub fn renew(&self) {
        let now = Utc::now().timestamp();
        if self.renewed.swap(now, Ordering::Relaxed) == now {
            return;
        }
        self.current.store(Arc::new((self.make)()));
        self.generation.fetch_add(1, Ordering::Release);
    }
}
