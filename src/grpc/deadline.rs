//! A caller's deadline, answered before it passes: the transport would answer CANCELLED, and
//! the details (which run goes on) would be lost.

use std::time::Duration;

use tonic::metadata::MetadataMap;

/// How long to wait for the result of a call, if its caller set a deadline: a little less than
/// the caller does, so that the answer arrives. A malformed header counts as none.
pub fn patience(metadata: &MetadataMap) -> Option<Duration> {
    let timeout = parse(metadata.get("grpc-timeout")?.to_str().ok()?)?;
    let margin = (timeout / 10).clamp(Duration::from_millis(20), Duration::from_secs(1));
    Some(timeout.saturating_sub(margin))
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

    #[test]
    fn a_deadline_is_answered_a_little_before_it_passes() {
        let waits = |text: &str| {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", text.parse().expect("ascii"));
            patience(&metadata)
        };
        assert_eq!(waits("100S"), Some(Duration::from_secs(99)));
        assert_eq!(waits("1000m"), Some(Duration::from_millis(900)));
        assert_eq!(waits("10m"), Some(Duration::ZERO));
        for malformed in ["", "S", "1", "-1S", "1.5S", "123456789S", "1s", "é"] {
            assert_eq!(parse(malformed), None, "{malformed}");
        }
        assert_eq!(patience(&MetadataMap::new()), None);
    }
}
