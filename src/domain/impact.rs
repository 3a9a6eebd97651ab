//! What another pricebook would change for the traffic of a window: what it costs at each of
//! the two, models that would become unpriced, and entries without traffic. Gathered chunk by
//! chunk, in memory that does not grow with the window.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, Utc};

use super::money::{Money, MoneyError};
use super::pricebook::{Pricebook, ResolvedRate};

/// The most models that are kept apart for their unpriced events.
pub const MAX_MODELS: usize = 200_000;

/// The events of one model, as a pricebook prices them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelTraffic {
    /// The model.
    pub model_id: String,
    /// Its events that name somebody to bill.
    pub events: i64,
    /// Those of them without a rate.
    pub unpriced_events: i64,
    /// Base models that they were priced through.
    pub base_models: Vec<String>,
}

/// The events of some hours, as a pricebook prices them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traffic {
    /// What they cost.
    pub cost: Money,
    /// By model.
    pub models: Vec<ModelTraffic>,
}

/// What a candidate would change for a window's traffic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Impact {
    /// What the traffic costs at the loaded pricebook.
    pub loaded_cost: Money,
    /// In that one's currency.
    pub loaded_currency: String,
    /// What it costs at the candidate.
    pub candidate_cost: Money,
    /// In the candidate's.
    pub candidate_currency: String,
    /// Models with more unpriced events at the candidate, sorted. `None`: the books price more
    /// than [`MAX_MODELS`] models differently, and they were not kept.
    pub newly_unpriced_models: Option<Vec<String>>,
    /// Models that the candidate prices in the window and no event needs, sorted.
    pub unused_models: Vec<String>,
}

/// An impact in the making.
#[derive(Debug, Clone)]
pub struct Gathering {
    /// Of the loaded pricebook and of the candidate.
    currencies: [String; 2],
    loaded_cost: Money,
    candidate_cost: Money,
    /// How many more events of a model are unpriced at the candidate; only where that differs.
    more_unpriced: BTreeMap<String, i64>,
    too_many: bool,
    unused: BTreeSet<String>,
    derived_from: HashMap<String, String>,
}

impl Gathering {
    /// Of the loaded pricebook and a candidate, which has these rates, over a window that ends
    /// at `end`.
    pub fn new(books: [&Pricebook; 2], rates: &[ResolvedRate], end: DateTime<Utc>) -> Gathering {
        // A rate, once in force, stays so: what starts before the end is in force in the window.
        let in_force = rates.iter().filter(|rate| rate.effective_from.is_none_or(|from| from < end));
        let derived = rates.iter().filter_map(|r| Some((r.model_id.clone(), r.derived_from.clone()?)));
        Gathering {
            currencies: books.map(|book| book.currency().to_owned()),
            loaded_cost: Money::ZERO,
            candidate_cost: Money::ZERO,
            more_unpriced: BTreeMap::new(),
            too_many: false,
            unused: in_force.map(|rate| rate.model_id.clone()).collect(),
            derived_from: derived.collect(),
        }
    }

    /// Adds the same hours at both books.
    pub fn add(&mut self, loaded: Traffic, candidate: Traffic) -> Result<(), MoneyError> {
        self.loaded_cost = self.loaded_cost.plus(loaded.cost)?;
        self.candidate_cost = self.candidate_cost.plus(candidate.cost)?;
        let loaded = loaded.models.into_iter().map(|model| (model.model_id, model.unpriced_events));
        let loaded: HashMap<String, i64> = loaded.collect();
        for model in candidate.models {
            self.used(&model);
            let before = loaded.get(&model.model_id).copied().unwrap_or_default();
            self.note(model.model_id, model.unpriced_events - before);
        }
        Ok(())
    }

    /// A model needs its own entry, and the base model that it is priced through.
    fn used(&mut self, model: &ModelTraffic) {
        self.unused.remove(&model.model_id);
        let named = self.derived_from.get(&model.model_id);
        for base in model.base_models.iter().chain(named) {
            self.unused.remove(base);
        }
    }

    fn note(&mut self, model: String, more: i64) {
        if let Some(sum) = self.more_unpriced.get_mut(&model) {
            *sum += more;
        } else if more != 0 && self.more_unpriced.len() < MAX_MODELS {
            self.more_unpriced.insert(model, more);
        } else {
            self.too_many |= more != 0;
        }
    }

    /// What came of it.
    pub fn impact(self) -> Impact {
        let unpriced = self.more_unpriced.into_iter().filter(|(_, more)| *more > 0);
        let [loaded_currency, candidate_currency] = self.currencies;
        Impact {
            loaded_cost: self.loaded_cost,
            loaded_currency,
            candidate_cost: self.candidate_cost,
            candidate_currency,
            newly_unpriced_models: (!self.too_many).then(|| unpriced.map(|(model, _)| model).collect()),
            unused_models: self.unused.into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::pricebook;

    fn gathering() -> Gathering {
        let rate = "prompt: '1', cached: '1', completion: '1'";
        let yaml = format!(
            "version: 1\nbase_models:\n  base: {{{rate}}}\n  other: {{{rate}}}\n  spare: {{{rate}}}\n  \
             soon: [{{effective_from: 2026-07-01T00:00:00Z, {rate}}}]\nfine_tunes:\n  \
             'ft:a': {{derived_from: base}}\n"
        );
        let book = pricebook::parse(&yaml).book.expect("valid");
        Gathering::new(
            [&book, &book],
            &book.resolved_rates(),
            "2026-07-01T00:00:00Z".parse().expect("a time"),
        )
    }

    fn traffic(cost: &str, models: &[(&str, i64, &[&str])]) -> Traffic {
        let model = |&(model_id, unpriced_events, bases): &(&str, i64, &[&str])| ModelTraffic {
            model_id: model_id.into(),
            events: 9,
            unpriced_events,
            base_models: bases.iter().map(|base| (*base).to_owned()).collect(),
        };
        Traffic { cost: Money::parse(cost).expect("money"), models: models.iter().map(model).collect() }
    }

    #[test]
    fn an_entry_is_used_by_its_own_name_through_a_named_fine_tune_or_an_events_base() {
        let mut gathering = gathering();
        // What is not in force before the window ends is no entry of it.
        assert_eq!(gathering.clone().impact().unused_models, ["base", "ft:a", "other", "spare"]);
        let used = traffic("0", &[("ft:a", 0, &[]), ("ft:unnamed", 9, &["other"])]);
        gathering.add(used.clone(), used).expect("fits");
        assert_eq!(gathering.impact().unused_models, ["spare"]);
    }

    #[test]
    fn costs_and_unpriced_events_are_those_of_all_chunks() {
        let mut gathering = gathering();
        let chunks = [
            (traffic("1", &[("a", 2, &[]), ("b", 0, &[])]), traffic("0.5", &[("a", 0, &[]), ("b", 1, &[])])),
            (traffic("0.1", &[("a", 0, &[]), ("c", 7, &[])]), traffic("0", &[("a", 2, &[]), ("c", 7, &[])])),
        ];
        for (loaded, candidate) in chunks {
            gathering.add(loaded, candidate).expect("fits");
        }
        let impact = gathering.impact();
        assert_eq!(
            (impact.loaded_cost.to_string(), impact.candidate_cost.to_string()),
            ("1.1".into(), "0.5".into())
        );
        assert_eq!(impact.newly_unpriced_models, Some(vec!["b".to_owned()]));
    }

    #[test]
    fn too_many_models_are_not_kept_and_said() {
        let mut gathering = gathering();
        for model in 0..MAX_MODELS {
            gathering.note(format!("ft:{model}"), 1);
        }
        gathering.note("ft:same".into(), 0);
        gathering.note("ft:0".into(), 1);
        assert_eq!(gathering.clone().impact().newly_unpriced_models.map(|m| m.len()), Some(MAX_MODELS));
        gathering.note("ft:more".into(), 1);
        assert_eq!(gathering.impact().newly_unpriced_models, None);
    }
}
