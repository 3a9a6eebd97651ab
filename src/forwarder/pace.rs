//! So many events a second, and no more.

use std::time::{Duration, Instant};

/// The most events in one call, whatever the rate.
const MOST: u32 = 1_000;

/// Keeps to a rate. What was not used is not made up for later.
#[derive(Debug)]
pub struct Pace {
    rate: u32,
    next: Instant,
}

impl Pace {
    /// At most so many events a second, from now on.
    pub fn of(rate: u32) -> Pace {
        Pace { rate: rate.max(1), next: Instant::now() }
    }

    /// The most events in one call: a tenth of a second's, so that they come evenly.
    pub fn batch(&self) -> usize {
        usize::try_from((self.rate / 10).clamp(1, MOST)).unwrap_or(1)
    }

    /// When the next events may be sent.
    pub fn next(&self) -> Instant {
        self.next.max(Instant::now())
    }

    /// So many were sent, or will be at once.
    pub fn spend(&mut self, events: usize) {
        let nanos = (events as u64).saturating_mul(1_000_000_000).div_ceil(self.rate.into());
        self.next = self.next() + Duration::from_nanos(nanos);
    }

    /// When so many events may be sent, which they are then.
    pub fn due(&mut self, events: usize) -> Instant {
        let due = self.next();
        self.spend(events);
        due
    }
}
