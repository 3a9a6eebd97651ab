//! R11 where it needs the whole book: every rate that the premium can make, for each base
//! model at every time that its price and the premium meet, checked before anything is priced.
//!
//! A flaw is reported at each fine-tune of the file that gets such a rate, and at the premium,
//! since any fine-tune may come with that base model on its events. There it is grouped: one
//! finding for each premium entry and flaw, with an example and a count.

use std::collections::BTreeMap;

use super::book::{COMPONENTS, Premium, Start, Terms, Timeline, meetings};
use super::dated::Placed;
use super::fields::Check;
use super::number::{Flaw, billable};
use crate::domain::money::Rate;
use crate::domain::yaml::diagnostic::{Path, Place, Shown};

/// The most times at which base prices and premiums may meet, over all models. It bounds what
/// a small file can make of itself: a thousand models under a thousand premiums.
const MAX_MEETINGS: usize = 500_000;

/// A fine-tune that the file derives from a base model.
pub(super) struct Fed<'n> {
    pub id: &'n str,
    pub at: Place,
    pub base: &'n str,
}

/// What derived rates are made from.
pub(super) struct Derivation<'d, 'n> {
    pub base_models: &'d BTreeMap<&'n str, Timeline<Terms>>,
    pub fine_tunes: &'d [Fed<'n>],
    pub premium: Option<&'d Placed<Premium>>,
}

/// What can be wrong with a derived rate; `Finer` alone is no reason to refuse it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Issue {
    Zero,
    TooLarge,
    TooPrecise,
    Finer,
}

/// The first of several findings alike, and how many there are.
struct Tally<'n> {
    base: &'n str,
    component: usize,
    start: Start,
    premium: Premium,
    from: Rate,
    count: usize,
}

/// The issues of one base model by component, and of one premium entry.
type Issues<'n, K> = BTreeMap<(K, Issue), Tally<'n>>;

impl Check<'_> {
    /// Reports every derived rate that may not be billed.
    pub fn derived(&mut self, what: &Derivation<'_, '_>) {
        let (Some((premium, places)), Some(scale), Some(_)) = (what.premium, self.rate_scale, self.per)
        else {
            // Without a premium a derived rate is the base's own, which has been checked.
            return;
        };
        let listed = premium.entries().len() > 1;
        let root = Path::Root.key("fine_tune_premium");
        if meetings_of(what, premium) > MAX_MEETINGS {
            let message = format_args!(
                "base prices and premiums meet at more than {MAX_MEETINGS} times; take old entries away"
            );
            return self.report.error("too_many_rates", places[0], &root, message);
        }
        let mut by_premium: Issues<'_, usize> = BTreeMap::new();
        let mut by_base: BTreeMap<&str, Issues<'_, usize>> = BTreeMap::new();
        for (&base, terms) in what.base_models {
            for (entry, issue, tally) in issues(base, terms, premium, scale) {
                let of_base = by_base.entry(base).or_default();
                note(of_base, (tally.component, issue), &tally);
                note(&mut by_premium, (entry, issue), &tally);
            }
        }
        for fed in what.fine_tunes {
            for ((_, issue), tally) in by_base.get(fed.base).into_iter().flatten() {
                // Rounding a derived rate is the normal case; the premium's warning is enough.
                if *issue != Issue::Finer {
                    let path = Path::Root.key("fine_tunes");
                    self.issue(*issue, fed.at, &path.key(fed.id), tally, scale);
                }
            }
        }
        for ((entry, issue), tally) in &by_premium {
            let index = root.index(*entry);
            self.issue(*issue, places[*entry], if listed { &index } else { &root }, tally, scale);
        }
    }

    fn issue(&mut self, issue: Issue, at: Place, path: &Path<'_>, tally: &Tally<'_>, scale: u32) {
        let (name, base) = (COMPONENTS[tally.component], Shown(tally.base));
        let made =
            tally.premium.on(tally.from).map_or_else(|error| error.to_string(), |rate| rate.to_string());
        let how = match tally.premium {
            Premium::Identity => "as it is".to_owned(),
            Premium::Multiplier(factor) => format!("times {factor}"),
            Premium::Markup(markup) => format!("plus {markup}"),
        };
        let when = match tally.start {
            None => String::new(),
            Some(start) => format!(", from {}", start.format("%Y-%m-%dT%H:%M:%SZ")),
        };
        let more = match tally.count {
            1 => String::new(),
            count => format!(" (and {} more like it)", count - 1),
        };
        let rate = format_args!("the {name} rate {} of {base} {how}{when}", tally.from);
        match issue {
            Issue::Zero => {
                let message = format_args!(
                    "{rate} is {made} per token, which is zero at rate_scale {scale}{more}; a fine-tune would be free: change the premium or raise rate_scale"
                );
                self.report.error("derived_rate_rounds_to_zero", at, path, message);
            }
            Issue::TooLarge => {
                let message = format_args!("{rate} comes to {} or more per token{more}", Rate::LIMIT);
                self.report.error("derived_rate_too_large", at, path, message);
            }
            Issue::TooPrecise => {
                let message =
                    format_args!("{rate} {made}{more}; write the rate or the premium with fewer digits");
                self.report.error("derived_rate_too_precise", at, path, message);
            }
            Issue::Finer => {
                let message = format_args!(
                    "{rate} is {made} per token, finer than rate_scale {scale}, and will be rounded{more}"
                );
                self.report.warning("derived_rate_will_be_rounded", at, path, message);
            }
        }
    }
}

fn meetings_of(what: &Derivation<'_, '_>, premium: &Timeline<Premium>) -> usize {
    let of_base = |terms: &Timeline<Terms>| terms.entries().len() + premium.entries().len();
    let bases: usize = what.base_models.values().map(of_base).sum();
    let fed: usize =
        what.fine_tunes.iter().filter_map(|fed| what.base_models.get(fed.base)).map(of_base).sum();
    bases + fed
}

fn note<'n>(issues: &mut Issues<'n, usize>, key: (usize, Issue), tally: &Tally<'n>) {
    issues.entry(key).and_modify(|first| first.count += 1).or_insert(Tally { ..*tally });
}

/// What is wrong with the rates that one base model gets, with the premium entry at fault.
fn issues<'n>(
    base: &'n str,
    terms: &Timeline<Terms>,
    premium: &Timeline<Premium>,
    scale: u32,
) -> impl Iterator<Item = (usize, Issue, Tally<'n>)> {
    let met = meetings(terms, Some(premium)).into_iter().filter_map(|(start, base_at, premium_at)| {
        Some((start, terms.entries()[base_at?].1, premium_at?, premium.entries()[premium_at?].1))
    });
    met.filter(|(_, _, _, premium)| *premium != Premium::Identity).flat_map(
        move |(start, terms, entry, premium)| {
            let components = terms.components().into_iter().enumerate();
            components.filter_map(move |(component, from)| {
                let issue = issue_of(from, premium, scale)?;
                Some((entry, issue, Tally { base, component, start, premium, from, count: 1 }))
            })
        },
    )
}

fn issue_of(from: Rate, premium: Premium, scale: u32) -> Option<Issue> {
    let free = from.is_zero() && !matches!(premium, Premium::Markup(markup) if !markup.is_zero());
    let billed =
        premium.on(from).map_err(Flaw::from).and_then(|exact| Ok((exact, billable(exact, free, scale)?)));
    match billed {
        Ok((exact, rounded)) => (exact != rounded).then_some(Issue::Finer),
        Err(Flaw::Zero) => Some(Issue::Zero),
        Err(Flaw::TooLarge) => Some(Issue::TooLarge),
        Err(Flaw::TooPrecise) => Some(Issue::TooPrecise),
    }
}
