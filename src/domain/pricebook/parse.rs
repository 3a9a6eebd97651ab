//! Tree to book: one pass over the document that finds everything wrong with it, then the
//! checks that need the whole (`derived`). A book comes out only when nothing was an error.

use std::collections::{BTreeMap, BTreeSet};

use super::book::{Book, FineTune, Terms, Timeline};
use super::dated::{EFFECTIVE_FROM, Placed};
use super::derived::{Derivation, Fed};
use super::fields::Check;
use crate::domain::money::{MAX_SCALE, Rate};
use crate::domain::yaml::diagnostic::{Path, Place, Report, Shown};
use crate::domain::yaml::fields::{Fields, Slot};
use crate::domain::yaml::{self, Node, Words};

/// The only version of the format there is.
const VERSION: u64 = 1;
const DEFAULT_CURRENCY: &str = "USD";
const MAX_PER: u32 = 1_000_000;
/// What fine-tunes are called, and nothing else.
pub(super) const FINE_TUNE_PREFIX: &str = "ft:";

const WORDS: Words = Words { noun: "pricebook", least: "version and base_models", depth: 4 };

const ROOT_KEYS: [&str; 8] = [
    "version",
    "currency",
    "rate_scale",
    "per",
    "base_models",
    "fine_tune_premium",
    "fine_tunes",
    "gpu_floor_rates",
];
const WANTED_RATE: &str =
    "a rate, such as {prompt: \"0.000003\", cached: \"0.0000003\", completion: \"0.000015\"}";
const WANTED_FINE_TUNE: &str = "a fine-tune, such as {derived_from: \"acme/large\"}";

/// Checks `text`; a book, if there is one, is without errors.
pub(super) fn book(text: &str, report: &mut Report) -> Option<Book> {
    let root = yaml::read(text, &WORDS, report)?;
    let book = Check { report, per: None, rate_scale: None }.root(&root);
    // An error that no value depends on (an unknown key) still refuses the book.
    book.filter(|_| !report.has_errors())
}

impl Check<'_> {
    fn root(&mut self, root: &Node<'_>) -> Option<Book> {
        let path = Path::Root;
        let fields = self.report.fields(
            root,
            &path,
            "a pricebook: a mapping with version and base_models",
            &ROOT_KEYS,
        )?;
        self.version(fields, root.place);
        let currency = self.currency(fields);
        self.rate_scale = self.rate_scale(fields);
        self.per = self.per(fields);
        let base_models = self.base_models(fields, root.place);
        let premium = match fields.get("fine_tune_premium") {
            // Wrong: what would be derived by it is unknown.
            Some(slot) => self.premium(slot, &path.key("fine_tune_premium")).map(Some),
            None => Some(None),
        };
        let fine_tunes = self.fine_tunes(fields, &base_models);
        let gpu_floor_rates = self.gpu_floor_rates(fields);
        if let Some(premium) = &premium {
            self.derived(&Derivation {
                base_models: &base_models.terms,
                fine_tunes: &fine_tunes.fed,
                premium: premium.as_ref(),
            });
        }
        Some(Book {
            currency: currency?,
            rate_scale: self.rate_scale?,
            base_models: base_models.terms.into_iter().map(|(id, terms)| (id.to_owned(), terms)).collect(),
            premium: premium?.map(|(timeline, _)| timeline),
            fine_tunes: fine_tunes.priced,
            gpu_floor_rates,
        })
    }

    fn version(&mut self, fields: Fields<'_>, root: Place) {
        let path = Path::Root.key("version");
        let Some(version) = fields.get("version") else {
            let message = format_args!("the version is missing; write version: {VERSION}");
            return self.report.error("missing_version", root, &path, message);
        };
        match self.report.integer(version.node, &path) {
            None | Some(VERSION) => {}
            Some(_) => {
                let message = format_args!("an unknown version of the format; write version: {VERSION}");
                self.report.error("unknown_version", version.node.place, &path, message);
            }
        }
    }

    fn currency(&mut self, fields: Fields<'_>) -> Option<String> {
        let Some(currency) = fields.get("currency") else { return Some(DEFAULT_CURRENCY.to_owned()) };
        let path = Path::Root.key("currency");
        let code = self.report.text(currency.node, &path, "a currency, such as USD")?;
        if code.len() == 3 && code.bytes().all(|b| b.is_ascii_uppercase()) {
            return Some(code.to_owned());
        }
        let message =
            format_args!("{} is not a currency code; write three capitals, such as USD", Shown(code));
        self.report.error("bad_currency", currency.node.place, &path, message);
        None
    }

    fn rate_scale(&mut self, fields: Fields<'_>) -> Option<u32> {
        let Some(scale) = fields.get("rate_scale") else { return Some(MAX_SCALE) };
        let path = Path::Root.key("rate_scale");
        let value = self.report.integer(scale.node, &path)?;
        let known = u32::try_from(value).ok().filter(|value| *value <= MAX_SCALE);
        if known.is_none() {
            let message = format_args!("rate_scale goes from 0 to {MAX_SCALE}");
            self.report.error("rate_scale_out_of_range", scale.node.place, &path, message);
        }
        known
    }

    fn per(&mut self, fields: Fields<'_>) -> Option<u32> {
        let Some(per) = fields.get("per") else { return Some(1) };
        let path = Path::Root.key("per");
        let value = self.report.integer(per.node, &path)?;
        let known = (0..=MAX_PER.ilog10()).map(|zeros| 10u32.pow(zeros)).find(|p| u64::from(*p) == value);
        if known.is_none() {
            let message = format_args!("per is a power of ten from 1 to {MAX_PER}");
            self.report.error("per_not_power_of_ten", per.node.place, &path, message);
        }
        known
    }

    fn base_models<'n>(&mut self, fields: Fields<'n>, root: Place) -> BaseModels<'n> {
        let path = Path::Root.key("base_models");
        let slot = fields.get("base_models");
        let mut found = BaseModels::default();
        let entries = match slot {
            Some(slot) if !slot.node.is_null() => {
                self.by_id(slot.node, &path, "a mapping from model to rate")
            }
            _ => Vec::new(),
        };
        if entries.is_empty() && slot.is_none_or(|slot| slot.node.is_empty()) {
            let at = slot.map_or(root, |slot| slot.at);
            let message = "there are no base models, so nothing could be priced";
            self.report.error("no_base_models", at, &path, message);
        }
        for (id, slot) in entries {
            let path = path.key(id);
            if id.starts_with(FINE_TUNE_PREFIX) {
                let message = format_args!(
                    "a base model can't begin with {FINE_TUNE_PREFIX:?}; write it under fine_tunes"
                );
                self.report.error("base_model_with_ft_id", slot.at, &path, message);
            }
            found.names.insert(id);
            if let Some((timeline, _)) = self.terms(slot, &path) {
                found.terms.insert(id, timeline);
            }
        }
        found
    }

    /// A model's own rate over time.
    fn terms(&mut self, slot: Slot<'_>, path: &Path<'_>) -> Option<Placed<Terms>> {
        self.timeline(slot, path, WANTED_RATE, |check, slot, path| {
            let known = [EFFECTIVE_FROM, "prompt", "cached", "completion"];
            let fields = check.report.fields(slot.node, path, WANTED_RATE, &known)?;
            let prompt = check.component(fields, slot, path, "prompt");
            let cached = check.component(fields, slot, path, "cached");
            let completion = check.component(fields, slot, path, "completion");
            Some(Terms { prompt: prompt?, cached: cached?, completion: completion? })
        })
    }

    fn component(
        &mut self,
        fields: Fields<'_>,
        entry: Slot<'_>,
        path: &Path<'_>,
        name: &str,
    ) -> Option<Rate> {
        let path = path.key(name);
        let Some(slot) = fields.get(name) else {
            let message = format_args!("the {name} rate is missing; write {name}: \"0\" if it is free");
            self.report.error("missing_component", entry.at, &path, message);
            return None;
        };
        self.final_rate(slot, &path)
    }

    fn fine_tunes<'n>(&mut self, fields: Fields<'n>, base_models: &BaseModels<'_>) -> FineTunes<'n> {
        let mut found = FineTunes::default();
        let Some(slot) = fields.get("fine_tunes") else { return found };
        let path = Path::Root.key("fine_tunes");
        for (id, slot) in self.by_id(slot.node, &path, "a mapping from fine-tune to its price") {
            let path = path.key(id);
            if !id.starts_with(FINE_TUNE_PREFIX) {
                let message = format_args!(
                    "a fine-tune begins with {FINE_TUNE_PREFIX:?}; write other models under base_models"
                );
                self.report.error("fine_tune_without_ft_id", slot.at, &path, message);
            }
            let Some(fields) =
                self.report.fields(slot.node, &path, WANTED_FINE_TUNE, &["derived_from", "rate"])
            else {
                continue;
            };
            match (fields.get("rate"), fields.get("derived_from")) {
                (Some(rate), None) => {
                    if let Some((timeline, _)) = self.terms(rate, &path.key("rate")) {
                        found.priced.insert(id.to_owned(), FineTune::Own(timeline));
                    }
                }
                (None, Some(base)) => {
                    if let Some(base) = self.derived_from(base, &path.key("derived_from"), base_models) {
                        found.priced.insert(id.to_owned(), FineTune::DerivedFrom(base.to_owned()));
                        found.fed.push(Fed { id, at: slot.at, base });
                    }
                }
                (Some(_), Some(_)) => {
                    let message = "a fine-tune has a rate or is derived, not both; keep one";
                    self.report.error("rate_and_derived_from", slot.at, &path, message);
                }
                (None, None) => {
                    let message = "a fine-tune needs derived_from or a rate of its own";
                    self.report.error("no_rate_and_no_derived_from", slot.at, &path, message);
                }
            }
        }
        found
    }

    /// The true base model that a fine-tune derives from, in one hop (R11).
    fn derived_from<'n>(
        &mut self,
        slot: Slot<'n>,
        path: &Path<'_>,
        base_models: &BaseModels<'_>,
    ) -> Option<&'n str> {
        let base = self.report.text(slot.node, path, "the id of a base model")?;
        if base.starts_with(FINE_TUNE_PREFIX) {
            let message =
                format_args!("{} is a fine-tune; derive from the base model itself, in one hop", Shown(base));
            self.report.error("derived_from_not_base", slot.node.place, path, message);
            return None;
        }
        if !base_models.names.contains(base) {
            let message = format_args!("{} is not among the base_models; ids match exactly", Shown(base));
            self.report.error("derived_from_unknown", slot.node.place, path, message);
            return None;
        }
        Some(base)
    }

    fn gpu_floor_rates(&mut self, fields: Fields<'_>) -> BTreeMap<String, Rate> {
        let Some(slot) = fields.get("gpu_floor_rates") else { return BTreeMap::new() };
        let path = Path::Root.key("gpu_floor_rates");
        let entries = self.by_id(slot.node, &path, "a mapping from GPU type to rate");
        let rate =
            |(id, slot): (&str, Slot<'_>)| Some((id.to_owned(), self.final_rate(slot, &path.key(id))?));
        entries.into_iter().filter_map(rate).collect()
    }
}

/// The base models: every name that the file gives, and those whose terms are right.
#[derive(Default)]
struct BaseModels<'n> {
    names: BTreeSet<&'n str>,
    terms: BTreeMap<&'n str, Timeline<Terms>>,
}

/// The fine-tunes, and which of them a base model feeds.
#[derive(Default)]
struct FineTunes<'n> {
    priced: BTreeMap<String, FineTune>,
    fed: Vec<Fed<'n>>,
}
