//! The contract's values as tables and CSV say them.

use prost_types::{Duration, Timestamp};

/// An enum's value without its prefix: `RUN_STATE_RUNNING` as `running`. Nothing for one that is
/// not set.
pub fn word(name: &str, prefix: &str) -> String {
    match name.strip_prefix(prefix).unwrap_or(name) {
        "UNSPECIFIED" => String::new(),
        word => word.to_lowercase(),
    }
}

/// RFC 3339, or nothing.
pub fn time(time: Option<Timestamp>) -> String {
    time.map(|time| time.to_string()).unwrap_or_default()
}

/// To the second, in two units at most: `2h 5m`, `3m 20s`, `40s`.
pub fn span(length: Duration) -> String {
    let seconds = length.seconds.max(0);
    let (hours, minutes) = (seconds / 3_600, seconds / 60 % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m {}s", seconds % 60),
        _ => format!("{hours}h {minutes}m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_loses_its_prefix_and_an_unset_one_is_nothing() {
        assert_eq!(word("RUN_STATE_RUNNING", "RUN_STATE_"), "running");
        assert_eq!(word("TRIGGER_UNSPECIFIED", "TRIGGER_"), "");
        assert_eq!(time(None), "");
        assert_eq!(time(Some(Timestamp::default())), "1970-01-01T00:00:00Z");
    }

    #[test]
    fn a_length_of_time_has_two_units_at_most() {
        let of = |seconds| span(Duration { seconds, nanos: 999_999_999 });
        assert_eq!((of(0), of(59), of(60)), ("0s".into(), "59s".into(), "1m 0s".into()));
        assert_eq!((of(3_599), of(7_500)), ("59m 59s".into(), "2h 5m".into()));
        assert_eq!(of(-5), "0s");
    }
}
