//! What a valid pricebook says, normalised: per token, exact, and in order of time.
//!
//! Everything here is unrounded; [`Terms::rounded`] is where R1's one rounding happens.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use crate::domain::money::{MoneyError, Rate};

/// When something starts to hold; `None` is from the beginning.
pub(super) type Start = Option<DateTime<Utc>>;

/// One value for each of the three kinds of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Terms {
    pub prompt: Rate,
    pub cached: Rate,
    pub completion: Rate,
}

/// The names of [`Terms`]' components, as the pricebook writes them.
pub(super) const COMPONENTS: [&str; 3] = ["prompt", "cached", "completion"];

impl Terms {
    /// The components, in the order of [`COMPONENTS`].
    pub fn components(&self) -> [Rate; 3] {
        [self.prompt, self.cached, self.completion]
    }

    /// Each component rounded to `scale`.
    pub fn rounded(&self, scale: u32) -> Terms {
        let Terms { prompt, cached, completion } = *self;
        Terms {
            prompt: prompt.rounded(scale),
            cached: cached.rounded(scale),
            completion: completion.rounded(scale),
        }
    }
}

/// What a fine-tune costs more than the base model that it is derived from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Premium {
    Identity,
    /// The base rate times this.
    Multiplier(Rate),
    /// The base rate plus this, per token.
    Markup(Rate),
}

impl Premium {
    /// One derived rate, exact and unrounded.
    pub fn on(&self, base: Rate) -> Result<Rate, MoneyError> {
        match self {
            Premium::Identity => Ok(base),
            Premium::Multiplier(factor) => base.times(*factor),
            Premium::Markup(markup) => base.plus(*markup),
        }
    }

    /// All three derived rates, exact and unrounded.
    pub fn on_terms(&self, base: &Terms) -> Result<Terms, MoneyError> {
        Ok(Terms {
            prompt: self.on(base.prompt)?,
            cached: self.on(base.cached)?,
            completion: self.on(base.completion)?,
        })
    }
}

/// A value that changes over time: entries in strict order of their starts, at least one.
/// Only the first may be from the beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Timeline<T>(Vec<(Start, T)>);

impl<T> Timeline<T> {
    /// Takes entries that are already in order; none when they aren't, or when there are none.
    pub fn new(entries: Vec<(Start, T)>) -> Option<Timeline<T>> {
        // `None` is before every time, as `Option` orders it.
        let ordered = !entries.is_empty() && entries.windows(2).all(|pair| pair[0].0 < pair[1].0);
        ordered.then_some(Timeline(entries))
    }

    /// The entries, first to last.
    pub fn entries(&self) -> &[(Start, T)] {
        &self.0
    }

    /// What is in force at a time: the last entry that starts at or before it.
    pub fn at(&self, time: DateTime<Utc>) -> Option<&T> {
        self.in_force(Some(time)).map(|index| &self.0[index].1)
    }

    /// The index of the entry in force at a start (`None`: at the beginning).
    pub fn in_force(&self, time: Start) -> Option<usize> {
        self.0.partition_point(|(start, _)| *start <= time).checked_sub(1)
    }
}

/// How a fine-tune is priced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FineTune {
    /// By its own rate.
    Own(Timeline<Terms>),
    /// By the premium on this base model, which exists.
    DerivedFrom(String),
}

/// The pricebook, checked: every rate in it and every one that can be derived from it is
/// exact, in bounds, and zero only where it is meant to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Book {
    pub currency: String,
    pub rate_scale: u32,
    pub base_models: BTreeMap<String, Timeline<Terms>>,
    /// None is identity throughout.
    pub premium: Option<Timeline<Premium>>,
    pub fine_tunes: BTreeMap<String, FineTune>,
    pub gpu_floor_rates: BTreeMap<String, Rate>,
}

/// Every time at which a base model or the premium changes, in order, each with the index of
/// the premium in force then (`None`: identity) and of the base's (`None`: not in force yet).
/// The first is the beginning.
pub(super) fn meetings(
    base: &Timeline<Terms>,
    premium: Option<&Timeline<Premium>>,
) -> Vec<(Start, Option<usize>, Option<usize>)> {
    let premium_starts = premium.map_or(&[][..], Timeline::entries).iter().map(|(start, _)| *start);
    let mut starts: Vec<Start> = base.entries().iter().map(|(start, _)| *start).collect();
    starts.extend(premium_starts);
    starts.push(None);
    starts.sort_unstable();
    starts.dedup();
    starts
        .into_iter()
        .map(|start| (start, base.in_force(start), premium.and_then(|premium| premium.in_force(start))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hour(n: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(n * 3600, 0).expect("in range")
    }

    #[test]
    fn the_last_entry_at_or_before_a_time_is_in_force() {
        let timeline = Timeline::new(vec![(Some(hour(1)), 'a'), (Some(hour(3)), 'b')]).expect("ordered");
        let at = |n| timeline.at(hour(n)).copied();
        assert_eq!([at(0), at(1), at(2), at(3), at(9)], [None, Some('a'), Some('a'), Some('b'), Some('b')]);
        assert_eq!(timeline.in_force(None), None);
    }

    #[test]
    fn a_timeline_is_in_order_and_not_empty() {
        assert_eq!(Timeline::<char>::new(vec![]), None);
        assert_eq!(Timeline::new(vec![(Some(hour(1)), 'a'), (Some(hour(1)), 'b')]), None);
        assert_eq!(Timeline::new(vec![(Some(hour(1)), 'a'), (None, 'b')]), None);
        assert!(Timeline::new(vec![(None, 'a'), (Some(hour(1)), 'b')]).is_some());
    }
}
