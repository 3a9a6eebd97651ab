//! What a run left behind, held against the oracle's outcome: every row and every change
//! record, to the last column, and the row versions of all that must not have been written.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use chrono::{DateTime, TimeDelta, Utc};
use rater::domain::money::Money;
use rater::domain::plan::hour_hash;
use rater::domain::rating::{Anomaly, AnomalyKey, Operation, Outcome, Rollup, RollupKey, Run};
use uuid::Uuid;

use super::statement::Report;
use super::table::{Change, StoredAnomaly, StoredRollup, Tables};

/// A run as it looks from outside.
pub struct Observed<'a> {
    pub run: &'a Run<'a>,
    pub run_id: &'a str,
    pub fence: i64,
    pub before: &'a Tables,
    pub after: &'a Tables,
    pub report: &'a Report,
    pub changes: &'a [(Uuid, i64, Change)],
    /// The ids that new rollups must get.
    pub ids: &'a BTreeMap<RollupKey, String>,
}

/// Says what is not as it must be.
pub fn check(observed: &Observed<'_>, outcome: &Outcome) -> Result<(), String> {
    let Observed { before, after, report, .. } = observed;
    same("foreign currency", &outcome.foreign_currency, &report.foreign_currency)?;
    let held = before.rollups.iter().filter(|(key, _)| inside(observed, key.window_start));
    same("highest fence", &held.filter_map(|(_, row)| row.fence).max(), &report.highest_fence)?;
    same("counts", &outcome.counts, &report.counts)?;
    if !outcome.counts.conserved() {
        return Err(format!("events are not conserved: {:?}", outcome.counts));
    }
    let counts = &outcome.counts;
    let (inserted, updated) = (counts.inserted_rollups, counts.updated_rollups);
    let deleted = counts.reconciled_deletions;
    let written = [inserted, updated, deleted, inserted + updated + deleted];
    same("rows written", &written, &report.written)?;
    check_plan(report, observed.run, outcome)?;
    if outcome.foreign_currency.is_some() {
        return same("tables of a refused run", *before, *after);
    }
    same_rows("rated_usage", &expected_rollups(observed, outcome)?, &after.rollups)?;
    same_rows("rating_anomaly", &expected_anomalies(observed, outcome)?, &after.anomalies)?;
    let expected = expected_changes(observed, outcome);
    for place in 0..expected.len().max(observed.changes.len()) {
        let found = observed.changes.get(place).map(|(_, _, change)| change);
        same(&format!("change records, number {place}"), &expected.get(place), &found)?;
    }
    let mut ordinals: BTreeMap<Uuid, Vec<i64>> = BTreeMap::new();
    for (batch, ordinal, _) in observed.changes {
        ordinals.entry(*batch).or_default().push(*ordinal);
    }
    for ordinals in ordinals.values() {
        same("ordinals of a batch", &(1..=ordinals.len() as i64).collect(), ordinals)?;
    }
    Ok(())
}

/// What was planned is what was done, to the hash; and planning left no trace.
fn check_plan(report: &Report, run: &Run<'_>, outcome: &Outcome) -> Result<(), String> {
    let plan = &report.plan;
    same("rows that a plan wrote", &([0; 4], false), &(plan.written, plan.left_a_trace))?;
    same("counts of the plan", &outcome.counts, &plan.counts)?;
    let mut lost = Money::ZERO;
    for settled in outcome.rollups.values() {
        let (before, after) = (cost(&settled.before), cost(&settled.after));
        if settled.operation == Operation::Delete || settled.shrunk && after < before {
            lost = lost.plus(before.minus(after).unwrap()).unwrap();
        }
    }
    same("lost cost", &[lost; 2], &[report.lost_cost, plan.lost_cost])?;
    let hash = |hour: DateTime<Utc>| {
        let end = hour + TimeDelta::hours(1);
        hour_hash(
            outcome.rollups.iter().filter(|(key, _)| hour <= key.window_start && key.window_start < end),
        )
        .to_vec()
    };
    let hashes: Vec<Vec<u8>> = run.window.hours().map(hash).collect();
    same("hashes of the plan", &hashes, &plan.hour_hashes)?;
    same("hashes of the run", &hashes, &report.hour_hashes)?;
    let names: [fn(&RollupKey) -> String; 2] = [|key| key.model_id.clone(), |key| key.auth_id.clone()];
    for (of, found) in names.iter().zip(&plan.by_name) {
        same("changes by name", &by_name(outcome, of), found)?;
    }
    Ok(())
}

fn cost(row: &Option<Rollup>) -> Money {
    row.as_ref().and_then(|row| row.cost).unwrap_or(Money::ZERO)
}

fn by_name(outcome: &Outcome, of: &fn(&RollupKey) -> String) -> Vec<(String, Money, Money, i64)> {
    let mut sums: BTreeMap<String, (Money, Money, i64)> = BTreeMap::new();
    for (key, settled) in &outcome.rollups {
        if !matches!(settled.operation, Operation::Unchanged | Operation::Left) {
            let (before, after, rollups) = sums.entry(of(key)).or_default();
            *before = before.plus(cost(&settled.before)).unwrap();
            *after = after.plus(cost(&settled.after)).unwrap();
            *rollups += 1;
        }
    }
    sums.into_iter().map(|(name, (before, after, rollups))| (name, before, after, rollups)).collect()
}

fn inside(observed: &Observed<'_>, hour: DateTime<Utc>) -> bool {
    observed.run.window.start <= hour && hour < observed.run.window.end
}

fn expected_rollups(
    observed: &Observed<'_>,
    outcome: &Outcome,
) -> Result<BTreeMap<RollupKey, StoredRollup>, String> {
    let mut expected = observed.before.rollups.clone();
    for (key, settled) in &outcome.rollups {
        let id = match settled.operation {
            Operation::Unchanged | Operation::Left => continue,
            Operation::Insert => observed.ids[key].clone(),
            Operation::Update | Operation::Delete => observed.before.rollups[key].id.clone(),
        };
        let Some(rollup) = settled.after.clone() else {
            expected.remove(key);
            continue;
        };
        let version = new_version(
            observed.before.rollups.get(key).map(|row| &row.version),
            observed.after.rollups.get(key).map(|row| &row.version),
        )
        .ok_or_else(|| format!("{:?} of {key:?} wrote no row", settled.operation))?;
        let row = StoredRollup {
            rollup,
            id,
            window_end: Some(key.window_start + TimeDelta::hours(1)),
            run_id: Some(observed.run_id.to_owned()),
            fence: Some(observed.fence),
            rated_at: Some(observed.report.now),
            version,
        };
        expected.insert(key.clone(), row);
    }
    Ok(expected)
}

/// Replaced by difference, like rollups. A sample is an example: it alone makes no difference.
fn expected_anomalies(
    observed: &Observed<'_>,
    outcome: &Outcome,
) -> Result<BTreeMap<AnomalyKey, StoredAnomaly>, String> {
    let before = &observed.before.anomalies;
    let outside = before.iter().filter(|(key, _)| !inside(observed, key.window_start));
    let mut expected: BTreeMap<_, _> = outside.map(|(key, row)| (key.clone(), row.clone())).collect();
    for (key, anomaly) in &outcome.anomalies {
        let held = before.get(key);
        let row = match held.filter(|row| same_but_for_the_sample(&row.anomaly, anomaly)) {
            Some(row) => row.clone(),
            None => StoredAnomaly {
                anomaly: anomaly.clone(),
                run_id: observed.run_id.to_owned(),
                version: new_version(
                    held.map(|row| &row.version),
                    observed.after.anomalies.get(key).map(|row| &row.version),
                )
                .ok_or_else(|| format!("anomaly {key:?} wrote no row"))?,
            },
        };
        expected.insert(key.clone(), row);
    }
    Ok(expected)
}

pub fn same_but_for_the_sample(one: &Anomaly, other: &Anomaly) -> bool {
    Anomaly { sample_request_id: other.sample_request_id.clone(), ..one.clone() } == *other
}

/// The version of a row that must have been written.
fn new_version(before: Option<&String>, after: Option<&String>) -> Option<String> {
    after.filter(|after| before != Some(after)).cloned()
}

fn expected_changes(observed: &Observed<'_>, outcome: &Outcome) -> Vec<Change> {
    let change = |(key, settled): (&RollupKey, &rater::domain::rating::Settled)| {
        let operation = match settled.operation {
            Operation::Unchanged | Operation::Left => return None,
            Operation::Insert => "insert",
            Operation::Update => "update",
            Operation::Delete => "delete",
        };
        let held = observed.before.rollups.get(key);
        let side = |rollup: &Option<Rollup>| rollup.clone().unwrap_or_default();
        Some(Change {
            operation: operation.to_owned(),
            run_id: observed.run_id.to_owned(),
            id: held.map(|row| row.id.clone()).or_else(|| observed.ids.get(key).cloned()),
            key: key.clone(),
            before: side(&settled.before),
            before_window_end: held.and_then(|row| row.window_end),
            before_run_id: held.and_then(|row| row.run_id.clone()),
            before_rated_at: held.and_then(|row| row.rated_at),
            after: side(&settled.after),
            after_rated_at: settled.after.is_some().then_some(observed.report.now),
        })
    };
    outcome.rollups.iter().filter_map(change).collect()
}

fn same<T: PartialEq + Debug>(what: &str, expected: &T, found: &T) -> Result<(), String> {
    if expected == found {
        return Ok(());
    }
    Err(format!("{what} differ\nexpected {expected:#?}\nfound {found:#?}"))
}

fn same_rows<K: Ord + Debug, V: PartialEq + Debug>(
    what: &str,
    expected: &BTreeMap<K, V>,
    found: &BTreeMap<K, V>,
) -> Result<(), String> {
    let keys: BTreeSet<&K> = expected.keys().chain(found.keys()).collect();
    for key in keys {
        same(&format!("{what}, {key:?}"), &expected.get(key), &found.get(key))?;
    }
    Ok(())
}
