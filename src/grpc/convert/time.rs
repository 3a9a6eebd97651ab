//! Times, exact to the nanosecond.

use chrono::{DateTime, Datelike, TimeDelta, Utc};
use prost_types::{Duration, Timestamp};

/// A time for the wire.
pub fn to_proto(time: DateTime<Utc>) -> Timestamp {
    // A leap second, which chrono counts as nanoseconds past the last of its minute, is the
    // second before it again: the wire has none.
    let nanos = time.timestamp_subsec_nanos() % 1_000_000_000;
    Timestamp { seconds: time.timestamp(), nanos: nanos.cast_signed() }
}

/// A length of time for the wire.
pub fn duration(length: TimeDelta) -> Duration {
    Duration { seconds: length.num_seconds(), nanos: length.subsec_nanos() }
}

/// A time from the wire. None of a year outside 0001 to 9999, which the contract's timestamp
/// does not have, nor with nanoseconds that are not.
pub fn from_proto(time: Timestamp) -> Option<DateTime<Utc>> {
    let nanos = u32::try_from(time.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    DateTime::from_timestamp(time.seconds, nanos).filter(|time| (1..=9999).contains(&time.year()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FIRST: i64 = -62_135_596_800; // 0001-01-01T00:00:00Z
    const LAST: i64 = 253_402_300_799; // 9999-12-31T23:59:59Z

    proptest! {
        #[test]
        fn a_time_crosses_the_wire_unchanged(seconds in FIRST..=LAST, nanos in 0..1_000_000_000i32) {
            let sent = Timestamp { seconds, nanos };
            let time = from_proto(sent).expect("in range");
            prop_assert_eq!(time.timestamp(), seconds);
            prop_assert_eq!(to_proto(time), sent);
        }
    }

    #[test]
    fn a_length_of_time_keeps_its_sign_in_both_parts() {
        let sent = |milliseconds| {
            let Duration { seconds, nanos } = duration(TimeDelta::milliseconds(milliseconds));
            (seconds, nanos)
        };
        assert_eq!(sent(90_500), (90, 500_000_000));
        assert_eq!(sent(-1_500), (-1, -500_000_000));
    }

    #[test]
    fn the_years_are_0001_to_9999() {
        let at = |seconds, nanos| from_proto(Timestamp { seconds, nanos });
        assert!(at(FIRST, 0).is_some() && at(LAST, 999_999_999).is_some());
        assert_eq!(at(FIRST - 1, 999_999_999), None);
        assert_eq!(at(LAST + 1, 0), None);
        assert_eq!((at(i64::MIN, 0), at(i64::MAX, 0)), (None, None));
    }

    #[test]
    fn nanoseconds_that_are_none_are_refused() {
        // In the last second of a minute chrono would take them for a leap second.
        let at = |nanos| from_proto(Timestamp { seconds: 59, nanos });
        assert_eq!((at(-1), at(1_000_000_000), at(i32::MIN)), (None, None, None));
    }

    #[test]
    fn a_leap_second_is_a_time_that_the_wire_takes() {
        let leap = DateTime::from_timestamp(1_483_228_799, 1_500_000_000).expect("a leap second");
        let sent = to_proto(leap);
        assert_eq!((sent.seconds, sent.nanos), (1_483_228_799, 500_000_000));
        assert!(from_proto(sent).is_some());
    }
}
