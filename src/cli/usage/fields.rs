//! What rows of usage, their totals and their changes have in tables and files.

use crate::cli::filter::GroupArg;
use crate::cli::rows::{Column, Rows, Shown};
use crate::cli::words::word;
use crate::domain::money::Money;
use crate::proto::{RatedUsage, RatedUsageChange, UsageSummary};

/// Rated usage.
pub fn rated_usage() -> Rows<RatedUsage> {
    Rows::new("rating.v1.RatedUsage", usage_columns())
}

fn usage_columns() -> Vec<Column<RatedUsage>> {
    vec![
        Column::time("window_start", |row: &RatedUsage| row.window_start),
        Column::text("auth_id", |row: &RatedUsage| &row.auth_id),
        Column::text("resource_id", |row: &RatedUsage| &row.resource_id),
        Column::text("model_id", |row: &RatedUsage| &row.model_id),
        Column::integer("event_count", |row: &RatedUsage| row.event_count).headed("events"),
        Column::integer("prompt_tokens", |row: &RatedUsage| row.prompt_tokens),
        Column::integer("cached_tokens", |row: &RatedUsage| row.cached_tokens),
        Column::integer("billable_prompt_tokens", |row: &RatedUsage| row.billable_prompt_tokens),
        Column::integer("completion_tokens", |row: &RatedUsage| row.completion_tokens),
        Column::decimal("applied_prompt_rate", |row: &RatedUsage| &row.applied_prompt_rate)
            .headed("prompt_rate"),
        Column::decimal("applied_cached_rate", |row: &RatedUsage| &row.applied_cached_rate)
            .headed("cached_rate"),
        Column::decimal("applied_completion_rate", |row: &RatedUsage| &row.applied_completion_rate)
            .headed("completion_rate"),
        Column::decimal("cost", |row: &RatedUsage| &row.cost),
        Column::text("currency_code", |row: &RatedUsage| &row.currency_code),
        Column::text("price_class", |row: &RatedUsage| &row.price_class).only(Shown::Csv),
        Column::time("window_end", |row: &RatedUsage| row.window_end).only(Shown::Csv),
        Column::text("pricebook_digest", |row: &RatedUsage| &row.pricebook_digest).only(Shown::Csv),
        Column::text("run_id", |row: &RatedUsage| &row.run_id).only(Shown::Csv),
        Column::time("rated_at", |row: &RatedUsage| row.rated_at).only(Shown::Csv),
        Column::text("id", |row: &RatedUsage| &row.id).only(Shown::Csv),
    ]
}

/// Totals, with the columns that they are grouped by, in the order that the service sorts by.
pub fn summaries(by: &[GroupArg]) -> Rows<UsageSummary> {
    let periods = [GroupArg::Hour, GroupArg::Day, GroupArg::Month];
    let dimensions = [
        (&[GroupArg::AuthId][..], Column::text("auth_id", |total: &UsageSummary| &total.auth_id)),
        (&[GroupArg::ResourceId], Column::text("resource_id", |total: &UsageSummary| &total.resource_id)),
        (&[GroupArg::ModelId], Column::text("model_id", |total: &UsageSummary| &total.model_id)),
        (&periods, Column::time("period_start", |total: &UsageSummary| total.period_start)),
    ];
    let grouped = dimensions.into_iter().filter(|(groups, _)| groups.iter().any(|group| by.contains(group)));
    let mut columns: Vec<Column<UsageSummary>> = grouped.map(|(_, column)| column).collect();
    columns.extend([
        Column::integer("event_count", |total: &UsageSummary| total.event_count).headed("events"),
        Column::integer("prompt_tokens", |total: &UsageSummary| total.prompt_tokens),
        Column::integer("cached_tokens", |total: &UsageSummary| total.cached_tokens),
        Column::integer("completion_tokens", |total: &UsageSummary| total.completion_tokens),
        Column::decimal("cost", |total: &UsageSummary| &total.cost),
        Column::text("currency_code", |total: &UsageSummary| &total.currency_code),
    ]);
    Rows::new("rating.v1.UsageSummary", columns)
}

/// What a change leaves as it is, in the order that it is shown in.
const OF_THE_ROW: [&str; 8] = [
    "window_start",
    "auth_id",
    "resource_id",
    "model_id",
    "price_class",
    "currency_code",
    "window_end",
    "id",
];
/// What a person wants to see of what changed.
const AT_A_GLANCE: [&str; 5] = ["event_count", "prompt_tokens", "cached_tokens", "completion_tokens", "cost"];

/// Changes: what happened, to which row, and each of its values before and after.
pub fn changes() -> Rows<RatedUsageChange> {
    let mut columns = vec![
        Column::text("change_id", |change: &RatedUsageChange| &change.change_id),
        Column::time("changed_at", |change: &RatedUsageChange| change.changed_at),
        Column::word("operation", |change| operation(change).into()),
        Column::word("trigger", |change: &RatedUsageChange| word(change.trigger().as_str_name(), "TRIGGER_")),
        Column::text("run_id", |change: &RatedUsageChange| &change.run_id),
    ];
    for name in OF_THE_ROW {
        let shown = if matches!(name, "window_end" | "id") { Shown::Csv } else { Shown::Table };
        columns.extend(usage_column(name).map(|column| column.within(name, row).only(shown)));
    }
    for name in usage_columns().iter().map(Column::name) {
        // A row's currency may have been unknown before; hardly anybody asks.
        if OF_THE_ROW.contains(&name) && name != "currency_code" {
            continue;
        }
        let (before, after) = match name {
            "currency_code" => (Shown::Parquet, Shown::Parquet),
            // The change's own says it.
            "run_id" => (Shown::Csv, Shown::Parquet),
            name if AT_A_GLANCE.contains(&name) => (Shown::Table, Shown::Table),
            _ => (Shown::Csv, Shown::Csv),
        };
        let previous = usage_column(name).map(|column| {
            let header = format!("previous_{}", column.header());
            let side =
                column.within(&format!("before_{name}"), |change: &RatedUsageChange| change.before.as_ref());
            side.headed(&header).only(before)
        });
        let current = usage_column(name).map(|column| {
            column
                .within(&format!("after_{name}"), |change: &RatedUsageChange| change.after.as_ref())
                .only(after)
        });
        columns.extend(previous.into_iter().chain(current));
        if name == "cost" {
            columns.push(Column::computed("cost_change", cost_change));
        }
    }
    Rows::new("rating.v1.RatedUsageChange", columns)
}

fn usage_column(name: &str) -> Option<Column<RatedUsage>> {
    usage_columns().into_iter().find(|column| column.name() == name)
}

fn operation(change: &RatedUsageChange) -> &'static str {
    match (&change.before, &change.after) {
        (None, _) => "insert",
        (Some(_), None) => "delete",
        (Some(_), Some(_)) => "update",
    }
}

/// The row as it is, or as it was before it was deleted.
fn row(change: &RatedUsageChange) -> Option<&RatedUsage> {
    change.after.as_ref().or(change.before.as_ref())
}

/// What the change adds to the bill. Nothing where a cost is unknown, or has more digits than are
/// reckoned with exactly; the costs themselves stand beside it.
fn cost_change(change: &RatedUsageChange) -> Option<String> {
    let cost = |row: &Option<RatedUsage>| match row {
        Some(row) => Money::parse(&row.cost).ok(),
        None => Some(Money::ZERO),
    };
    let difference = cost(&change.after)?.minus(cost(&change.before)?).ok()?;
    Some(difference.to_string())
}
