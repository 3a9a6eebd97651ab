//! The ledger's tables, and every way in which they change: one transaction a step.
//!
//! Each step writes what it got *and* where to go on after it, or nothing. A process that is
//! killed, wherever, leaves the ledger after one step and before the next, and goes on from there:
//! what it had received and not committed comes again. A step begins by moving the `consumer` row
//! from the version that it knows, so that of two processes, or of one and the transaction of its
//! killed predecessor that the server is still busy with, only one takes it.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use rater::proto::{GetRatedUsageResponse, RatedUsageChange, StreamRatedUsageChangesResponse};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, Postgres, Transaction};
use uuid::Uuid;

use crate::line::{KEY, Key, Line, Rollup, lines};
use crate::trouble::Trouble;

/// Differences of a new first copy that are held in memory at a time.
const SETTLE_ROWS: usize = 5_000;

/// Where the consumer stands.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Place {
    pub version: i64,
    pub since: Option<DateTime<Utc>>,
    pub phase: String,
    pub copy_number: i64,
    pub page_token: String,
    pub cursor: String,
}

/// A rollup that changes: the id of its line, what the ledger holds, and what it is now.
struct Step {
    line_id: String,
    held: Option<Rollup>,
    now: Option<Rollup>,
}

pub struct Ledger {
    pool: PgPool,
}

impl Ledger {
    /// Connects, and makes the tables where they are not there: only then, since that waits for
    /// whoever writes to them.
    pub async fn open(url: &str) -> Result<Ledger, Trouble> {
        let wrong = |_| Trouble::Stop("--ledger-url: write postgres://USER@HOST/NAME".into());
        let options: PgConnectOptions = url.parse().map_err(wrong)?;
        // Not through the pool, which would try for a while and not say why.
        let mut connection = PgConnection::connect_with(&options).await?;
        let there = sqlx::query_scalar("SELECT to_regclass('ledger_line') IS NOT NULL");
        if !there.fetch_one(&mut connection).await? {
            sqlx::raw_sql(include_str!("schema.sql")).execute(&mut connection).await?;
        }
        connection.close().await?;
        let pool = PgPoolOptions::new().max_connections(2).acquire_timeout(Duration::from_secs(10));
        Ok(Ledger { pool: pool.connect_lazy_with(options) })
    }

    /// For commands that read.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Begins the ledger, or goes on with it.
    pub async fn begin(&self, since: Option<DateTime<Utc>>) -> Result<Place, Trouble> {
        let insert = "INSERT INTO consumer (since) VALUES ($1) ON CONFLICT DO NOTHING";
        sqlx::query(insert).bind(since).execute(&self.pool).await?;
        let place = self.place().await?;
        if place.since == since {
            return Ok(place);
        }
        let begun = place.since.map_or("none".into(), |since| since.to_rfc3339());
        Err(Trouble::Stop(format!("this ledger was begun with another --since ({begun}); keep to it")))
    }

    /// Where it stands, whoever moved it.
    pub async fn place(&self) -> Result<Place, Trouble> {
        let sql = "SELECT version, since, phase, copy_number, page_token, cursor FROM consumer";
        Ok(sqlx::query_as(sql).fetch_one(&self.pool).await?)
    }

    /// A page of the first copy. The first page's cursor is the one to keep: every later change is
    /// in the feed after it.
    pub async fn copy_page(&self, place: &Place, page: GetRatedUsageResponse) -> Result<Place, Trouble> {
        let first = place.page_token.is_empty();
        let last = page.next_page_token.is_empty();
        let mut next = place.clone();
        next.phase = if last { "catching up" } else { "copying" }.into();
        next.cursor = if first { page.change_cursor } else { next.cursor };
        next.page_token = page.next_page_token;
        let rows = page.rated_usage.into_iter().map(Rollup::try_from).collect::<Result<Vec<_>, _>>()?;
        let mut transaction = self.step(place, &mut next).await?;
        if first {
            sqlx::query("TRUNCATE rollup_copy").execute(&mut *transaction).await?;
        }
        put(&mut transaction, "rollup_copy", rows).await?;
        transaction.commit().await?;
        Ok(next)
    }

    /// Changes that the pages may or may not hold already: applied to the copy by state, which is
    /// right either way.
    pub async fn catch_up(
        &self,
        place: &Place,
        message: StreamRatedUsageChangesResponse,
    ) -> Result<Place, Trouble> {
        let mut next = Place { cursor: message.cursor, ..place.clone() };
        let mut states = HashMap::new();
        for change in message.changes {
            let (_, key, now) = read(change)?;
            states.insert(key, now);
        }
        let mut transaction = self.step(place, &mut next).await?;
        bring_to(&mut transaction, "rollup_copy", states).await?;
        transaction.commit().await?;
        Ok(next)
    }

    /// The copy is whole: in one step the ledger becomes it. Of the first one everything is a
    /// line; of a later one what differs, and what is gone.
    pub async fn settle(&self, place: &Place) -> Result<Place, Trouble> {
        let mut next = Place { phase: "following".into(), ..place.clone() };
        let mut transaction = self.step(place, &mut next).await?;
        let declare = format!(
            "DECLARE differences NO SCROLL CURSOR FOR
             SELECT {KEY}, {}, {} FROM rollup h FULL JOIN rollup_copy n USING ({KEY})
             WHERE (h.*) IS DISTINCT FROM (n.*) ORDER BY {KEY}",
            columns("h", "held_"),
            columns("n", "now_")
        );
        sqlx::query(AssertSqlSafe(declare)).execute(&mut *transaction).await?;
        loop {
            let fetch = format!("FETCH {SETTLE_ROWS} FROM differences");
            let rows: Vec<Difference> =
                sqlx::query_as(AssertSqlSafe(fetch)).fetch_all(&mut *transaction).await?;
            let done = rows.len() < SETTLE_ROWS;
            let number = place.copy_number;
            let step = |Difference { held, now }| Step {
                line_id: format!("copy-{number}-{}", Uuid::now_v7()),
                held,
                now,
            };
            record(&mut transaction, rows.into_iter().map(step).collect()).await?;
            if done {
                break;
            }
        }
        sqlx::query("CLOSE differences").execute(&mut *transaction).await?;
        sqlx::query("TRUNCATE rollup_copy").execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(next)
    }

    /// Changes of a ledger that is whole: a line each.
    pub async fn apply(
        &self,
        place: &Place,
        message: StreamRatedUsageChangesResponse,
    ) -> Result<Place, Trouble> {
        let mut next = Place { cursor: message.cursor, ..place.clone() };
        let changes = message.changes.into_iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let mut transaction = self.step(place, &mut next).await?;
        let keys = changes.iter().map(|(_, key, _)| key).collect();
        let mut held = held(&mut transaction, keys).await?;
        let mut steps = Vec::new();
        for (line_id, key, now) in changes {
            // One message may change a rollup more than once.
            let before = match &now {
                Some(now) => held.insert(key, now.clone()),
                None => held.remove(&key),
            };
            steps.push(Step { line_id, held: before, now });
        }
        record(&mut transaction, steps).await?;
        transaction.commit().await?;
        Ok(next)
    }

    /// Begins another first copy. Until it is whole the ledger stays as it is.
    pub async fn copy_again(&self, place: &Place) -> Result<Place, Trouble> {
        let mut next = Place { phase: "copying".into(), copy_number: place.copy_number + 1, ..place.clone() };
        (next.page_token, next.cursor) = (String::new(), String::new());
        let transaction = self.step(place, &mut next).await?;
        transaction.commit().await?;
        Ok(next)
    }

    /// Begins a transaction that takes the consumer from one place to the next, and nobody else
    /// from there to anywhere.
    async fn step(&self, from: &Place, to: &mut Place) -> Result<Transaction<'static, Postgres>, Trouble> {
        to.version = from.version + 1;
        let mut transaction = self.pool.begin().await?;
        let sql =
            "UPDATE consumer SET version = $2, phase = $3, copy_number = $4, page_token = $5, cursor = $6,
                moved_at = now()
            WHERE version = $1";
        let moved = sqlx::query(sql)
            .bind(from.version)
            .bind(to.version)
            .bind(&to.phase)
            .bind(to.copy_number)
            .bind(&to.page_token)
            .bind(&to.cursor)
            .execute(&mut *transaction)
            .await?;
        if moved.rows_affected() == 1 { Ok(transaction) } else { Err(Trouble::Moved) }
    }
}

/// The id of a change, what its rollup is of, and what the rollup is now.
fn read(change: RatedUsageChange) -> Result<(String, Key, Option<Rollup>), Trouble> {
    let after = change.after.map(Rollup::try_from).transpose()?;
    let key = match (&after, change.before) {
        (Some(after), _) => after.key.clone(),
        (None, Some(before)) => Rollup::try_from(before)?.key,
        (None, None) => return Err(Trouble::Stop(format!("change {} is of nothing", change.change_id))),
    };
    Ok((change.change_id, key, after))
}

/// Writes each step's lines, and what the rollups are after the last.
async fn record(connection: &mut PgConnection, steps: Vec<Step>) -> Result<(), Trouble> {
    let mut written: Vec<Line> = Vec::new();
    let mut states = HashMap::new();
    for Step { line_id, held, now } in steps {
        written.extend(lines(&line_id, held.as_ref(), now.as_ref())?);
        if let Some(of) = now.as_ref().or(held.as_ref()) {
            states.insert(of.key.clone(), now);
        }
    }
    // A line's id is never used twice: if one were, this fails, and nothing is written.
    let sql = "INSERT INTO ledger_line (line_id, auth_id, resource_id, model_id, window_start,
            price_class, currency, prompt_tokens, cached_tokens, completion_tokens, event_count, amount, kind)
        SELECT line_id, auth_id, resource_id, model_id, window_start,
            price_class, currency, prompt_tokens, cached_tokens, completion_tokens, event_count, amount, kind
        FROM jsonb_populate_recordset(NULL::ledger_line, $1)";
    sqlx::query(sql).bind(sqlx::types::Json(written)).execute(&mut *connection).await?;
    bring_to(connection, "rollup", states).await
}

/// What the ledger holds of these rollups.
async fn held(connection: &mut PgConnection, keys: Vec<&Key>) -> Result<HashMap<Key, Rollup>, Trouble> {
    let sql = format!(
        "SELECT {KEY}, {} FROM rollup h
         WHERE ({KEY}) IN (SELECT {KEY} FROM jsonb_populate_recordset(NULL::rollup, $1))",
        columns("h", "")
    );
    let query = sqlx::query_as(AssertSqlSafe(sql)).bind(sqlx::types::Json(keys));
    let rows: Vec<Rollup> = query.fetch_all(connection).await?;
    Ok(rows.into_iter().map(|row| (row.key.clone(), row)).collect())
}

/// These rollups are as said, or gone.
async fn bring_to(
    connection: &mut PgConnection,
    table: &str,
    states: HashMap<Key, Option<Rollup>>,
) -> Result<(), Trouble> {
    let gone: Vec<&Key> = states.iter().filter(|(_, now)| now.is_none()).map(|(key, _)| key).collect();
    let sql = format!(
        "DELETE FROM {table} WHERE ({KEY}) IN (SELECT {KEY} FROM jsonb_populate_recordset(NULL::{table}, $1))"
    );
    sqlx::query(AssertSqlSafe(sql)).bind(sqlx::types::Json(gone)).execute(&mut *connection).await?;
    put(connection, table, states.into_values().flatten().collect()).await
}

/// These rollups are as said. They cross as JSON, a statement however many there are; money in it
/// is text, which the database reads exactly.
async fn put(connection: &mut PgConnection, table: &str, rows: Vec<Rollup>) -> Result<(), Trouble> {
    let set = COLUMNS.map(|(column, _)| format!("{column} = excluded.{column}")).join(", ");
    let sql = format!(
        "INSERT INTO {table} SELECT * FROM jsonb_populate_recordset(NULL::{table}, $1)
         ON CONFLICT ({KEY}) DO UPDATE SET {set}"
    );
    sqlx::query(AssertSqlSafe(sql)).bind(sqlx::types::Json(rows)).execute(connection).await?;
    Ok(())
}

/// A rollup's columns beside its key, and how they are read: money as text.
const COLUMNS: [(&str, &str); 6] = [
    ("currency", ""),
    ("prompt_tokens", ""),
    ("cached_tokens", ""),
    ("completion_tokens", ""),
    ("event_count", ""),
    ("cost", "::text"),
];

fn columns(table: &str, prefix: &str) -> String {
    COLUMNS.map(|(column, cast)| format!("{table}.{column}{cast} AS {prefix}{column}")).join(", ")
}

/// A rollup whose two sides differ.
struct Difference {
    held: Option<Rollup>,
    now: Option<Rollup>,
}

impl sqlx::FromRow<'_, sqlx::postgres::PgRow> for Difference {
    fn from_row(row: &sqlx::postgres::PgRow) -> sqlx::Result<Difference> {
        use sqlx::Row;
        let key = Key::from_row(row)?;
        let side = |prefix: &str| -> sqlx::Result<Option<Rollup>> {
            let name = |column: &str| format!("{prefix}{column}");
            let Some(currency) = row.try_get(&*name("currency"))? else { return Ok(None) };
            Ok(Some(Rollup {
                key: key.clone(),
                currency,
                prompt_tokens: row.try_get(&*name("prompt_tokens"))?,
                cached_tokens: row.try_get(&*name("cached_tokens"))?,
                completion_tokens: row.try_get(&*name("completion_tokens"))?,
                event_count: row.try_get(&*name("event_count"))?,
                cost: row.try_get(&*name("cost"))?,
            }))
        };
        Ok(Difference { held: side("held_")?, now: side("now_")? })
    }
}
