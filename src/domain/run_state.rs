//! How a run stands, and how far it is.

use chrono::{DateTime, TimeDelta, Utc};

/// How a run stands. The last three are ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RunState {
    /// It waits for a process: the one that ran it is gone.
    Pending,
    /// A process runs it, or was a moment ago.
    Running,
    /// Asked to stop; the chunk in flight goes on.
    Cancelling,
    /// All of its hours are rated.
    Succeeded,
    /// It could not go on.
    Failed,
    /// Stopped because someone asked.
    Cancelled,
}

impl RunState {
    /// Every state, with its name in the record.
    const NAMES: [(RunState, &'static str); 6] = [
        (RunState::Pending, "pending"),
        (RunState::Running, "running"),
        (RunState::Cancelling, "cancelling"),
        (RunState::Succeeded, "succeeded"),
        (RunState::Failed, "failed"),
        (RunState::Cancelled, "cancelled"),
    ];

    /// As it is stored and logged.
    pub fn as_str(self) -> &'static str {
        Self::NAMES.iter().find(|(state, _)| *state == self).map_or("failed", |(_, name)| name)
    }

    /// From the record, whose CHECK knows the same names.
    pub fn parse(name: &str) -> RunState {
        Self::NAMES.iter().find(|(_, n)| *n == name).map_or(RunState::Failed, |(state, _)| *state)
    }

    /// Whether it has ended.
    pub fn is_finished(self) -> bool {
        matches!(self, RunState::Succeeded | RunState::Failed | RunState::Cancelled)
    }
}

/// How far a run is. From committed chunks alone, so that it never goes backwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Hours of the window.
    pub hours_total: i64,
    /// Hours committed.
    pub hours_done: i64,
    /// Events in them.
    pub events_done: i64,
    /// Hours committed since the process that runs it began with it.
    pub hours_since: i64,
    /// Events in those.
    pub events_since: i64,
    /// When that was.
    pub since: Option<DateTime<Utc>>,
    /// The last commit; `None` before the first.
    pub updated_at: Option<DateTime<Utc>>,
}

impl Progress {
    /// How long the process that runs it has needed for what it has done.
    fn needed(&self) -> Option<TimeDelta> {
        let needed = self.updated_at? - self.since?;
        (needed > TimeDelta::zero() && self.hours_since > 0).then_some(needed)
    }

    /// Events a second, rounded down; 0 until it is known.
    pub fn events_per_second(&self) -> i64 {
        let Some(needed) = self.needed() else { return 0 };
        let milliseconds = i128::from(needed.num_milliseconds().max(1));
        i64::try_from(i128::from(self.events_since) * 1000 / milliseconds).unwrap_or(i64::MAX)
    }

    /// How long the rest takes if its hours are like those that are done; `None` until that can
    /// be told.
    pub fn eta(&self) -> Option<TimeDelta> {
        let left = i128::from(self.hours_total - self.hours_done);
        let milliseconds =
            i128::from(self.needed()?.num_milliseconds()) * left / i128::from(self.hours_since);
        TimeDelta::try_milliseconds(i64::try_from(milliseconds).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_the_record_is_read_as_it_was_written() {
        for (state, name) in RunState::NAMES {
            assert_eq!((RunState::parse(name), state.as_str()), (state, name));
        }
    }

    #[test]
    fn rate_and_eta_follow_from_what_this_process_has_done() {
        let since: DateTime<Utc> = "2026-06-01T00:00:00Z".parse().expect("a time");
        let progress = Progress {
            hours_total: 100,
            hours_done: 40,
            events_done: 9_000,
            hours_since: 20,
            events_since: 5_000,
            since: Some(since),
            updated_at: Some(since + TimeDelta::seconds(10)),
        };
        assert_eq!(progress.events_per_second(), 500);
        assert_eq!(progress.eta(), Some(TimeDelta::seconds(30)));
        let fresh = Progress { hours_since: 0, ..progress };
        assert_eq!((fresh.events_per_second(), fresh.eta()), (0, None));
        let finished = Progress { hours_done: 100, ..progress };
        assert_eq!(finished.eta(), Some(TimeDelta::zero()));
    }
}
