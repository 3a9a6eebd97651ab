//! Times on the command line, RFC 3339.

use chrono::{DateTime, Utc};

/// A time with its offset, in UTC.
pub fn parse(text: &str) -> Result<DateTime<Utc>, String> {
    DateTime::parse_from_rfc3339(text)
        .map(|time| time.to_utc())
        .map_err(|_| "is not a time; write one such as 2026-06-01T14:00:00Z".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_an_offset_and_is_taken_in_utc() {
        let expected: DateTime<Utc> = "2026-06-01T14:00:00Z".parse().expect("a time");
        assert_eq!(parse("2026-06-01T14:00:00Z"), Ok(expected));
        assert_eq!(parse("2026-06-01T19:30:00+05:30"), Ok(expected));
        for wrong in ["", "yesterday", "2026-06-01", "2026-06-01T14:00:00", "14:00"] {
            assert!(parse(wrong).expect_err(wrong).contains("2026-06-01T14:00:00Z"));
        }
    }
}
