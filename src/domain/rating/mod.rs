//! The formula once more, in plain Rust: what a run makes of a window. It is the oracle that
//! property tests hold the rating statement against, so it is written from the rules, event by
//! event, and prefers what is plainly right to what is fast. Nothing is billed by it.
//!
//! The flow: `classify` says of each event whether it can be billed (R3) and gathers those that
//! can into rollups (R2); `reconcile` sets each rollup against the row that is held (R5, R6,
//! R10); [`rate`] puts both together and counts (R4, R9). `anomaly` describes what is withheld.

mod anomaly;
mod classify;
mod reconcile;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};

use crate::domain::money::{Money, MoneyError, Rate};
use crate::domain::outcome::Counts;
use crate::domain::pricebook::Pricebook;
use crate::domain::window::{RateBasis, Trigger, Window};
pub use anomaly::{Anomaly, AnomalyKey, AnomalyKind, MAX_BASE_MODELS};
use classify::Produced;
pub use reconcile::{Operation, Settled};

/// The price class of everything that is rated by tokens alone.
pub const STANDARD: &str = "standard";

/// A metered request, as `billing_event` has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its identity among events.
    pub request_id: String,
    /// Who is billed.
    pub auth_id: Option<String>,
    /// What it ran on.
    pub resource_id: Option<String>,
    /// The price key.
    pub model: Option<String>,
    /// What a fine-tune was made from.
    pub base_model: Option<String>,
    /// Tokens of the prompt, the cached ones included. An adopted table may hold NULL.
    pub prompt_tokens: Option<i32>,
    /// The part of the prompt that was served from cache.
    pub cached_tokens: Option<i32>,
    /// Tokens of the answer.
    pub completion_tokens: Option<i32>,
    /// The rating instant.
    pub at: DateTime<Utc>,
}

/// The natural key of a rollup, in the order in which rollups are written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RollupKey {
    /// Its UTC hour (R14).
    pub window_start: DateTime<Utc>,
    /// Who is billed.
    pub auth_id: String,
    /// What it ran on.
    pub resource_id: String,
    /// The price key.
    pub model_id: String,
    /// [`STANDARD`], in all that this produces.
    pub price_class: String,
}

/// What `rated_usage` holds for a key. `None` is NULL: only an adopted row lacks anything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rollup {
    /// Tokens of the prompts, the cached ones included.
    pub prompt_tokens: Option<i64>,
    /// Cached tokens, as reported.
    pub cached_tokens: Option<i64>,
    /// Tokens of the answers.
    pub completion_tokens: Option<i64>,
    /// Tokens billed at the prompt rate: what is left of each event's prompt (R2).
    pub billable_prompt_tokens: Option<i64>,
    /// How many events it is made of.
    pub event_count: Option<i64>,
    /// What is billed.
    pub cost: Option<Money>,
    /// The applied rate of a billable prompt token.
    pub prompt_rate: Option<Rate>,
    /// The applied rate of a cached token.
    pub cached_rate: Option<Rate>,
    /// The applied rate of a completion token.
    pub completion_rate: Option<Rate>,
    /// The currency of the rates and the cost.
    pub currency: Option<String>,
    /// The pricebook that the rates came from.
    pub digest: Option<String>,
}

/// What a run is asked to do.
#[derive(Debug, Clone, Copy)]
pub struct Run<'b> {
    /// The hours to rate.
    pub window: Window,
    /// Who wants it.
    pub trigger: Trigger,
    /// What billed rollups are rated at.
    pub basis: RateBasis,
    /// What the others are rated at.
    pub book: &'b Pricebook,
}

/// What a run makes of its window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Every rollup that is held or produced.
    pub rollups: BTreeMap<RollupKey, Settled>,
    /// What could not be billed.
    pub anomalies: BTreeMap<AnomalyKey, Anomaly>,
    /// The counts of both.
    pub counts: Counts,
    /// The first of the currencies that are held beside the pricebook's: the run is refused (R13).
    pub foreign_currency: Option<String>,
}

impl Run<'_> {
    fn covers(&self, instant: DateTime<Utc>) -> bool {
        self.window.start <= instant && instant < self.window.end
    }
}

/// The UTC hour that an instant lies in (R14).
pub fn hour_of(instant: DateTime<Utc>) -> DateTime<Utc> {
    let into = TimeDelta::seconds(instant.timestamp().rem_euclid(3600))
        + TimeDelta::nanoseconds(i64::from(instant.timestamp_subsec_nanos()));
    instant - into
}

/// Rates a window: what becomes of every rollup, held or new. Events and rows outside of the
/// window are not looked at (R5). An amount that can't be kept exactly is refused (R1).
pub fn rate(
    run: &Run<'_>,
    events: &[Event],
    held: &BTreeMap<RollupKey, Rollup>,
) -> Result<Outcome, MoneyError> {
    let events: Vec<&Event> = events.iter().filter(|event| run.covers(event.at)).collect();
    let classified = classify::classify(run.book, &events);
    let held: BTreeMap<&RollupKey, &Rollup> =
        held.iter().filter(|(key, _)| run.covers(key.window_start)).collect();
    let mut rollups = BTreeMap::new();
    for (key, produced) in &classified.produced {
        let settled = reconcile::settle(run, Some(produced), held.get(key).copied())?;
        rollups.insert(key.clone(), settled);
    }
    for (key, row) in &held {
        if !classified.produced.contains_key(*key) {
            rollups.insert((*key).clone(), reconcile::settle(run, None, Some(row))?);
        }
    }
    let mut counts = Counts { events: events.len() as i64, ..Counts::default() };
    count_events(&mut counts, &classified.produced, &classified.anomalies);
    for settled in rollups.values() {
        count_rollup(&mut counts, settled)?;
    }
    let foreign = |row: &&&Rollup| row.currency.as_deref().is_some_and(|held| held != run.book.currency());
    let foreign_currency = held.values().filter(foreign).filter_map(|row| row.currency.clone()).min();
    Ok(Outcome { rollups, anomalies: classified.anomalies, counts, foreign_currency })
}

fn count_events(
    counts: &mut Counts,
    produced: &BTreeMap<RollupKey, Produced>,
    anomalies: &BTreeMap<AnomalyKey, Anomaly>,
) {
    for rollup in produced.values() {
        counts.rated_events += rollup.event_count;
        counts.clamped_events += rollup.clamped_events;
    }
    for (key, anomaly) in anomalies {
        *match key.kind {
            AnomalyKind::Unattributable => &mut counts.unattributable_events,
            AnomalyKind::Malformed => &mut counts.malformed_events,
            AnomalyKind::Unpriced => &mut counts.unpriced_events,
            AnomalyKind::AmbiguousBase => &mut counts.ambiguous_base_events,
        } += anomaly.events;
    }
}

fn count_rollup(counts: &mut Counts, settled: &Settled) -> Result<(), MoneyError> {
    *match settled.operation {
        Operation::Insert => &mut counts.inserted_rollups,
        Operation::Update => &mut counts.updated_rollups,
        Operation::Delete => &mut counts.reconciled_deletions,
        Operation::Unchanged | Operation::Left => &mut counts.unchanged_rollups,
    } += 1;
    counts.unexplained_rollups += i64::from(settled.operation == Operation::Left);
    counts.shrunk_rollups += i64::from(settled.shrunk);
    counts.rate_drift_rollups += i64::from(settled.drifted);
    let cost = |row: &Option<Rollup>| row.as_ref().and_then(|row| row.cost).unwrap_or(Money::ZERO);
    counts.previous_cost = counts.previous_cost.plus(cost(&settled.before))?;
    counts.total_cost = counts.total_cost.plus(cost(&settled.after))?;
    Ok(())
}
