//! Rates and factors: from text to exact decimals (R1), and the checks that every rate passes
//! before it may price anything: plain, quoted, in bounds, and not zero by accident (R11).

use super::fields::Check;
use crate::domain::money::{MoneyError, Rate};
use crate::domain::yaml::Kind;
use crate::domain::yaml::diagnostic::{Path, Shown};
use crate::domain::yaml::fields::Slot;

/// The codes and the noun for one kind of number.
struct Words {
    noun: &'static str,
    unquoted: &'static str,
    not_decimal: &'static str,
    negative: &'static str,
    too_precise: &'static str,
    too_large: &'static str,
}

const RATE: Words = Words {
    noun: "rate",
    unquoted: "unquoted_rate",
    not_decimal: "rate_not_decimal",
    negative: "negative_rate",
    too_precise: "rate_too_precise",
    too_large: "rate_too_large",
};

const FACTOR: Words = Words {
    noun: "factor",
    unquoted: "unquoted_factor",
    not_decimal: "factor_not_decimal",
    negative: "negative_factor",
    too_precise: "factor_too_precise",
    too_large: "factor_too_large",
};

/// What a rate looks like, where nothing better can be suggested.
const EXAMPLE: &str = "0.0000002";

/// Why a final rate can't be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flaw {
    /// It rounds to zero though what it was made from is not zero (R11).
    Zero,
    /// 1,000 or more a token, unrounded or rounded.
    TooLarge,
    /// Its exact value has more digits than can be kept.
    TooPrecise,
}

impl From<MoneyError> for Flaw {
    fn from(error: MoneyError) -> Flaw {
        match error {
            MoneyError::Overflow => Flaw::TooLarge,
            MoneyError::TooPrecise | MoneyError::NotPlain => Flaw::TooPrecise,
        }
    }
}

/// Checks an exact per-token rate as it will be billed, rounded to `scale`. `free` says that
/// everything it was made from is zero, so that zero is what the operator asked for.
pub(super) fn billable(exact: Rate, free: bool, scale: u32) -> Result<Rate, Flaw> {
    let rounded = exact.rounded(scale);
    if exact >= Rate::LIMIT || rounded >= Rate::LIMIT {
        return Err(Flaw::TooLarge);
    }
    if rounded.is_zero() && !free {
        return Err(Flaw::Zero);
    }
    Ok(rounded)
}

impl Check<'_> {
    /// A rate as it is billed when nothing is added to it: exact, per token and unrounded,
    /// with its rounding checked.
    pub fn final_rate(&mut self, slot: Slot<'_>, path: &Path<'_>) -> Option<Rate> {
        let exact = self.rate(slot, path)?;
        let (Some(scale), Some(_)) = (self.rate_scale, self.per) else { return Some(exact) };
        let at = slot.node.place;
        match billable(exact, exact.is_zero(), scale) {
            Ok(rounded) if rounded == exact => {}
            Ok(rounded) => {
                let message = format_args!(
                    "the rate {exact} per token is finer than rate_scale {scale} and will be billed as {rounded}"
                );
                self.report.warning("rate_will_be_rounded", at, path, message);
            }
            Err(Flaw::Zero) => {
                let message = format_args!(
                    "the rate {exact} per token rounds to zero at rate_scale {scale}; raise rate_scale, or write \"0\" if it is meant to be free"
                );
                self.report.error("rate_rounds_to_zero", at, path, message);
            }
            Err(Flaw::TooLarge | Flaw::TooPrecise) => {
                let message = format_args!("the rate rounds to 1000 or more a token");
                self.report.error(RATE.too_large, at, path, message);
            }
        }
        Some(exact)
    }

    /// A rate, exact, per token and unrounded.
    pub fn rate(&mut self, slot: Slot<'_>, path: &Path<'_>) -> Option<Rate> {
        let written = self.decimal(slot, path, &RATE)?;
        let Some(per) = self.per else { return Some(written) };
        let at = slot.node.place;
        match written.per(per) {
            Ok(rate) if rate >= Rate::LIMIT => {
                let message = format_args!(
                    "the rate is {rate} per token; it must be below {}. Is `per` missing?",
                    Rate::LIMIT
                );
                self.report.error(RATE.too_large, at, path, message);
                None
            }
            Ok(rate) => Some(rate),
            Err(_) => {
                let message = format_args!(
                    "the rate {written} per {per} tokens has more digits than can be kept exactly (28)"
                );
                self.report.error(RATE.too_precise, at, path, message);
                None
            }
        }
    }

    /// The multiplier's factor.
    pub fn factor(&mut self, slot: Slot<'_>, path: &Path<'_>) -> Option<Rate> {
        self.decimal(slot, path, &FACTOR)
    }

    fn decimal(&mut self, slot: Slot<'_>, path: &Path<'_>, words: &Words) -> Option<Rate> {
        let (node, noun) = (slot.node, words.noun);
        let Kind::Scalar { text, plain } = &node.kind else {
            self.report.bad_type(node, path, "a quoted decimal, such as \"0.0000002\"");
            return None;
        };
        if node.is_null() {
            self.report.bad_type(node, path, "a quoted decimal, such as \"0.0000002\"");
            return None;
        }
        if *plain && looks_like_a_number(text) {
            let instead = spelled_out(text).unwrap_or_else(|| EXAMPLE.to_owned());
            let message = format_args!(
                "the {noun} is not quoted, so other tools read it as a float; write \"{instead}\""
            );
            self.report.error(words.unquoted, node.place, path, message);
            return None;
        }
        let (code, why) = match Rate::parse(text) {
            Ok(value) if !plain => return Some(value),
            Err(MoneyError::TooPrecise) => {
                (words.too_precise, "has more digits than can be kept exactly (28)")
            }
            Err(MoneyError::Overflow) => (words.too_large, "is far too large"),
            _ => match text.strip_prefix('-') {
                Some(rest) if Rate::parse(rest) != Err(MoneyError::NotPlain) => {
                    (words.negative, "is negative")
                }
                _ => (words.not_decimal, "is not a plain decimal"),
            },
        };
        let instead = spelled_out(text).unwrap_or_else(|| EXAMPLE.to_owned());
        let message = format_args!("the {noun} {} {why}; write one such as \"{instead}\"", Shown(text));
        self.report.error(code, node.place, path, message);
        None
    }
}

fn looks_like_a_number(plain: &str) -> bool {
    let digits = plain.trim_start_matches(['+', '-']).trim_start_matches('.');
    digits.starts_with(|c: char| c.is_ascii_digit())
}

/// The plain decimal that a number in exponent notation means: `3.125e-07` is 0.0000003125.
/// Only a suggestion; none for what is no number, is negative, or is absurdly small or large.
fn spelled_out(text: &str) -> Option<String> {
    let text = text.strip_prefix('+').unwrap_or(text);
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let point = i32::try_from(whole.len()).ok()?.checked_add(exponent)?;
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if !plain || digits.len() > 40 || !(-40..=40).contains(&point) {
        return None;
    }
    let zeros = |n: i32| "0".repeat(n.max(0).unsigned_abs() as usize);
    let length = i32::try_from(digits.len()).ok()?;
    let padded = format!("{}{digits}{}", zeros(1 - point), zeros(point - length));
    let (whole, fraction) = padded.split_at(point.max(1).unsigned_abs() as usize);
    let whole = whole.trim_start_matches('0');
    let fraction = fraction.trim_end_matches('0');
    let whole = if whole.is_empty() { "0" } else { whole };
    Some(if fraction.is_empty() { whole.to_owned() } else { format!("{whole}.{fraction}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponents_are_spelled_out_for_the_suggestion() {
        let cases = [
            ("3.125e-07", Some("0.0000003125")),
            ("1E-6", Some("0.000001")),
            ("1e3", Some("1000")),
            ("12.50", Some("12.5")),
            (".5", Some("0.5")),
            ("+1.", Some("1")),
            ("0", Some("0")),
            ("00.10", Some("0.1")),
            ("1e999999999999", None),
            ("1e-2000000000", None),
            ("-1", None),
            ("abc", None),
            ("", None),
            ("e5", None),
        ];
        for (text, expected) in cases {
            assert_eq!(spelled_out(text).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn r11_zero_is_billable_only_when_everything_it_was_made_from_is_zero() {
        let rate = |text| Rate::parse(text).expect(text);
        assert_eq!(billable(rate("0.0000004"), false, 6), Err(Flaw::Zero));
        assert_eq!(billable(rate("0.0000005"), false, 6), Ok(rate("0.000001")));
        assert_eq!(billable(rate("0"), false, 6), Err(Flaw::Zero));
        assert_eq!(billable(rate("0"), true, 6), Ok(Rate::ZERO));
    }

    #[test]
    fn a_rate_that_rounds_up_to_the_limit_is_refused() {
        let rate = |text| Rate::parse(text).expect(text);
        assert_eq!(billable(rate("999.4"), false, 0), Ok(rate("999")));
        assert_eq!(billable(rate("999.5"), false, 0), Err(Flaw::TooLarge));
        assert_eq!(billable(rate("1000"), false, 12), Err(Flaw::TooLarge));
    }
}
