//! Exact decimals for rates and costs (R1). No float comes near them: every operation is
//! exact or refused, but [`Rate::rounded`], the one place where a price is rounded.
//!
//! The database holds the same values as `numeric`; they cross as text, because drivers
//! round wide numerics silently.

use std::fmt;

use rust_decimal::{Decimal, RoundingStrategy};

/// The finest scale of a rate or a cost, in decimal places.
pub const MAX_SCALE: u32 = 12;

/// A decimal that could not be taken exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// Exponent, sign, blank, fraction, or no digits at all.
    #[error("is not a plain decimal such as \"0.0000002\"")]
    NotPlain,
    /// More digits than an exact decimal holds (28).
    #[error("has more digits than can be kept exactly (28)")]
    TooPrecise,
    /// The exact result does not fit.
    #[error("is too large to be kept exactly")]
    Overflow,
}

/// The price of one token, in the pricebook's currency. Never negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate(Decimal);

/// An amount of money, exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Money(Decimal);

impl Rate {
    /// A deliberate free rate.
    pub const ZERO: Rate = Rate(Decimal::ZERO);

    /// The first rate that is too high to be one: 1,000 a token. Below it, a rate at
    /// [`MAX_SCALE`] has at most 15 digits, which every `Decimal` and `numeric` keeps.
    pub const LIMIT: Rate = Rate(Decimal::ONE_THOUSAND);

    /// Takes a plain fixed-point decimal: digits, and at most one point with digits on both
    /// sides. No sign, exponent, blank or grouping.
    pub fn parse(text: &str) -> Result<Rate, MoneyError> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(fraction) {
            return Err(MoneyError::NotPlain);
        }
        // Trailing zeros carry no value; without them more of what is written fits exactly.
        let canonical = match text.contains('.') {
            true => text.trim_end_matches('0').trim_end_matches('.'),
            false => text,
        };
        exact(canonical).map(Rate).map_err(|_| match whole.trim_start_matches('0').len() {
            // 28 digits always fit; more of them before the point are too many by themselves.
            0..=28 => MoneyError::TooPrecise,
            _ => MoneyError::Overflow,
        })
    }

    /// This rate times a plain factor, exact or refused: `checked_mul` alone would round
    /// silently where the scale passes 28.
    pub fn times(self, factor: Rate) -> Result<Rate, MoneyError> {
        exact_product(self.0.normalize(), factor.0.normalize()).map(Rate)
    }

    /// The sum of two rates, exact or refused.
    pub fn plus(self, other: Rate) -> Result<Rate, MoneyError> {
        exact_sum(self.0.normalize(), other.0.normalize()).map(Rate)
    }

    /// This rate divided by a power of ten (`per` tokens), exact or refused.
    pub fn per(self, power_of_ten: u32) -> Result<Rate, MoneyError> {
        let mut value = self.0.normalize();
        let zeros = power_of_ten.ilog10();
        debug_assert_eq!(10u32.pow(zeros), power_of_ten, "per is a power of ten");
        value.set_scale(value.scale() + zeros).map_err(|_| MoneyError::TooPrecise)?;
        Ok(Rate(value.normalize()))
    }

    /// Rounded to `scale` places, half away from zero: the one rounding of R1.
    pub fn rounded(self, scale: u32) -> Rate {
        Rate(self.0.round_dp_with_strategy(scale, RoundingStrategy::MidpointAwayFromZero).normalize())
    }

    /// Whether this is exactly zero.
    pub fn is_zero(self) -> bool {
        self.0.is_zero()
    }

    /// The decimal places it needs.
    pub fn scale(self) -> u32 {
        self.0.normalize().scale()
    }

    /// The cost of `tokens` at this rate (R1): exact or refused.
    pub fn cost_of(self, tokens: i64) -> Result<Money, MoneyError> {
        exact_product(self.0.normalize(), Decimal::from(tokens)).map(Money)
    }
}

impl Money {
    /// Nothing.
    pub const ZERO: Money = Money(Decimal::ZERO);

    /// Takes what the database printed: a plain decimal, perhaps negative.
    pub fn parse(text: &str) -> Result<Money, MoneyError> {
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let Rate(value) = Rate::parse(digits)?;
        Ok(Money(if negative { -value } else { value }))
    }

    /// The sum, exact or refused.
    pub fn plus(self, other: Money) -> Result<Money, MoneyError> {
        exact_sum(self.0.normalize(), other.0.normalize()).map(Money)
    }

    /// The difference, exact or refused.
    pub fn minus(self, other: Money) -> Result<Money, MoneyError> {
        self.plus(Money(-other.0))
    }

    /// How much it is, whichever way it goes.
    pub fn abs(self) -> Money {
        Money(self.0.abs())
    }

    /// This many hundredths of it, exact or refused.
    pub fn percent(self, percent: Rate) -> Result<Money, MoneyError> {
        let hundredth = percent.per(100)?;
        exact_product(self.0.normalize(), hundredth.0).map(Money)
    }
}

fn exact(text: &str) -> Result<Decimal, MoneyError> {
    Decimal::from_str_exact(text).map_err(|_| MoneyError::TooPrecise)
}

/// A product is exact when its scale is the sum of the scales: anything less was rounded.
fn exact_product(a: Decimal, b: Decimal) -> Result<Decimal, MoneyError> {
    let product = a.checked_mul(b).ok_or(MoneyError::Overflow)?;
    let exact = a.is_zero() || b.is_zero() || product.scale() == a.scale() + b.scale();
    exact.then(|| product.normalize()).ok_or(MoneyError::TooPrecise)
}

/// A sum is exact when it keeps the finer scale.
fn exact_sum(a: Decimal, b: Decimal) -> Result<Decimal, MoneyError> {
    let sum = a.checked_add(b).ok_or(MoneyError::Overflow)?;
    let exact = sum.scale() == a.scale().max(b.scale());
    exact.then(|| sum.normalize()).ok_or(MoneyError::TooPrecise)
}

/// Canonical: no exponent, no trailing zeros, no "-0".
impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.normalize())
    }
}

/// Canonical, like [`Rate`].
impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.normalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(text: &str) -> Rate {
        Rate::parse(text).expect(text)
    }

    #[test]
    fn only_plain_decimals_are_rates() {
        for bad in
            ["", ".", "1.", ".5", "1e-7", "-1", "+1", " 1", "1 ", "1_000", "1,5", "1/2", "0x1", "NaN", "١"]
        {
            assert_eq!(Rate::parse(bad), Err(MoneyError::NotPlain), "{bad:?}");
        }
        assert_eq!(rate("0.000000200").to_string(), "0.0000002");
        assert_eq!(rate("007").to_string(), "7");
        assert_eq!(rate("0.0").to_string(), "0");
    }

    #[test]
    fn what_does_not_fit_exactly_is_refused_and_never_rounded() {
        assert_eq!(Rate::parse("0.00000000000000000000000000001"), Err(MoneyError::TooPrecise));
        assert_eq!(Rate::parse("9234567890.1234567890123456789"), Err(MoneyError::TooPrecise));
        assert_eq!(Rate::parse("79228162514264337593543950336"), Err(MoneyError::Overflow));
        assert_eq!(Rate::parse(&"9".repeat(1 << 20)), Err(MoneyError::Overflow));
        let tiny = rate("0.0000000000000000000000000001");
        assert_eq!(tiny.times(tiny), Err(MoneyError::TooPrecise));
        assert_eq!(rate("79228162514264337593543950335").plus(rate("1")), Err(MoneyError::Overflow));
        assert_eq!(rate("7922816251426433759354395033").plus(rate("0.01")), Err(MoneyError::TooPrecise));
        assert_eq!(tiny.per(10), Err(MoneyError::TooPrecise));
    }

    #[test]
    fn rounding_is_half_away_from_zero() {
        assert_eq!(rate("0.125").rounded(2).to_string(), "0.13");
        assert_eq!(rate("0.0000000000005").rounded(12).to_string(), "0.000000000001");
        assert_eq!(rate("0.0000000000004999").rounded(12).to_string(), "0");
    }

    #[test]
    fn per_and_cost_are_exact() {
        assert_eq!(rate("3.125").per(1_000_000).expect("fits").to_string(), "0.000003125");
        assert_eq!(
            rate("0.000000000001").cost_of(i64::MAX).expect("fits").to_string(),
            "9223372.036854775807"
        );
        assert_eq!(Money::parse("-0.0").expect("plain").to_string(), "0");
    }

    #[test]
    fn a_difference_is_exact_or_refused() {
        let money = |text| Money::parse(text).expect(text);
        let minus = |a, b| money(a).minus(money(b)).map(|difference: Money| difference.to_string());
        assert_eq!(minus("0.30", "0.1").as_deref(), Ok("0.2"));
        assert_eq!(minus("0.1", "0.100000000001").as_deref(), Ok("-0.000000000001"));
        assert_eq!(minus("-1.50", "-1.5").as_deref(), Ok("0"));
        assert_eq!(minus("7922816251426433759354395033", "0.01"), Err(MoneyError::TooPrecise));
    }
}
