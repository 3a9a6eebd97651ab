//! A decimal of the wire as the integer that binary formats hold.

/// More than 38 digits say.
const LIMIT: i128 = 10i128.pow(38);

/// How often 10^-scale it is; nothing where that is not exact, has more than 38 digits, or where
/// the text is no plain decimal.
pub fn unscaled(text: &str, scale: u32) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    if whole.is_empty() || fraction.is_empty() {
        return None;
    }
    let fraction = fraction.trim_end_matches('0');
    let missing = scale.checked_sub(u32::try_from(fraction.len()).ok()?)?;
    let mut value = 0i128;
    for digit in whole.bytes().chain(fraction.bytes()) {
        let digit = digit.is_ascii_digit().then(|| i128::from(digit - b'0'))?;
        value = value.checked_mul(10)?.checked_add(digit)?;
    }
    let value = value.checked_mul(10i128.checked_pow(missing)?).filter(|value| *value < LIMIT)?;
    Some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decimal_is_kept_exactly() {
        assert_eq!(unscaled("0", 12), Some(0));
        assert_eq!(unscaled("-0", 12), Some(0));
        assert_eq!(unscaled("12", 0), Some(12));
        assert_eq!(unscaled("0.0000003125", 12), Some(312_500));
        assert_eq!(unscaled("-12.5", 12), Some(-12_500_000_000_000));
        assert_eq!(unscaled("1.000000000000000", 12), Some(1_000_000_000_000));
        assert_eq!(
            unscaled("9999999999999999.999999999999", 12),
            Some(9_999_999_999_999_999_999_999_999_999)
        );
        let widest = "99999999999999999999999999.999999999999";
        assert_eq!(unscaled(widest, 12), Some(LIMIT - 1));
    }

    #[test]
    fn what_does_not_fit_is_refused_and_never_rounded() {
        for text in [
            "0.0000000000001",
            "100000000000000000000000000",
            &"9".repeat(1_000),
            "",
            "-",
            ".",
            ".5",
            "1.",
            "+1",
            "1e3",
            "1.2.3",
            "1,5",
            "--1",
            "٣",
        ] {
            assert_eq!(unscaled(text, 12), None, "{text}");
        }
    }
}
