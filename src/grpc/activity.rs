//! What a connection is used for, which says when it may be closed: whether a call on it was allowed,
//! what goes on, when anything moved last, and how many of its calls were given up.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// Calls that a peer may give up before their answer: so many at once, and so many a second; more
/// where it takes the answers of as many.
const RESETS: u32 = 500;
const RESETS_A_SECOND: u32 = 50;

/// How long a connection may go without a call that is allowed, and without any after that, before
/// it makes place where there is none.
const PROVES_WITHIN: Duration = Duration::from_secs(30);
const IDLE_FOR: Duration = Duration::from_secs(300);

/// Watches of the health on one connection: one for each name that can be asked for, and again.
const WATCHES: usize = 8;

/// A connection's use.
#[derive(Debug)]
pub(super) struct Activity {
    /// Closes it at once.
    pub(super) cut: CancellationToken,
    used: Mutex<Used>,
}

#[derive(Debug)]
struct Used {
    began: Instant,
    moved: Instant,
    /// A call was allowed.
    proven: bool,
    /// Calls that go on, to the end of their answers, and those that are not answered yet.
    calls: usize,
    unanswered: usize,
    watches: usize,
    resets: Resets,
}

/// The last calls that were given up, and that were answered.
#[derive(Debug, Default)]
struct Resets {
    given_up: u32,
    answered: u32,
    since: Option<Instant>,
}

impl Activity {
    pub(super) fn new() -> Activity {
        let now = Instant::now();
        let used = Used {
            began: now,
            moved: now,
            proven: false,
            calls: 0,
            unanswered: 0,
            watches: 0,
            resets: Resets::default(),
        };
        Activity { cut: CancellationToken::new(), used: Mutex::new(used) }
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An allowed call begins.
    pub(super) fn call(self: &Arc<Activity>) -> Going {
        let mut used = self.used();
        (used.proven, used.moved) = (true, Instant::now());
        used.calls += 1;
        used.unanswered += 1;
        Going { activity: self.clone(), answered: false }
    }

    /// A watch begins; none where there are too many.
    pub(super) fn watch(self: &Arc<Activity>) -> Option<Watch> {
        let mut used = self.used();
        used.watches = Some(used.watches + 1).filter(|watches| *watches <= WATCHES)?;
        Some(Watch(self.clone()))
    }

    /// Its peer takes what it is sent.
    pub(super) fn moves(&self) {
        self.used().moved = Instant::now();
    }

    /// A call was answered.
    pub(super) fn answered(&self) {
        let resets = &mut self.used().resets;
        resets.answered = (resets.answered + 1).min(2 * RESETS);
    }

    /// A call was given up before its answer, or had no right to one.
    pub(super) fn given_up(&self) {
        if self.used().resets.another(Instant::now()) {
            self.cut.cancel();
        }
    }

    /// No allowed call was ever made on it.
    pub(super) fn is_unproven(&self) -> bool {
        !self.used().proven
    }

    /// Nobody would miss it.
    pub(super) fn is_stale(&self, now: Instant) -> bool {
        let used = self.used();
        match used.proven {
            false => now.saturating_duration_since(used.began) > PROVES_WITHIN,
            true => used.calls == 0 && now.saturating_duration_since(used.moved) > IDLE_FOR,
        }
    }

    /// All is answered, and nothing of it was taken for so long.
    pub(super) fn is_quiet(&self, now: Instant, long: Duration) -> bool {
        let used = self.used();
        used.unanswered == 0 && now.saturating_duration_since(used.moved) > long
    }
}

impl Resets {
    /// Another one: whether that is too many.
    fn another(&mut self, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        let passed = u32::try_from(now.saturating_duration_since(since).as_secs()).unwrap_or(u32::MAX);
        if passed > 0 {
            self.given_up = self.given_up.saturating_sub(passed.saturating_mul(RESETS_A_SECOND));
            self.since = Some(now);
        }
        self.given_up += 1;
        if self.given_up <= RESETS {
            return false;
        }
        let too_many = self.given_up >= self.answered;
        (self.given_up, self.answered) = (self.given_up / 2, self.answered / 2);
        too_many
    }
}

/// An allowed call, until it is dropped.
#[derive(Debug)]
pub(super) struct Going {
    activity: Arc<Activity>,
    answered: bool,
}

impl Going {
    /// What is left is to be taken.
    pub(super) fn answered(mut self) -> Going {
        self.answered = true;
        let mut used = self.activity.used();
        used.unanswered = used.unanswered.saturating_sub(1);
        used.moved = Instant::now();
        drop(used);
        self
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        let mut used = self.activity.used();
        used.calls = used.calls.saturating_sub(1);
        if !self.answered {
            used.unanswered = used.unanswered.saturating_sub(1);
        }
        used.moved = Instant::now();
    }
}

/// A watch, until it is dropped.
#[derive(Debug)]
pub(super) struct Watch(Arc<Activity>);

impl Drop for Watch {
    fn drop(&mut self) {
        let mut used = self.0.used();
        used.watches = used.watches.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_resets_without_end_is_shut_out_and_one_that_gives_up_a_page_of_calls_is_not() {
        let (mut resets, now) = (Resets::default(), Instant::now());
        assert!((0..RESETS).all(|_| !resets.another(now)));
        // A minute later all is forgiven.
        let later = now + Duration::from_secs(60);
        assert!((0..RESETS).all(|_| !resets.another(later)));
        assert!(resets.another(later));
    }

    #[test]
    fn whoever_takes_most_answers_may_give_up_the_rest() {
        let activity = Activity::new();
        for _ in 0..20 * RESETS {
            activity.answered();
            activity.answered();
            activity.given_up();
        }
        assert!(!activity.cut.is_cancelled());
        for _ in 0..3 * RESETS {
            activity.given_up();
        }
        assert!(activity.cut.is_cancelled());
    }

    #[test]
    fn a_connection_is_stale_without_an_allowed_call_or_after_minutes_of_none() {
        let activity = Arc::new(Activity::new());
        let after = |wait| Instant::now() + wait + Duration::from_secs(1);
        assert!(!activity.is_stale(Instant::now()) && activity.is_stale(after(PROVES_WITHIN)));
        let call = activity.call();
        assert!(!activity.is_unproven() && !activity.is_stale(after(IDLE_FOR)));
        assert!(!activity.is_quiet(after(IDLE_FOR), PROVES_WITHIN), "it is not answered");
        let call = call.answered();
        assert!(activity.is_quiet(after(IDLE_FOR), PROVES_WITHIN), "its answer is not taken");
        assert!(!activity.is_stale(after(IDLE_FOR)));
        drop(call);
        assert!(!activity.is_stale(after(PROVES_WITHIN)) && activity.is_stale(after(IDLE_FOR)));
    }

    #[test]
    fn a_connection_has_so_many_watches_and_gets_them_back() {
        let activity = Arc::new(Activity::new());
        let mut watches: Vec<_> = std::iter::from_fn(|| activity.watch()).collect();
        assert_eq!(watches.len(), WATCHES);
        watches.pop();
        assert!(activity.watch().is_some());
    }
}
