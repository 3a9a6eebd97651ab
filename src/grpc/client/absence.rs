//! For how long a service that went away is asked again.

use std::time::{Duration, Instant};

use super::Failure;
use super::rating::PAUSE;

/// What a try that failed comes to.
pub(super) enum After {
    /// It is the first of an absence: someone wants to know.
    Tell(Failure),
    /// It was told before.
    TryAgain,
    /// Another try would be in vain, or comes too late.
    GiveUp(Failure),
}

/// The absences of a service, one at a time.
#[derive(Debug)]
pub(super) struct Absence {
    retry_for: Duration,
    /// Set while the service is away.
    give_up: Option<Instant>,
    /// Before the next try.
    pause: Duration,
}

impl Absence {
    /// For so long at a time.
    pub fn of(retry_for: Duration) -> Absence {
        Absence { retry_for, give_up: None, pause: Duration::ZERO }
    }

    /// The service is there.
    pub fn over(&mut self) {
        self.give_up = None;
    }

    /// Waits for the next try.
    pub async fn pause(&mut self) {
        tokio::time::sleep(std::mem::take(&mut self.pause)).await;
    }

    /// What a try that failed comes to.
    pub fn after(&mut self, failure: Failure) -> After {
        let now = Instant::now();
        let told = self.give_up.is_some();
        let give_up = *self.give_up.get_or_insert(now + self.retry_for);
        self.pause = failure.retry_after.unwrap_or(PAUSE);
        match failure.may_pass && now + self.pause <= give_up {
            true if told => After::TryAgain,
            true => After::Tell(failure),
            false => After::GiveUp(failure),
        }
    }
}
