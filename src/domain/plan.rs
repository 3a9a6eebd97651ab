//! What a run would do: its changes under one hash, and in money by model and by customer.
//!
//! The hash is the SHA-256 of the format's name, the window, the basis, the pricebook's digest
//! and a hash an hour. An hour's hash covers its changes in key order: operation, key, tokens,
//! event count, rates, cost and currency, before and after. Run, fence, time and the size of
//! chunks have no part in it. The rating statement hashes its hours itself (`hashed` in
//! `rate_chunk.sql`); [`hour_hash`] is the same in plain Rust, for the tests to hold it against.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use chrono::SecondsFormat;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::money::{Money, MoneyError};
use super::rating::{Operation, Rollup, RollupKey, Settled};
use super::window::{RateBasis, Window};

/// Named in every hash: a change of the format is a change of every plan.
const FORMAT: &str = "rater plan 1";

/// The most names that a breakdown keeps apart; what comes later is added to all others.
const MAX_NAMES: usize = 200_000;

/// The SHA-256 of one hour's changes; of nothing, where there are none.
pub type HourHash = [u8; 32];

/// The hash of a plan, in lowercase hex; `hours` has one for each hour of the window, oldest first.
pub fn plan_hash(window: Window, basis: RateBasis, pricebook_digest: &str, hours: &[HourHash]) -> String {
    debug_assert_eq!(hours.len() as i64, window.hour_count(), "a hash an hour");
    let time = |time: chrono::DateTime<chrono::Utc>| time.to_rfc3339_opts(SecondsFormat::Secs, true);
    let head = [FORMAT, &time(window.start), &time(window.end), basis.as_str(), pricebook_digest];
    let mut hash = Sha256::new();
    for line in head {
        hash.update(line);
        hash.update("\n");
    }
    for hour in hours {
        hash.update(hour);
    }
    hex::encode(hash.finalize())
}

/// The hash of an hour's changes, which come in key order; what does not change has no part.
pub fn hour_hash<'a>(changes: impl IntoIterator<Item = (&'a RollupKey, &'a Settled)>) -> HourHash {
    let mut hour = Sha256::new();
    for (key, settled) in changes {
        let operation = match settled.operation {
            Operation::Insert => "insert",
            Operation::Update => "update",
            Operation::Delete => "delete",
            Operation::Unchanged | Operation::Left => continue,
        };
        let change = json!([
            operation,
            key.window_start.timestamp_micros(),
            key.auth_id,
            key.resource_id,
            key.model_id,
            key.price_class,
            settled.before.as_ref().map(state),
            settled.after.as_ref().map(state),
        ]);
        hour.update(Sha256::digest(written(&change)));
    }
    hour.finalize().into()
}

fn state(row: &Rollup) -> Value {
    let text = |value: Option<String>| value.map_or(Value::Null, Value::String);
    json!([
        row.prompt_tokens,
        row.cached_tokens,
        row.completion_tokens,
        row.billable_prompt_tokens,
        row.event_count,
        text(row.prompt_rate.map(|rate| rate.to_string())),
        text(row.cached_rate.map(|rate| rate.to_string())),
        text(row.completion_rate.map(|rate| rate.to_string())),
        text(row.cost.map(|cost| cost.to_string())),
        row.currency,
    ])
}

/// As PostgreSQL writes an array: with a blank after each comma.
fn written(value: &Value) -> String {
    match value {
        Value::Array(values) => {
            let values: Vec<String> = values.iter().map(written).collect();
            format!("[{}]", values.join(", "))
        }
        other => other.to_string(),
    }
}

/// What a plan changes for one name, and what that comes to. Only of rollups that change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CostChange {
    /// The model or the customer; empty for all others together.
    pub name: String,
    /// Their cost before.
    pub previous_cost: Money,
    /// Their cost after.
    pub total_cost: Money,
    /// New rollups.
    pub inserted_rollups: i64,
    /// Changed rollups.
    pub updated_rollups: i64,
    /// Deleted rollups.
    pub reconciled_deletions: i64,
}

impl CostChange {
    fn add(&mut self, other: &CostChange) -> Result<(), MoneyError> {
        self.previous_cost = self.previous_cost.plus(other.previous_cost)?;
        self.total_cost = self.total_cost.plus(other.total_cost)?;
        self.inserted_rollups += other.inserted_rollups;
        self.updated_rollups += other.updated_rollups;
        self.reconciled_deletions += other.reconciled_deletions;
        Ok(())
    }

    /// How much money moves, whichever way.
    fn size(&self) -> Result<Money, MoneyError> {
        Ok(self.total_cost.minus(self.previous_cost)?.abs())
    }
}

/// Changes by name, gathered chunk by chunk, in bounded memory.
#[derive(Debug, Clone, Default)]
pub struct Breakdown {
    names: BTreeMap<String, CostChange>,
    others: Option<CostChange>,
}

impl Breakdown {
    /// Adds a chunk's changes.
    pub fn add(&mut self, changes: Vec<CostChange>) -> Result<(), MoneyError> {
        for change in changes {
            let room = self.names.len() < MAX_NAMES || self.names.contains_key(&change.name);
            let sum = match room {
                true => self.names.entry(change.name.clone()).or_default(),
                false => self.others.get_or_insert_default(),
            };
            sum.add(&change)?;
        }
        Ok(())
    }

    /// The `limit` largest changes, the largest first, and the rest of them in one without a name.
    pub fn largest(self, limit: usize) -> Result<Vec<CostChange>, MoneyError> {
        let Breakdown { names, mut others } = self;
        let mut sized = Vec::with_capacity(names.len());
        for (name, change) in names {
            let change = CostChange { name, ..change };
            sized.push((change.size()?, change));
        }
        sized.sort_by(|(size, a), (other, b)| (Reverse(size), &a.name).cmp(&(Reverse(other), &b.name)));
        for (_, left_over) in sized.drain(limit.min(sized.len())..) {
            others.get_or_insert_default().add(&left_over)?;
        }
        Ok(sized.into_iter().map(|(_, change)| change).chain(others).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(name: &str, previous: &str, total: &str) -> CostChange {
        let money = |text| Money::parse(text).expect("money");
        CostChange {
            name: name.into(),
            previous_cost: money(previous),
            total_cost: money(total),
            inserted_rollups: 1,
            ..CostChange::default()
        }
    }

    #[test]
    fn the_dearest_change_comes_first_and_the_rest_is_one_line() {
        let mut all = Breakdown::default();
        all.add(vec![change("a", "1", "2"), change("b", "9", "4"), change("c", "0", "0.5")]).expect("fits");
        all.add(vec![change("c", "0", "0.5"), change("d", "7", "7")]).expect("fits");
        let largest = all.largest(2).expect("fits");
        let names: Vec<&str> = largest.iter().map(|change| change.name.as_str()).collect();
        assert_eq!(names, ["b", "a", ""]);
        assert_eq!(largest[2].total_cost.to_string(), "8");
        assert_eq!(largest[2].inserted_rollups, 3);
    }

    #[test]
    fn a_plans_hash_depends_on_everything_that_it_covers() {
        let at = |hour: &str| hour.parse::<chrono::DateTime<chrono::Utc>>().expect("a time");
        let window = Window { start: at("2026-06-01T00:00:00Z"), end: at("2026-06-01T02:00:00Z") };
        let later = Window { start: at("2026-06-01T01:00:00Z"), end: at("2026-06-01T03:00:00Z") };
        let hours = [[1; 32], [2; 32]];
        let hashes = [
            plan_hash(window, RateBasis::Pricebook, "d", &hours),
            plan_hash(later, RateBasis::Pricebook, "d", &hours),
            plan_hash(window, RateBasis::Frozen, "d", &hours),
            plan_hash(window, RateBasis::Pricebook, "e", &hours),
            plan_hash(window, RateBasis::Pricebook, "d", &[[2; 32], [1; 32]]),
        ];
        let distinct: std::collections::BTreeSet<&String> = hashes.iter().collect();
        assert_eq!(distinct.len(), hashes.len());
        assert!(hashes.iter().all(|hash| hash.len() == 64));
    }

    #[test]
    fn changes_are_written_as_the_database_writes_them() {
        let value = json!(["a\"\\\u{1}é", 1, null, [true]]);
        assert_eq!(written(&value), "[\"a\\\"\\\\\\u0001é\", 1, null, [true]]");
    }
}
