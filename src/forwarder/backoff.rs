//! The pause before another try: twice as long each time, up to a limit, with jitter; or as long
//! as the service asks for, where that is longer.

use std::time::Duration;

use crate::grpc::client::events::jittered;

/// The longest that a service's word is taken for: a mistaken one must not stop shipping for days.
const LONGEST_ASKED: Duration = Duration::from_secs(300);

/// How long pauses are.
#[derive(Debug, Clone, Copy)]
pub struct Pauses {
    /// The first.
    pub first: Duration,
    /// The longest.
    pub longest: Duration,
}

impl Default for Pauses {
    fn default() -> Pauses {
        Pauses { first: Duration::from_millis(100), longest: Duration::from_secs(30) }
    }
}

/// Pauses between tries, since the last success.
#[derive(Debug)]
pub struct Backoff {
    pauses: Pauses,
    next: Duration,
}

impl Backoff {
    /// Nothing failed yet.
    pub fn new(pauses: Pauses) -> Backoff {
        Backoff { pauses, next: pauses.first }
    }

    /// It works again.
    pub fn over(&mut self) {
        self.next = self.pauses.first;
    }

    /// How long to wait now.
    pub fn next(&mut self, asked: Option<Duration>) -> Duration {
        let pause = jittered(self.next).max(asked.unwrap_or_default().min(LONGEST_ASKED));
        self.next = (self.next * 2).min(self.pauses.longest);
        pause
    }

    /// The shortest pause, for a try that is not the same again.
    pub fn short(&self) -> Duration {
        jittered(self.pauses.first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_anew_after_a_success() {
        let mut backoff = Backoff::new(Pauses::default());
        for expected in [100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 30_000, 30_000] {
            let pause = backoff.next(None).as_millis();
            assert!((expected / 2..=expected).contains(&pause), "{pause} of {expected}");
        }
        backoff.over();
        assert!(backoff.next(None) <= Duration::from_millis(100));
    }

    #[test]
    fn a_service_that_asks_for_more_gets_it_within_reason() {
        let mut backoff = Backoff::new(Pauses::default());
        assert_eq!(backoff.next(Some(Duration::from_secs(7))), Duration::from_secs(7));
        assert!(backoff.next(Some(Duration::ZERO)) >= Duration::from_millis(100));
        assert_eq!(backoff.next(Some(Duration::from_secs(1 << 40))), LONGEST_ASKED);
    }
}
