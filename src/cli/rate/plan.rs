//! What a dry run would change, in money, and how to apply it. Differences are exact (R1).

use std::path::Path;

use crate::cli::output::{printable, table};
use crate::cli::words::{time, word};
use crate::domain::money::{Money, MoneyError};
use crate::proto::{CostChange, RatingResult, Trigger};

const COLUMNS: [&str; 6] = ["previous_cost", "total_cost", "change", "inserted", "updated", "deleted"];

/// A table by model and one by customer, each after a blank line, in the service's order; none
/// where nothing changes.
pub fn tables(result: &RatingResult) -> String {
    let draw = |name: &'static str, changes: &[CostChange]| match changes {
        [] => String::new(),
        changes => {
            let headers: Vec<&str> = [name].into_iter().chain(COLUMNS).collect();
            let rows: Vec<Vec<String>> = changes.iter().map(row).collect();
            format!("\n{}\n", table(&headers, &rows))
        }
    };
    draw("model", &result.changes_by_model) + &draw("auth_id", &result.changes_by_auth_id)
}

fn row(change: &CostChange) -> Vec<String> {
    let name = match change.name.as_str() {
        "" => "(all others)",
        name => name,
    };
    vec![
        name.to_owned(),
        change.previous_cost.clone(),
        change.total_cost.clone(),
        // The two costs stand beside it.
        difference(&change.previous_cost, &change.total_cost).unwrap_or_else(|_| "?".into()),
        change.inserted_rollups.to_string(),
        change.updated_rollups.to_string(),
        change.reconciled_deletions.to_string(),
    ]
}

/// With its sign, unless it is nothing.
fn difference(previous: &str, total: &str) -> Result<String, MoneyError> {
    let difference = Money::parse(total)?.minus(Money::parse(previous)?)?;
    let sign = if difference > Money::ZERO { "+" } else { "" };
    Ok(format!("{sign}{difference}"))
}

/// What of the dry run's options the same run would need again.
#[derive(Debug)]
pub struct Apply<'a> {
    /// `--trigger` was given.
    pub trigger: bool,
    /// `--basis` was given.
    pub basis: bool,
    /// The pricebook that it would be rated with.
    pub candidate: Option<&'a Path>,
}

/// A line on how to apply the plan, after a blank one.
pub fn how(result: &RatingResult, apply: &Apply<'_>) -> String {
    let changes = result.inserted_rollups + result.updated_rollups + result.reconciled_deletions;
    if changes == 0 {
        return "\nnothing to apply: nothing would change\n".into();
    }
    if result.plan_hash.is_empty() {
        return String::new();
    }
    let when = match apply.candidate {
        Some(file) => format!(", once {} is the service's pricebook", file.display()),
        None => String::new(),
    };
    format!("\n{}\n", printable(&format!("to apply it{when}: {}", command(result, apply))))
}

/// The window is spelled out: by the time it is applied the last closed hour is another. A
/// window alone would make a routine run a backfill.
fn command(result: &RatingResult, apply: &Apply<'_>) -> String {
    let window = result.window.unwrap_or_default();
    let mut command = format!("rater rate --since {} --until {}", time(window.start), time(window.end));
    if apply.trigger || result.trigger() == Trigger::Routine {
        command += &format!(" --trigger {}", word(result.trigger().as_str_name(), "TRIGGER_"));
    }
    if apply.basis {
        command += &format!(" --basis {}", word(result.rate_basis().as_str_name(), "RATE_BASIS_"));
    }
    command + &format!(" --apply {}", result.plan_hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{RateBasis, Window};

    fn change(name: &str, previous: &str, total: &str) -> CostChange {
        CostChange {
            name: name.into(),
            previous_cost: previous.into(),
            total_cost: total.into(),
            inserted_rollups: 3,
            updated_rollups: 2,
            reconciled_deletions: 1,
        }
    }

    fn plan(trigger: Trigger) -> RatingResult {
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        RatingResult {
            window: Some(Window { start: at(0), end: at(7_200) }),
            trigger: trigger.into(),
            rate_basis: RateBasis::Frozen.into(),
            updated_rollups: 1,
            plan_hash: "abc".into(),
            ..RatingResult::default()
        }
    }

    #[test]
    fn a_plans_tables_keep_the_services_order_and_are_exact() {
        let large = "1234567890123456.000000000001";
        let result = RatingResult {
            changes_by_model: vec![
                change("m2", "1.5", "1.499999999999"),
                change("m1", "0", large),
                change("", "2", "2"),
            ],
            changes_by_auth_id: vec![change("acme", "-1", "0.25")],
            ..RatingResult::default()
        };
        let tables = tables(&result);
        let lines: Vec<Vec<&str>> = tables.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], [&["model"], &COLUMNS[..]].concat());
        assert_eq!(lines[2], ["m2", "1.5", "1.499999999999", "-0.000000000001", "3", "2", "1"]);
        assert_eq!(lines[3], ["m1", "0", large, &format!("+{large}"), "3", "2", "1"]);
        assert_eq!(lines[4], ["(all", "others)", "2", "2", "0", "3", "2", "1"]);
        assert_eq!(lines[6], [&["auth_id"], &COLUMNS[..]].concat());
        assert_eq!(lines[7], ["acme", "-1", "0.25", "+1.25", "3", "2", "1"]);
    }

    #[test]
    fn a_difference_that_cannot_be_exact_is_not_guessed() {
        assert_eq!(row(&change("m", "0.01", "7922816251426433759354395033"))[3], "?");
        assert_eq!(row(&change("m", "", "1"))[3], "?");
    }

    #[test]
    fn how_to_apply_it_names_the_window_and_what_a_window_alone_would_change() {
        let none = Apply { trigger: false, basis: false, candidate: None };
        let window = "--since 1970-01-01T00:00:00Z --until 1970-01-01T02:00:00Z";
        let backfill = format!("\nto apply it: rater rate {window} --apply abc\n");
        assert_eq!(how(&plan(Trigger::Backfill), &none), backfill);
        let routine = format!("\nto apply it: rater rate {window} --trigger routine --apply abc\n");
        assert_eq!(how(&plan(Trigger::Routine), &none), routine);
        let all = Apply { trigger: true, basis: true, candidate: Some(Path::new("new.yaml")) };
        let all = how(&plan(Trigger::Backfill), &all);
        assert!(all.starts_with("\nto apply it, once new.yaml is the service's pricebook: rater"), "{all}");
        assert!(all.ends_with(" --trigger backfill --basis frozen --apply abc\n"), "{all}");
        let unchanged = RatingResult { updated_rollups: 0, ..plan(Trigger::Backfill) };
        assert!(how(&unchanged, &none).contains("nothing to apply"));
    }
}
