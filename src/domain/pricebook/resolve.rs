//! Which rate an event gets: for one event in plain Rust (`resolve`, the oracle), as a table
//! of intervals for the rating statement (`rate_table`), and listed for people.
//!
//! First that applies: what the file names, by its own rate or its `derived_from`; for an
//! `ft:` model that the file does not name, the event's base model, if it is one here; else
//! nothing. What the file names and has no rate in force yet falls through to nothing (R3).

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};

use super::book::{Book, FineTune, Premium, Start, Terms, Timeline, meetings};
use super::parse::FINE_TUNE_PREFIX;
use super::{RateChange, RateRow, RateTable, Rates, Resolved, ResolvedRate};

/// What a model is billed at over time: each step holds until the next; the first is from the
/// beginning. `None` is unpriced.
type Steps = Vec<(Start, Option<Rates>)>;

/// A model that the file names.
struct Named<'b> {
    model: &'b str,
    derived_from: Option<&'b str>,
    steps: Steps,
}

impl Book {
    pub(super) fn resolve(
        &self,
        model: &str,
        base_model: Option<&str>,
        hour: DateTime<Utc>,
    ) -> Option<Resolved> {
        let (terms, derived_from, via_event_base) = if let Some(own) = self.base_models.get(model) {
            (*own.at(hour)?, None, false)
        } else if let Some(fine_tune) = self.fine_tunes.get(model) {
            match fine_tune {
                FineTune::Own(own) => (*own.at(hour)?, None, false),
                FineTune::DerivedFrom(base) => (self.derived(base, hour)?, Some(base.clone()), false),
            }
        } else {
            let base = base_model.filter(|_| model.starts_with(FINE_TUNE_PREFIX))?;
            (self.derived(base, hour)?, Some(base.to_owned()), true)
        };
        Some(Resolved { rates: self.billed(&terms), derived_from, via_event_base })
    }

    fn derived(&self, base: &str, hour: DateTime<Utc>) -> Option<Terms> {
        let terms = self.base_models.get(base)?.at(hour)?;
        let premium = self.premium.as_ref().and_then(|premium| premium.at(hour));
        // A checked book has no product that is not exact; without one there is no price (R3).
        premium.unwrap_or(&Premium::Identity).on_terms(terms).ok()
    }

    /// R1's one rounding.
    fn billed(&self, terms: &Terms) -> Rates {
        let Terms { prompt, cached, completion } = terms.rounded(self.rate_scale);
        Rates { prompt, cached, completion }
    }

    pub(super) fn rate_table(&self, from: DateTime<Utc>, until: DateTime<Utc>) -> RateTable {
        let rows = |model: &str, steps: Steps| rows(model, steps, from, until);
        RateTable {
            direct: self.named().flat_map(|named| rows(named.model, named.steps)).collect(),
            derived: self.base_models.keys().flat_map(|base| rows(base, self.derived_steps(base))).collect(),
        }
    }

    pub(super) fn resolved_rates(&self) -> Vec<ResolvedRate> {
        let mut named: Vec<Named<'_>> = self.named().collect();
        named.sort_by_key(|named| named.model);
        named
            .iter()
            .flat_map(|named| (0..named.steps.len()).filter_map(|step| named.resolved(step)))
            .collect()
    }

    pub(super) fn changes_to(&self, candidate: &Book) -> Vec<RateChange> {
        let ids: BTreeSet<&str> = self.ids().chain(candidate.ids()).collect();
        ids.into_iter().flat_map(|id| changes(self.find(id), candidate.find(id))).collect()
    }

    fn ids(&self) -> impl Iterator<Item = &str> {
        self.base_models.keys().chain(self.fine_tunes.keys()).map(String::as_str)
    }

    fn named(&self) -> impl Iterator<Item = Named<'_>> {
        self.ids().filter_map(|id| self.find(id))
    }

    fn find(&self, id: &str) -> Option<Named<'_>> {
        if let Some((model, own)) = self.base_models.get_key_value(id) {
            return Some(Named { model, derived_from: None, steps: self.own_steps(own) });
        }
        let (model, fine_tune) = self.fine_tunes.get_key_value(id)?;
        let (derived_from, steps) = match fine_tune {
            FineTune::Own(own) => (None, self.own_steps(own)),
            FineTune::DerivedFrom(base) => (Some(base.as_str()), self.derived_steps(base)),
        };
        Some(Named { model, derived_from, steps })
    }

    fn own_steps(&self, own: &Timeline<Terms>) -> Steps {
        let dated = own.entries().iter().map(|(start, terms)| (*start, Some(self.billed(terms))));
        let unpriced = own.entries().first().filter(|(start, _)| start.is_some()).map(|_| (None, None));
        unpriced.into_iter().chain(dated).collect()
    }

    fn derived_steps(&self, base: &str) -> Steps {
        let Some(terms) = self.base_models.get(base) else { return vec![(None, None)] };
        let premium = self.premium.as_ref();
        let step = |(start, base_at, premium_at): (Start, Option<usize>, Option<usize>)| {
            let of = premium.zip(premium_at).map_or(Premium::Identity, |(p, at)| p.entries()[at].1);
            let derived = base_at.and_then(|at| of.on_terms(&terms.entries()[at].1).ok());
            (start, derived.map(|terms| self.billed(&terms)))
        };
        meetings(terms, premium).into_iter().map(step).collect()
    }
}

impl Named<'_> {
    /// The rate that a step sets, if it sets one.
    fn resolved(&self, step: usize) -> Option<ResolvedRate> {
        let (effective_from, rates) = self.steps[step];
        Some(ResolvedRate {
            model_id: self.model.to_owned(),
            derived_from: self.derived_from.map(str::to_owned),
            rates: rates?,
            effective_from,
        })
    }

    /// The rate in force at a start.
    fn at(&self, start: Start) -> Option<ResolvedRate> {
        self.resolved(self.steps.partition_point(|(from, _)| *from <= start).checked_sub(1)?)
    }
}

/// The intervals of one model that overlap a window.
fn rows(model: &str, steps: Steps, from: DateTime<Utc>, until: DateTime<Utc>) -> Vec<RateRow> {
    let ends: Vec<Start> = steps.iter().skip(1).map(|(start, _)| *start).chain([None]).collect();
    let overlaps = |start: Start, end: Start| start.is_none_or(|s| s < until) && end.is_none_or(|e| e > from);
    steps
        .into_iter()
        .zip(ends)
        .filter(|((start, _), end)| overlaps(*start, *end))
        .map(|((start, rates), end)| RateRow { model: model.to_owned(), from: start, until: end, rates })
        .collect()
}

/// At every time that either book changes a model: what is in force before and after, where
/// that differs and has not been said yet.
fn changes(before: Option<Named<'_>>, after: Option<Named<'_>>) -> Vec<RateChange> {
    let starts = before.iter().chain(&after).flat_map(|named| &named.steps).map(|(start, _)| *start);
    let starts: BTreeSet<Start> = starts.collect();
    let priced = |rate: &Option<ResolvedRate>| rate.as_ref().map(|r| (r.rates, r.derived_from.clone()));
    let (mut changes, mut last) = (Vec::new(), None);
    for start in starts {
        let in_force = |named: &Option<Named<'_>>| named.as_ref().and_then(|named| named.at(start));
        let change = RateChange { before: in_force(&before), after: in_force(&after) };
        let said = (priced(&change.before), priced(&change.after));
        if said.0 != said.1 && last.as_ref() != Some(&said) {
            changes.push(change);
        }
        last = Some(said);
    }
    changes
}
