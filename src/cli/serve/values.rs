//! What some options' values may be.

use std::num::NonZeroUsize;
use std::time::Duration;

use crate::cli::duration;
use crate::domain::money::Rate;

/// A shorter lease than this would be lost to a busy machine.
pub(super) fn lease_ttl(text: &str) -> Result<Duration, String> {
    match duration::parse(text)? {
        ttl if ttl < Duration::from_secs(1) => Err("must be at least 1s".into()),
        ttl => Ok(ttl),
    }
}

/// A shorter one would expire a first copy that is being read, and a longer one is none.
pub(in crate::cli) fn change_retention(text: &str) -> Result<Duration, String> {
    const DAY: u64 = 24 * 3600;
    match duration::parse(text)? {
        kept if kept < Duration::from_secs(60) => Err("must be at least 1m".into()),
        kept if kept > Duration::from_secs(36_500 * DAY) => Err("must be at most 36500d".into()),
        kept => Ok(kept),
    }
}

pub(super) fn parallel(text: &str) -> Result<NonZeroUsize, String> {
    let count = text.parse().ok().filter(|count: &NonZeroUsize| count.get() <= 64);
    count.ok_or_else(|| "must be a number from 1 to 64".into())
}

/// A share of money is a decimal like money, from 0% to 100%.
pub(super) fn percent(text: &str) -> Result<Rate, String> {
    let whole = Rate::parse("100").ok();
    let share = text.strip_suffix('%').and_then(|number| Rate::parse(number).ok());
    share
        .filter(|share| Some(*share) <= whole && share.scale() <= 2)
        .ok_or_else(|| "must be from 0% to 100%, such as 20% or 12.5%".into())
}
