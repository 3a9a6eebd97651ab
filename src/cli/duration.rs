//! Lengths of time on the command line: `500ms`, `30s`, `5m`, `2h`, `90d`.

use std::time::Duration;

/// Parses a whole number with a unit. A number without one is refused: whether it means
/// seconds or milliseconds would be a guess.
pub fn parse(text: &str) -> Result<Duration, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err("write a whole number with ms, s, m, h or d, as in 30s".into()),
    };
    let number: u64 =
        number.parse().map_err(|_| "write a whole number before the unit, as in 30s".to_string())?;
    number.checked_mul(millis).map(Duration::from_millis).ok_or_else(|| "is too long".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_of_time_has_a_unit() {
        assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse("0s"), Ok(Duration::ZERO));
        assert_eq!(parse("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(parse("2h"), Ok(Duration::from_secs(7_200)));
        assert_eq!(parse("90d"), Ok(Duration::from_secs(7_776_000)));
        for wrong in [
            "",
            "s",
            "30",
            "-1s",
            "1.5s",
            " 1s",
            "1s ",
            "1w",
            "99999999999999999999s",
            "18446744073709551615h",
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
