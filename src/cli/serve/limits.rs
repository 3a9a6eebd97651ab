//! The options of `rater serve` that bound what it takes on, and how long it takes to stop.

use std::num::NonZeroU32;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::cli::duration;
use crate::grpc::limits::Limits;
use crate::grpc::listener::MAX_WAITING;

/// File descriptors for everything but clients' connections: the database, the log, the admin page.
const OTHER_FILES: u64 = 256;
/// And for connections that have not begun.
const BESIDES: u64 = MAX_WAITING as u64 + OTHER_FILES;

/// How much is taken on.
#[derive(Debug, Clone, clap::Args)]
pub struct LimitOptions {
    /// Connections of clients; one address has half of them at most
    #[arg(long, env = "RATER_MAX_CONNECTIONS", value_name = "COUNT", default_value_t = 2_000)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_connections: u32,
    /// How long a connection may take to shake hands and to begin
    #[arg(long, env = "RATER_FIRST_BYTE_TIMEOUT", value_name = "DURATION", default_value = "5s")]
    #[arg(value_parser = first_byte_timeout)]
    first_byte_timeout: Duration,
    /// When a connection is asked to make place for a new one, so that callers spread over new replicas
    #[arg(long, env = "RATER_MAX_CONNECTION_AGE", value_name = "DURATION", default_value = "30m")]
    #[arg(value_parser = at_least_a_second)]
    max_connection_age: Duration,
    /// Calls at once on one connection
    #[arg(long, env = "RATER_MAX_STREAMS", value_name = "COUNT", default_value_t = 200)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100_000))]
    max_streams: u32,
    /// Calls at once on all of them; more are told to come again
    #[arg(long, env = "RATER_MAX_CALLS", value_name = "COUNT", default_value_t = 2_000)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_calls: u32,
    /// Calls of one caller in a second; 0: as many as it likes
    #[arg(long, env = "RATER_MAX_CALLS_PER_SECOND", value_name = "COUNT", default_value_t = 1_000)]
    max_calls_per_second: u32,
    /// The longest that a call goes on, whatever its caller allows
    #[arg(long, env = "RATER_MAX_CALL_TIME", value_name = "DURATION", default_value = "1h")]
    #[arg(value_parser = at_least_a_second)]
    max_call_time: Duration,
    /// How long a stop waits for what is in flight; then it is hard
    #[arg(long, env = "RATER_SHUTDOWN_GRACE", value_name = "DURATION", default_value = "30s")]
    #[arg(value_parser = duration::parse)]
    pub(super) shutdown_grace: Duration,
}

impl LimitOptions {
    /// As many connections as there are file descriptors for: one too many would be missed by the
    /// database first.
    pub(super) fn limits(&self) -> Limits {
        let wanted = u64::from(self.max_connections);
        let files = files(wanted + BESIDES);
        let fitting = fitting(wanted, files);
        if fitting < wanted {
            tracing::warn!(
                wanted,
                fitting,
                files,
                "the process may have too few files open for --max-connections"
            );
        }
        Limits {
            max_connections: usize::try_from(fitting).unwrap_or(usize::MAX),
            first_byte_timeout: self.first_byte_timeout,
            max_connection_age: self.max_connection_age,
            max_streams: self.max_streams,
            max_calls: self.max_calls as usize,
            max_calls_per_second: NonZeroU32::new(self.max_calls_per_second),
            max_call_time: self.max_call_time,
        }
    }
}

/// How many connections there are files for.
fn fitting(wanted: u64, files: u64) -> u64 {
    files.saturating_sub(BESIDES).clamp(1, wanted)
}

/// How many files the process may have open, after asking for so many.
fn files(wanted: u64) -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let Some(now) = current else { return u64::MAX };
    if now >= wanted {
        return now;
    }
    let more = maximum.map_or(wanted, |maximum| maximum.min(wanted));
    match setrlimit(Resource::Nofile, Rlimit { current: Some(more), maximum }) {
        Ok(()) => more,
        Err(_) => now,
    }
}

/// A longer one would let silence hold what is bounded.
fn first_byte_timeout(text: &str) -> Result<Duration, String> {
    match duration::parse(text)? {
        timeout if timeout < Duration::from_millis(100) => Err("must be at least 100ms".into()),
        timeout if timeout > Duration::from_secs(60) => Err("must be at most 60s".into()),
        timeout => Ok(timeout),
    }
}

fn at_least_a_second(text: &str) -> Result<Duration, String> {
    match duration::parse(text)? {
        time if time < Duration::from_secs(1) => Err("must be at least 1s".into()),
        time if time > Duration::from_secs(365 * 24 * 3600) => Err("must be at most 365d".into()),
        time => Ok(time),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_limits_may_be_is_bounded_itself() {
        assert!(first_byte_timeout("5s").is_ok() && at_least_a_second("1h").is_ok());
        for wrong in ["0s", "61s", "5"] {
            assert!(first_byte_timeout(wrong).is_err(), "{wrong}");
        }
        for wrong in ["0s", "999ms", "366d"] {
            assert!(at_least_a_second(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn there_are_files_for_what_was_asked_for_or_it_is_known_how_many() {
        assert!(files(64) >= 64);
        assert!(files(u64::MAX / 2) >= 64);
        assert_eq!((fitting(2_000, 20_000), fitting(2_000, 1_024), fitting(2_000, 10)), (2_000, 256, 1));
    }
}
