//! What the service counts, for Prometheus. Names begin with `rater_`, units are in them.
//!
//! Labels are words of the program (`&'static str`), so that no request and no pricebook can
//! make series without end; the one exception is the digest of the loaded pricebook, of which
//! there is one at a time. Series whose labels are known are there at 0 from the start:
//! `increase()` does not see a series that begins with its first count.
//!
//! Nothing here decides what is loud; that comes in with the arguments (R9).
//!
//! A file a concern: each has its own series, brings them to life in `registered`, and adds to
//! [`Metrics`] the methods that count them.

use std::fmt;

use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;

mod calls;
mod credentials;
mod events;
mod jobs;
mod limits;
mod pricebook;
mod records;
mod runs;

pub use calls::EndedCall;
pub use jobs::JobGauges;
pub use runs::RunEvents;

/// The media type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Everything that is counted. Share it in an `Arc`.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    credentials: credentials::Credentials,
    calls: calls::Calls,
    runs: runs::Runs,
    events: events::Events,
    jobs: jobs::Jobs,
    pricebook: pricebook::Pricebook,
    records: records::Records,
    limits: limits::Limits,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl Metrics {
    /// All of them, at 0.
    pub fn new() -> Metrics {
        let mut registry = Registry::with_prefix("rater");
        Metrics {
            credentials: credentials::Credentials::registered(&mut registry),
            calls: calls::Calls::registered(&mut registry),
            runs: runs::Runs::registered(&mut registry),
            events: events::Events::registered(&mut registry),
            jobs: jobs::Jobs::registered(&mut registry),
            pricebook: pricebook::Pricebook::registered(&mut registry),
            records: records::Records::registered(&mut registry),
            limits: limits::Limits::registered(&mut registry),
            registry,
        }
    }

    /// Everything in the OpenMetrics text format ([`CONTENT_TYPE`]).
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let _still = self.pricebook.still();
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// A counter only grows.
fn counted(count: i64) -> u64 {
    debug_assert!(count >= 0, "a count of {count}");
    u64::try_from(count).unwrap_or(0)
}

/// Fails unless `line` is what `/metrics` says.
#[cfg(test)]
#[track_caller]
fn has(metrics: &Metrics, line: &str) {
    let text = metrics.encode().expect("memory");
    assert!(text.lines().any(|l| l == line), "no `{line}` in\n{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_series_are_there_before_their_first_count() {
        let metrics = Metrics::new();
        has(&metrics, r#"rater_runs_total{trigger="routine",state="failed"} 0"#);
        has(&metrics, r#"rater_run_duration_seconds_count{trigger="backfill",state="succeeded"} 0"#);
        has(&metrics, r#"rater_run_events_total{outcome="unpriced",trigger="routine"} 0"#);
        has(&metrics, r#"rater_recorded_events_total{outcome="rejected"} 0"#);
        has(&metrics, "rater_lease_conflicts_total 0");
        has(&metrics, "rater_pricebook_refused 0");
        assert!(metrics.encode().expect("memory").ends_with("# EOF\n"));
    }
}
