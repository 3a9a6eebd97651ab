//! Amounts of bytes on the command line: `65536`, `64KiB`, `16MiB`, `1GiB`.

/// Parses a whole number of bytes, perhaps with a unit.
pub fn parse(text: &str) -> Result<u64, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let bytes: u64 = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => {
            return Err("write a whole number of bytes, or one with KiB, MiB, GiB or TiB, as in 16MiB".into());
        }
    };
    let number: u64 = number.parse().map_err(|_| "write a whole number, as in 16MiB".to_string())?;
    number.checked_mul(bytes).ok_or_else(|| "is too much".into())
}

/// For a person: `1.5 GiB`.
pub fn say(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let fits = (1..=units.len()).rev().find(|step| bytes >> (10 * step) > 0);
    let Some(step) = fits else { return format!("{bytes} B") };
    let tenths = (u128::from(bytes) * 10) >> (10 * step);
    format!("{}.{} {}", tenths / 10, tenths % 10, units[step - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_may_have_a_binary_unit() {
        let expected = [("0", 0), ("65536", 65_536), ("7B", 7), ("64KiB", 65_536), ("16MiB", 16 << 20)];
        for (text, bytes) in expected.into_iter().chain([("1GiB", 1 << 30), ("2TiB", 2 << 40)]) {
            assert_eq!(parse(text), Ok(bytes));
        }
        for wrong in ["", "KiB", "1kb", "1GB", "-1", "1.5MiB", " 1", "18446744073709551615KiB"] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn bytes_are_said_in_the_largest_unit_that_fits() {
        let said = [0, 1_023, 1_024, 1_600, 1 << 30, (3 << 40) - 1].map(say);
        assert_eq!(said, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1.0 GiB", "2.9 TiB"]);
    }
}
