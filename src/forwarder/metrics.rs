//! What is seen, for Prometheus. Series whose labels are known are there at 0 from the start.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::answers::Word;
use super::seen::Seen;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Coded {
    code: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

/// A snapshot in the OpenMetrics text format.
pub fn encode(seen: &Seen) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("rater");
    spool(&mut registry, seen);
    forwarded(&mut registry, seen);
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

fn gauge(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let gauge = Gauge::<i64>::default();
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    registry.register(name, help, gauge);
}

fn spool(registry: &mut Registry, seen: &Seen) {
    let depth = &seen.depth;
    gauge(registry, "spool_events", "Events that wait in the spool", depth.events);
    gauge(registry, "spool_bytes", "What they take on disk", depth.bytes);
    gauge(registry, "spool_max_bytes", "The limit of that", depth.max_bytes);
    gauge(registry, "spool_retained_bytes", "What is shipped and kept", depth.retained_bytes);
    let help = "For how long the oldest event waits; 0 where none does";
    let age: Gauge<f64, AtomicU64> = Gauge::default();
    age.set(seen.oldest_age().as_ref().map_or(0.0, Duration::as_secs_f64));
    registry.register("spool_oldest_event_age_seconds", help, age);
    gauge(
        registry,
        "spool_damaged_ranges",
        "Stretches that were set aside in damaged/",
        depth.damaged_ranges,
    );
    gauge(registry, "spool_missing_records", "Records that are known to be gone", depth.missing_records);
    gauge(registry, "dead_letters", "Dead letters that lie there", seen.dead_letters);
    let refused = Family::<Reason, Counter>::default();
    for word in Word::ALL {
        let reason = word.as_str();
        let count = seen.refused.get(reason).copied().unwrap_or_default();
        refused.get_or_create(&Reason { reason }).inc_by(count);
    }
    registry.register("spool_refused_events", "Events that were not taken, by what was answered", refused);
}

fn forwarded(registry: &mut Registry, seen: &Seen) {
    let spooled = Counter::<u64>::default();
    spooled.inc_by(seen.counts.spooled);
    registry.register("spooled_events", "Events taken into the spool", spooled);
    let forwarded = Family::<Outcome, Counter>::default();
    let counts = seen.counts;
    for (outcome, count) in
        [("stored", counts.stored), ("duplicate", counts.duplicates), ("dead_lettered", counts.dead_lettered)]
    {
        forwarded.get_or_create(&Outcome { outcome }).inc_by(count);
    }
    registry.register("forwarded_events", "Events shipped, by what became of them", forwarded);
    let retries = Family::<Coded, Counter>::default();
    drop(retries.get_or_create(&Coded { code: "UNAVAILABLE".into() }));
    for (code, count) in &seen.retries {
        retries.get_or_create(&Coded { code: (*code).into() }).inc_by(*count);
    }
    registry.register("forward_retries", "Calls that failed and were made again, by code", retries);
    let last_error = Family::<Coded, Gauge>::default();
    if let Some(error) = &seen.last_error {
        last_error.get_or_create(&Coded { code: error.code.clone() }).set(error.at.timestamp());
    }
    registry.register("forward_last_error_timestamp_seconds", "When what failed last did", last_error);
    let last_success = Gauge::<i64>::default();
    last_success.set(seen.last_shipped_at.map_or(0, |at| at.timestamp()));
    let help = "When the service last answered for a batch";
    registry.register("forward_last_success_timestamp_seconds", help, last_success);
}

#[cfg(test)]
mod tests {
    use chrono::Utc;

    use super::*;
    use crate::forwarder::seen::{Book, Saved};

    #[test]
    fn what_is_counted_has_the_names_that_are_promised() {
        let book = Book::new(None, Saved::default());
        book.spooled(9);
        book.shipped(5, 2);
        book.dead_lettered(1);
        book.failed("ABORTED", "later", true);
        book.refused(Word::SpoolFull.as_str(), 3);
        book.letters(4);
        let before = Utc::now().timestamp();
        let text = encode(&book.seen()).expect("memory");
        for line in [
            "rater_spool_events 0",
            "rater_spool_bytes 0",
            "rater_spool_max_bytes 0",
            "rater_spool_oldest_event_age_seconds 0.0",
            "rater_spool_damaged_ranges 0",
            r#"rater_forwarded_events_total{outcome="stored"} 5"#,
            r#"rater_forwarded_events_total{outcome="duplicate"} 2"#,
            r#"rater_forwarded_events_total{outcome="dead_lettered"} 1"#,
            r#"rater_forward_retries_total{code="ABORTED"} 1"#,
            r#"rater_forward_retries_total{code="UNAVAILABLE"} 0"#,
            r#"rater_spool_refused_events_total{reason="SPOOL_FULL"} 3"#,
            r#"rater_spool_refused_events_total{reason="NOT_AN_EVENT"} 0"#,
            "rater_dead_letters 4",
        ] {
            assert!(text.lines().any(|l| l == line), "no `{line}` in\n{text}");
        }
        let number = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).expect(name);
            line.trim().parse::<i64>().expect("a number")
        };
        assert!(number(r#"rater_forward_last_error_timestamp_seconds{code="ABORTED"}"#) >= before - 5);
        assert!(number("rater_forward_last_success_timestamp_seconds") >= before - 5);
    }
}
