//! A call's deadline, answered before it passes: the transport would answer CANCELLED, and the
//! details (which run goes on) would be lost. A call whose caller sets none has the service's.

use std::time::Duration;

use tokio::time::Instant;
use tonic::Status;
use tonic::codegen::http::{Extensions, HeaderMap};

use super::status::malformed_deadline;

/// When a call must be answered. The layers put it into the call's extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline(Instant);

impl Deadline {
    /// Of a call that came now: its caller's, a little before it passes, and at most `most` away.
    pub fn of(headers: &HeaderMap, most: Duration) -> Result<Deadline, Status> {
        let wanted = headers.get("grpc-timeout").map(|value| {
            let timeout = value.to_str().ok().and_then(parse);
            timeout.map(patience).ok_or_else(malformed_deadline)
        });
        let patience = wanted.transpose()?.map_or(most, |wanted| wanted.min(most));
        Ok(Deadline(Instant::now() + patience))
    }

    /// What the layers found, or else the caller's own where it is one.
    pub fn known(extensions: &Extensions, headers: &HeaderMap) -> Option<Deadline> {
        let found = extensions.get::<Deadline>().copied();
        let own = || headers.get("grpc-timeout")?.to_str().ok().and_then(parse);
        found.or_else(|| own().map(|timeout| Deadline(Instant::now() + patience(timeout))))
    }

    /// The moment.
    pub fn at(self) -> Instant {
        self.0
    }
}

/// How long to wait for a result: a little less than the caller does, so that the answer arrives,
/// and not nothing at all of a short timeout.
fn patience(timeout: Duration) -> Duration {
    let margin = (timeout / 10).clamp(Duration::from_millis(20), Duration::from_secs(1));
    timeout - margin.min(timeout / 2)
}

/// At most 8 digits and a unit, as the gRPC protocol says.
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(timeout: Option<&str>) -> Option<Duration> {
        let headers =
            timeout.map(|text| ("grpc-timeout".parse().expect("a name"), text.parse().expect("ascii")));
        let headers: HeaderMap = headers.into_iter().collect();
        let now = Instant::now();
        let deadline = Deadline::of(&headers, Duration::from_secs(3600)).ok()?;
        Some(Duration::from_millis(u64::try_from((deadline.at() - now).as_millis()).expect("hours")))
    }

    #[test]
    fn a_deadline_is_answered_a_little_before_it_passes() {
        for (timeout, waits_for) in [("100S", 99_000), ("1000m", 900), ("30m", 15), ("0n", 0)] {
            let waits = waits(Some(timeout)).expect("a timeout").as_millis();
            assert!((waits_for..waits_for + 5).contains(&waits), "{timeout}: {waits} ms");
        }
    }

    #[test]
    fn no_call_goes_on_for_longer_than_the_service_lets_it() {
        for timeout in [None, Some("2H"), Some("99999999H")] {
            assert_eq!(waits(timeout).map(|waits| waits.as_secs()), Some(3600), "{timeout:?}");
        }
    }

    #[test]
    fn a_deadline_that_is_none_is_refused() {
        for malformed in ["", "S", "1", "-1S", "1.5S", "123456789S", "1s", "soon"] {
            assert_eq!(waits(Some(malformed)), None, "{malformed}");
        }
        assert_eq!(parse("é"), None);
    }
}
