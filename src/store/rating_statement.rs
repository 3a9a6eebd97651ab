//! Calling the rating statement, `sql/rate_chunk.sql` (S2): by a chunk, which writes, and by a
//! plan, which is told not to. What it returns is checked here, before anyone believes it. The
//! price of traffic is a plan, too, but of the events alone: what is held has no say in it.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use super::Error;
use super::counts::{counts, money};
use crate::domain::impact::{ModelTraffic, Traffic};
use crate::domain::money::Money;
use crate::domain::outcome::Counts;
use crate::domain::plan::{CostChange, HourHash};
use crate::domain::pricebook::{Pricebook, RateRow};
use crate::domain::window::{RateBasis, Trigger, Window};

/// How a chunk is rated.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// Prices, by this book.
    pub book: &'a Pricebook,
    /// Whether rollups that their rates don't explain are left alone: on a routine run.
    pub trigger: Trigger,
    /// Which rates billed rollups keep.
    pub basis: RateBasis,
}

/// In whose name changes are written.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    pub run_id: String,
    pub batch_id: Uuid,
    pub fence: i64,
}

/// What is wanted beside the counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    /// A hash of each hour's changes.
    pub hashes: bool,
    /// The changes by model and by customer, and the traffic by model.
    pub details: bool,
    /// What is held against what the events say.
    pub audit: bool,
}

/// What a chunk did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rated {
    /// Its counts.
    pub counts: Counts,
    /// What its deleted and shrunk rollups lose.
    pub lost_cost: Money,
    /// Of each hour's changes, oldest first; none where they were not wanted.
    pub hour_hashes: Vec<HourHash>,
    /// Changes by model, where they were wanted.
    pub by_model: Vec<CostChange>,
    /// Changes by customer.
    pub by_auth_id: Vec<CostChange>,
}

#[derive(Debug, serde::Deserialize)]
struct CostRow {
    /// One of the two: what it is grouped by.
    model: Option<String>,
    auth_id: Option<String>,
    previous: String,
    total: String,
    inserted: i64,
    updated: i64,
    deleted: i64,
}

#[derive(Debug, serde::Deserialize)]
struct TrafficRow {
    model: String,
    events: i64,
    unpriced_events: i64,
    base_models: Vec<String>,
}

/// The rates of one side of the pricebook, as the statement takes them: clipped to the chunk,
/// and empty where the pricebook names a model without a rate.
#[derive(Default)]
struct RateColumns {
    model: Vec<String>,
    from: Vec<DateTime<Utc>>,
    until: Vec<DateTime<Utc>>,
    prompt: Vec<String>,
    cached: Vec<String>,
    completion: Vec<String>,
}

impl RateColumns {
    fn new(rows: Vec<RateRow>, window: Window) -> RateColumns {
        let mut columns = RateColumns::default();
        for row in rows {
            columns.from.push(row.from.map_or(window.start, |from| from.max(window.start)));
            columns.until.push(row.until.map_or(window.end, |until| until.min(window.end)));
            columns.model.push(row.model);
            columns.prompt.push(row.rates.map(|r| r.prompt.to_string()).unwrap_or_default());
            columns.cached.push(row.rates.map(|r| r.cached.to_string()).unwrap_or_default());
            columns.completion.push(row.rates.map(|r| r.completion.to_string()).unwrap_or_default());
        }
        columns
    }
}

/// The row that the statement returns.
struct Row {
    events: i64,
    rated_events: i64,
    unpriced_events: i64,
    unattributable_events: i64,
    ambiguous_base_events: i64,
    malformed_events: i64,
    clamped_events: i64,
    inserted_rollups: i64,
    updated_rollups: i64,
    unchanged_rollups: i64,
    reconciled_deletions: i64,
    shrunk_rollups: i64,
    rate_drift_rollups: i64,
    unexplained_rollups: i64,
    previous_cost: String,
    total_cost: String,
    rows_inserted: i64,
    rows_updated: i64,
    rows_deleted: i64,
    changes_recorded: i64,
    lost_cost: String,
    highest_fence: Option<i64>,
    foreign_currency: Option<String>,
    hour_hashes: Option<Vec<Vec<u8>>>,
    cost_changes: Option<Json<Vec<CostRow>>>,
    traffic: Option<Json<Vec<TrafficRow>>>,
    audit: Option<String>,
}

impl Row {
    fn written(&self) -> [i64; 3] {
        [self.rows_inserted, self.rows_updated, self.rows_deleted]
    }

    fn planned(&self) -> [i64; 3] {
        [self.inserted_rollups, self.updated_rollups, self.reconciled_deletions]
    }

    /// What is asked not to write must not.
    fn check_unwritten(&self) -> Result<(), Error> {
        if self.written() != [0; 3] || self.changes_recorded != 0 {
            return Err(Error::Inconsistent("a plan wrote"));
        }
        Ok(())
    }
}

/// Rates the hours of a chunk; without a writer nothing is written. Refuses rows of another
/// currency (R13), and, with a writer, a table that a higher fence has written (R8).
pub(super) async fn execute(
    connection: &mut PgConnection,
    window: Window,
    rules: Rules<'_>,
    writer: Option<&Writer>,
    wanted: Wanted,
) -> Result<Rated, Error> {
    let row = ask(connection, window, rules, writer, wanted).await?;
    if let Some(currency) = row.foreign_currency {
        return Err(Error::ForeignCurrency(currency));
    }
    if let Some(writer) = writer {
        if row.highest_fence.is_some_and(|fence| fence > writer.fence) {
            return Err(Error::HigherFence);
        }
        if row.written() != row.planned() || row.written().iter().sum::<i64>() != row.changes_recorded {
            return Err(Error::Inconsistent("rated_usage was written by something else meanwhile"));
        }
    } else {
        row.check_unwritten()?;
    }
    let counts = conserved(counts!(row))?;
    let (by_model, by_auth_id) = cost_changes(row.cost_changes)?;
    Ok(Rated {
        counts,
        lost_cost: money(&row.lost_cost)?,
        hour_hashes: hour_hashes(row.hour_hashes.unwrap_or_default())?,
        by_model,
        by_auth_id,
    })
}

/// What the events of a chunk cost at a book, whatever is held: in which currency, at which
/// rates and by whom. Nothing is written.
pub(super) async fn traffic(
    connection: &mut PgConnection,
    window: Window,
    book: &Pricebook,
) -> Result<Traffic, Error> {
    // With these, no row that is held keeps its rates or its cost.
    let rules = Rules { book, trigger: Trigger::Backfill, basis: RateBasis::Pricebook };
    let wanted = Wanted { details: true, ..Wanted::default() };
    let mut row = ask(connection, window, rules, None, wanted).await?;
    row.check_unwritten()?;
    // The only money of held rows among the counts; adopted rows may hold any.
    row.previous_cost = Money::ZERO.to_string();
    let counts = conserved(counts!(row))?;
    Ok(Traffic { cost: counts.total_cost, models: models(row.traffic) })
}

/// What an audit finds in an hour: how much it read, and the rest for the audit's own tables.
pub(super) struct Audited {
    /// Events and rollups.
    pub rows: i64,
    /// JSON: `totals` and the first `rows` that do not agree.
    pub found: String,
}

/// Holds what is held of an hour against what its events say, at the rows' own rates, whatever
/// they are in. Nothing is written.
pub(super) async fn audit(
    connection: &mut PgConnection,
    hour: Window,
    book: &Pricebook,
) -> Result<Audited, Error> {
    let rules = Rules { book, trigger: Trigger::Backfill, basis: RateBasis::Frozen };
    let wanted = Wanted { audit: true, ..Wanted::default() };
    let mut row = ask(connection, hour, rules, None, wanted).await?;
    row.check_unwritten()?;
    // Adopted rows may hold any money; sums over them are not asked for here.
    for money in [&mut row.previous_cost, &mut row.total_cost] {
        *money = Money::ZERO.to_string();
    }
    let found = row.audit.take().ok_or(Error::Inconsistent("an audit said nothing"))?;
    let counts = conserved(counts!(row))?;
    let held = counts.updated_rollups + counts.unchanged_rollups + counts.reconciled_deletions;
    Ok(Audited { rows: counts.events + held, found })
}

async fn ask(
    connection: &mut PgConnection,
    window: Window,
    rules: Rules<'_>,
    writer: Option<&Writer>,
    wanted: Wanted,
) -> Result<Row, sqlx::Error> {
    let table = rules.book.rate_table(window.start, window.end);
    let direct = RateColumns::new(table.direct, window);
    let derived = RateColumns::new(table.derived, window);
    let hours: Vec<_> = window.hours().collect();
    sqlx::query_file_as!(
        Row,
        "src/store/sql/rate_chunk.sql",
        window.start,
        window.end,
        writer.map_or("", |writer| &writer.run_id),
        writer.map_or(Uuid::nil(), |writer| writer.batch_id),
        writer.map_or(0, |writer| writer.fence),
        rules.basis == RateBasis::Frozen,
        rules.trigger == Trigger::Routine,
        rules.book.currency(),
        rules.book.digest(),
        &direct.model,
        &direct.from,
        &direct.until,
        &direct.prompt,
        &direct.cached,
        &direct.completion,
        &derived.model,
        &derived.from,
        &derived.until,
        &derived.prompt,
        &derived.cached,
        &derived.completion,
        &hours,
        writer.is_some(),
        wanted.hashes,
        wanted.details,
        wanted.audit
    )
    .fetch_one(connection)
    .await
}

/// What the database gives as bytes is 32 of them.
pub(super) fn hour_hashes(hashes: Vec<Vec<u8>>) -> Result<Vec<HourHash>, Error> {
    let whole = |hash: Vec<u8>| hash.try_into().map_err(|_| Error::Inconsistent("an hour's hash is cut"));
    hashes.into_iter().map(whole).collect()
}

/// The changes by model, and by customer.
fn cost_changes(rows: Option<Json<Vec<CostRow>>>) -> Result<(Vec<CostChange>, Vec<CostChange>), Error> {
    let (mut by_model, mut by_auth_id) = (Vec::new(), Vec::new());
    for row in rows.map(|Json(rows)| rows).unwrap_or_default() {
        let of = if row.model.is_some() { &mut by_model } else { &mut by_auth_id };
        of.push(CostChange {
            previous_cost: money(&row.previous)?,
            total_cost: money(&row.total)?,
            name: row.model.or(row.auth_id).unwrap_or_default(),
            inserted_rollups: row.inserted,
            updated_rollups: row.updated,
            reconciled_deletions: row.deleted,
        });
    }
    Ok((by_model, by_auth_id))
}

/// R4, before anything is committed or believed.
fn conserved(counts: Counts) -> Result<Counts, Error> {
    match counts.conserved() {
        true => Ok(counts),
        false => Err(Error::Inconsistent("R4: events in and events accounted for differ")),
    }
}

fn models(rows: Option<Json<Vec<TrafficRow>>>) -> Vec<ModelTraffic> {
    let model = |row: TrafficRow| ModelTraffic {
        model_id: row.model,
        events: row.events,
        unpriced_events: row.unpriced_events,
        base_models: row.base_models,
    };
    rows.map(|Json(rows)| rows).unwrap_or_default().into_iter().map(model).collect()
}
