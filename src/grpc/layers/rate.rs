//! How often one caller may call: a bucket of a second's calls for each, by its authenticated name,
//! or by its address where it has none. Who has not called for a second takes no memory.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use crate::grpc::who::Who;
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

/// So many buckets are kept without a look at which of them are full again.
const MANY: usize = 10_000;

/// The buckets. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Rates {
    limiter: Option<Arc<DefaultKeyedRateLimiter<Who>>>,
    clock: DefaultClock,
}

impl Rates {
    /// So many calls a second; `None`: as many as callers like.
    pub(super) fn of(a_second: Option<NonZeroU32>) -> Rates {
        let limiter = a_second.map(|calls| Arc::new(RateLimiter::keyed(Quota::per_second(calls))));
        Rates { limiter, clock: DefaultClock::default() }
    }

    /// So many calls a second, and more at once.
    pub(super) fn bursting(a_second: NonZeroU32, at_once: NonZeroU32) -> Rates {
        let quota = Quota::per_second(a_second).allow_burst(at_once);
        Rates { limiter: Some(Arc::new(RateLimiter::keyed(quota))), clock: DefaultClock::default() }
    }

    /// Counts a call. An error: how long until its caller's next one would pass.
    pub(super) fn check(&self, who: Who) -> Result<(), Duration> {
        let Some(limiter) = &self.limiter else { return Ok(()) };
        if limiter.len() > MANY {
            limiter.retain_recent();
            limiter.shrink_to_fit();
        }
        // More of them within a second than there can be callers of ours share one bucket.
        let who = if limiter.len() > MANY { Who::Crowd } else { who };
        limiter.check_key(&who).map_err(|until| until.wait_time_from(self.clock.now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn called_by(name: &str) -> Who {
        Who::Name(name.into())
    }

    #[test]
    fn each_caller_has_its_own_rate_and_is_told_when_to_come_again() {
        let rates = Rates::of(NonZeroU32::new(2));
        let (busy, quiet) = (called_by("busy"), called_by("quiet"));
        assert_eq!((rates.check(busy.clone()), rates.check(busy.clone())), (Ok(()), Ok(())));
        let wait = rates.check(busy.clone()).expect_err("the third");
        assert!(wait > Duration::from_millis(300) && wait <= Duration::from_millis(500), "{wait:?}");
        assert_eq!(rates.check(quiet), Ok(()));
        assert_eq!(Rates::of(None).check(busy), Ok(()));
    }

    #[test]
    fn callers_that_are_gone_take_no_memory() {
        let rates = Rates::of(NonZeroU32::new(1_000_000));
        for n in 0..3 * MANY {
            rates.check(called_by(&n.to_string())).expect("no rate to speak of");
        }
        let kept = rates.limiter.as_ref().expect("limited").len();
        assert!(kept <= MANY + 1, "{kept}");
    }
}
