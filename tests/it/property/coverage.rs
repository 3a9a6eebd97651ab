//! What the cases came across. Each of [`REQUIRED`] must occur: a generator that stops making
//! something would go on passing without testing it.

use std::collections::BTreeMap;
use std::fmt;

use rater::domain::money::{MAX_SCALE, Money, Rate};
use rater::domain::rating::{
    Anomaly, AnomalyKey, AnomalyKind, MAX_BASE_MODELS, Operation, Outcome, Rollup, Run, STANDARD, Settled,
};
use rater::domain::window::{RateBasis, Trigger};

use super::check::same_but_for_the_sample;
use super::table::Tables;

const REQUIRED: &[&str] = &[
    "run routine frozen",
    "run backfill frozen",
    "run backfill pricebook",
    "run refused for its currency",
    "run in chunks",
    "routine Insert",
    "routine Update",
    "routine Delete",
    "routine Unchanged",
    "routine Left",
    "backfill Insert",
    "backfill Update",
    "backfill Delete",
    "backfill Unchanged",
    "shrunk",
    "drifted, unchanged",
    "drifted, replaced",
    "left though produced",
    "left, nothing produced",
    "left, held by another class",
    "clamped",
    "anomaly unattributable",
    "anomaly malformed",
    "anomaly unpriced",
    "anomaly ambiguous_base",
    "anomaly gone",
    "anomaly unchanged",
    "anomaly unchanged, but for its sample",
    "anomaly changed in its events alone",
    "anomaly changed in its prompt tokens alone",
    "anomaly changed in its cached tokens alone",
    "anomaly changed in its completion tokens alone",
    "anomaly of several base models",
    "anomaly of both, ambiguous and unpriced",
    "anomaly of more base models than it names",
    "another class deleted",
    "kept rates replaced under the old digest",
    "same rates under the old digest",
    "repriced under the new digest",
    "digest filled in",
    "kept without a digest",
    "kept without billable tokens",
    "currency filled in",
    "explained by nothing, priced by a backfill",
    "too fine a rate, replaced",
    "negative cost, replaced",
];

/// Counts of what occurred.
#[derive(Debug, Default)]
pub struct Coverage(BTreeMap<String, u64>);

impl Coverage {
    pub fn hit(&mut self, what: &str) {
        *self.0.entry(what.to_owned()).or_default() += 1;
    }

    pub fn join(&mut self, other: Coverage) {
        for (what, count) in other.0 {
            *self.0.entry(what).or_default() += count;
        }
    }

    /// What must have occurred and did not, or hardly.
    pub fn missing(&self, at_least: u64) -> Vec<&'static str> {
        let seen = |what: &&&str| self.0.get(**what).is_none_or(|count| *count < at_least);
        REQUIRED.iter().filter(seen).copied().collect()
    }

    /// Takes note of a run.
    pub fn observe(&mut self, run: &Run<'_>, before: &Tables, outcome: &Outcome) {
        let (trigger, basis) = match (run.trigger, run.basis) {
            (Trigger::Routine, RateBasis::Frozen) => ("routine", "frozen"),
            (Trigger::Routine, RateBasis::Pricebook) => ("routine", "pricebook"),
            (Trigger::Backfill, RateBasis::Frozen) => ("backfill", "frozen"),
            (Trigger::Backfill, RateBasis::Pricebook) => ("backfill", "pricebook"),
        };
        self.hit(&format!("run {trigger} {basis}"));
        if outcome.foreign_currency.is_some() {
            return self.hit("run refused for its currency");
        }
        for (key, settled) in &outcome.rollups {
            self.hit(&format!("{trigger} {:?}", settled.operation));
            let ours = key.price_class == STANDARD;
            match settled.operation {
                Operation::Delete if !ours => self.hit("another class deleted"),
                Operation::Left if !ours => self.hit("left, held by another class"),
                _ => {}
            }
            self.settled(run, settled);
        }
        for _ in 0..outcome.counts.clamped_events {
            self.hit("clamped");
        }
        let left = outcome.rollups.values().filter(|settled| settled.operation == Operation::Left).count();
        let produced: i64 = outcome.rollups.values().filter_map(rated).sum();
        if left > 0 {
            let though = outcome.counts.rated_events > produced;
            self.hit(if though { "left though produced" } else { "left, nothing produced" });
        }
        self.anomalies(run, before, outcome);
    }

    fn settled(&mut self, run: &Run<'_>, settled: &Settled) {
        if settled.shrunk {
            self.hit("shrunk");
        }
        let (Some(before), Some(after)) = (&settled.before, &settled.after) else { return };
        let replaced = settled.operation == Operation::Update;
        if settled.drifted {
            self.hit(if replaced { "drifted, replaced" } else { "drifted, unchanged" });
        }
        if !replaced {
            return;
        }
        let digest = Some(run.book.digest());
        let same_rates = rates(before) == rates(after);
        let kept = before.digest == after.digest && after.digest.as_deref() != digest;
        match (&before.digest, &after.digest) {
            (None, Some(_)) => self.hit("digest filled in"),
            (_, None) => self.hit("kept without a digest"),
            _ if settled.drifted => self.hit("kept rates replaced under the old digest"),
            _ if kept && same_rates => self.hit("same rates under the old digest"),
            _ if !same_rates && after.digest.as_deref() == digest => {
                self.hit("repriced under the new digest")
            }
            _ => {}
        }
        if settled.drifted && before.billable_prompt_tokens.is_none() {
            self.hit("kept without billable tokens");
        }
        if before.currency.is_none() {
            self.hit("currency filled in");
        }
        if before.prompt_rate.is_some_and(|rate| rate.scale() > MAX_SCALE) {
            self.hit("too fine a rate, replaced");
        }
        if before.cost.is_some_and(|cost| cost < Money::ZERO) {
            self.hit("negative cost, replaced");
        }
        if before.cost.is_none() || rates(before).contains(&None) {
            self.hit("explained by nothing, priced by a backfill");
        }
    }

    fn anomalies(&mut self, run: &Run<'_>, before: &Tables, outcome: &Outcome) {
        for (key, anomaly) in &outcome.anomalies {
            self.hit(&format!("anomaly {}", key.kind.as_str()));
            if anomaly.base_models.len() > 1 {
                self.hit("anomaly of several base models");
            }
            if key.model_id == "ft:crowd" && anomaly.base_models.len() == MAX_BASE_MODELS {
                self.hit("anomaly of more base models than it names");
            }
            let unpriced = AnomalyKey { kind: AnomalyKind::Unpriced, ..key.clone() };
            if key.kind == AnomalyKind::AmbiguousBase && outcome.anomalies.contains_key(&unpriced) {
                self.hit("anomaly of both, ambiguous and unpriced");
            }
            match before.anomalies.get(key) {
                Some(held) if held.anomaly == *anomaly => self.hit("anomaly unchanged"),
                Some(held) if same_but_for_the_sample(&held.anomaly, anomaly) => {
                    self.hit("anomaly unchanged, but for its sample");
                }
                Some(held) => {
                    if let Some(what) = only_difference(&held.anomaly, anomaly) {
                        self.hit(&format!("anomaly changed in its {what} alone"));
                    }
                }
                None => {}
            }
        }
        let inside =
            |key: &AnomalyKey| run.window.start <= key.window_start && key.window_start < run.window.end;
        let gone = |key: &&AnomalyKey| inside(key) && !outcome.anomalies.contains_key(*key);
        if before.anomalies.keys().any(|key| gone(&key)) {
            self.hit("anomaly gone");
        }
    }
}

/// What alone two anomalies differ in, beside their samples.
fn only_difference(one: &Anomaly, other: &Anomaly) -> Option<&'static str> {
    let differences = [
        ("base models", one.base_models != other.base_models),
        ("events", one.events != other.events),
        ("prompt tokens", one.prompt_tokens != other.prompt_tokens),
        ("cached tokens", one.cached_tokens != other.cached_tokens),
        ("completion tokens", one.completion_tokens != other.completion_tokens),
    ];
    let mut differing = differences.iter().filter(|(_, differ)| *differ);
    differing.next().filter(|_| differing.next().is_none()).map(|(what, _)| *what)
}

/// The events of a rollup that the run wrote or would have written the same.
fn rated(settled: &Settled) -> Option<i64> {
    (settled.operation != Operation::Left).then_some(settled.after.as_ref()?.event_count).flatten()
}

fn rates(rollup: &Rollup) -> [Option<Rate>; 3] {
    [rollup.prompt_rate, rollup.cached_rate, rollup.completion_rate]
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(what, count)| writeln!(f, "{count:>8}  {what}"))
    }
}
