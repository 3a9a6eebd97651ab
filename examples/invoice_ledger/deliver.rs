//! Telling the invoicing API, in three steps: claim, send, confirm.
//!
//! - **Claim**: lines become a delivery, with its id and its body for ever, in one transaction,
//!   before anything is sent.
//! - **Send**: [`Outbox::send`], the one place that a reader replaces by a POST.
//! - **Confirm**: what the API says it has is sent.
//!
//! A process that is killed between claim and confirm does not know whether the API has the
//! delivery. For as long as the API remembers its id (at Stripe: 24 hours) the same body is sent
//! again, and counts once. After that nobody can tell from here: the delivery is left to a person,
//! who looks it up and says so with `settle`. It is never sent again blindly.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;

use serde_json::Value;
use sqlx::postgres::PgConnection;
use sqlx::{Acquire, AssertSqlSafe};

use crate::ledger::Ledger;
use crate::meter::{Due, Together, invoice_item, meter_event};
use crate::trouble::Trouble;

/// Stripe keeps an identifier for "a rolling period of at least 24 hours"; an hour is room for
/// clocks and for a request that takes long.
const RESEND_HOURS: i32 = 23;
/// Stripe takes timestamps of the past 35 days. A day of them is for sending again.
const METER_DAYS: i32 = 34;
/// The most that Stripe's meter event stream takes in a request.
const BATCH: i64 = 100;
/// Of the process that delivers from this database; one at a time.
const DELIVERING: i64 = 7_305_804_385_371_857_485;

/// Tell the invoicing API what it does not have yet
#[derive(Debug, clap::Args)]
pub struct Deliver {
    /// Where the requests go, one a line: a file, or - for standard output
    #[arg(long, env = "LEDGER_OUTBOX", value_name = "FILE")]
    to: PathBuf,
    /// The meters' event name, to which the currency is added: rater_cost_usd
    #[arg(long, env = "LEDGER_EVENT_NAME", default_value = "rater_cost")]
    event_name: String,
    /// A meter counts units of 10^-SCALE of its currency
    #[arg(long, env = "LEDGER_METER_SCALE", value_name = "SCALE", default_value_t = 12)]
    #[arg(value_parser = clap::value_parser!(u8).range(0..=12))]
    meter_scale: u8,
}

/// A request as it is sent, every time.
#[derive(Debug, sqlx::FromRow)]
struct Delivery {
    id: String,
    body: sqlx::types::Json<Value>,
}

/// Where requests go.
enum Outbox {
    File(File),
    Standard(io::Stdout),
}

impl Outbox {
    /// Replace this by the POST. It returns `Ok` only when the API has said that it has all of
    /// them. An error says no more than that this is not known: the batch is sent again.
    fn send(&mut self, batch: &[Delivery]) -> io::Result<()> {
        let text: String = batch.iter().map(|delivery| format!("{}\n", delivery.body.0)).collect();
        match self {
            Outbox::File(file) => file.write_all(text.as_bytes()).and_then(|()| file.sync_data()),
            Outbox::Standard(out) => out.write_all(text.as_bytes()).and_then(|()| out.flush()),
        }
    }
}

impl Deliver {
    /// Sends everything that is due, and fails when there is something for a person to look at.
    pub async fn run(&self, ledger: &Ledger) -> Result<(), Trouble> {
        let stop = |error: io::Error| Trouble::Stop(format!("--to {}: {error}", self.to.display()));
        let mut outbox = match self.to.to_str() {
            Some("-") => Outbox::Standard(io::stdout()),
            _ => Outbox::File(OpenOptions::new().create(true).append(true).open(&self.to).map_err(stop)?),
        };
        let mut connection = ledger.pool().acquire().await?;
        // Given back with the session, however this process ends.
        let lock = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)").bind(DELIVERING);
        if !lock.fetch_one(&mut *connection).await? {
            return Err(Trouble::Stop("another process delivers from this ledger".into()));
        }
        loop {
            // What may or may not have arrived goes first, as it was.
            let batch = unanswered(&mut connection).await?;
            if !batch.is_empty() {
                outbox.send(&batch).map_err(stop)?;
                confirm(&mut connection, &batch).await?;
            } else if !self.claim(&mut connection).await? {
                break;
            }
        }
        match unknown(ledger).await? {
            ids if ids.is_empty() => Ok(()),
            ids => Err(Trouble::Stop(format!(
                "nobody knows whether the API has {}: look each up there, and say so with `invoice_ledger settle`",
                ids.join(", ")
            ))),
        }
    }

    /// Makes deliveries of lines that are due; `false` when there are none.
    async fn claim(&self, connection: &mut PgConnection) -> Result<bool, Trouble> {
        let mut transaction = connection.begin().await?;
        let sql = format!(
            "SELECT l.line_id, c.customer_id, l.window_start, l.currency, l.amount::text AS amount
             FROM ledger_line l JOIN customer c USING (auth_id)
             WHERE {DUE} AND {} ORDER BY l.seq LIMIT {BATCH}",
            metered()
        );
        let lines: Vec<Due> = sqlx::query_as(AssertSqlSafe(sql)).fetch_all(&mut *transaction).await?;
        for line in &lines {
            let body = meter_event(line, &self.event_name, self.meter_scale.into()).map_err(Trouble::Stop)?;
            insert(&mut transaction, &line.line_id, "meter", body).await?;
        }
        let ids: Vec<&str> = lines.iter().map(|line| line.line_id.as_str()).collect();
        let sql = "UPDATE ledger_line SET delivery_id = line_id WHERE line_id = ANY ($1)";
        sqlx::query(sql).bind(&ids).execute(&mut *transaction).await?;
        let claimed = !lines.is_empty() || claim_item(&mut transaction).await?;
        transaction.commit().await?;
        Ok(claimed)
    }
}

/// Lines of a known customer, of some amount, that nobody was told of yet.
const DUE: &str = "l.delivery_id IS NULL AND l.amount <> 0 AND l.window_start <= now()";

/// Whether the meter still takes the line: its hour is young enough, and not on a final invoice.
/// With time that only ever becomes no: the meter gets the first lines of a rollup and not the
/// last, and so the sum of no rollup on it is below zero.
fn metered() -> String {
    format!(
        "(l.window_start >= now() - make_interval(days => {METER_DAYS})
            AND l.window_start >= coalesce(c.billed_until, '-infinity'))"
    )
}

/// All lines of one customer that the meter no longer takes, as one adjustment.
async fn claim_item(connection: &mut PgConnection) -> Result<bool, Trouble> {
    let sql = format!(
        "SELECT c.customer_id, l.currency FROM ledger_line l JOIN customer c USING (auth_id)
         WHERE {DUE} AND NOT {} ORDER BY l.seq LIMIT 1",
        metered()
    );
    let first: Option<(String, String)> =
        sqlx::query_as(AssertSqlSafe(sql)).fetch_optional(&mut *connection).await?;
    let Some((customer_id, currency)) = first else { return Ok(false) };
    let id = format!("item-{}", uuid::Uuid::now_v7());
    let sql = format!(
        "WITH taken AS (
            UPDATE ledger_line l SET delivery_id = $1 FROM customer c
            WHERE c.auth_id = l.auth_id AND c.customer_id = $2 AND l.currency = $3 AND {DUE} AND NOT {}
            RETURNING l.amount, l.window_start)
         SELECT trim_scale(sum(amount))::text AS amount, count(*) AS lines, min(window_start) AS first_hour,
            max(window_start) AS last_hour
         FROM taken",
        metered()
    );
    let together: Together = sqlx::query_as(AssertSqlSafe(sql))
        .bind(&id)
        .bind(&customer_id)
        .bind(&currency)
        .fetch_one(&mut *connection)
        .await?;
    let body = invoice_item(&id, &customer_id, &currency, &together);
    insert(connection, &id, "invoice_item", body).await?;
    Ok(true)
}

async fn insert(connection: &mut PgConnection, id: &str, channel: &str, body: Value) -> Result<(), Trouble> {
    let sql = "INSERT INTO delivery (id, channel, body) VALUES ($1, $2, $3)";
    let query = sqlx::query(sql).bind(id).bind(channel).bind(sqlx::types::Json(body));
    query.execute(connection).await?;
    Ok(())
}

/// Claimed, and not confirmed, for less time than the API remembers it.
async fn unanswered(connection: &mut PgConnection) -> Result<Vec<Delivery>, Trouble> {
    let sql = "SELECT id, body FROM delivery
        WHERE sent_at IS NULL AND claimed_at > now() - make_interval(hours => $1) ORDER BY seq LIMIT $2";
    Ok(sqlx::query_as(sql).bind(RESEND_HOURS).bind(BATCH).fetch_all(connection).await?)
}

async fn confirm(connection: &mut PgConnection, batch: &[Delivery]) -> Result<(), Trouble> {
    let ids: Vec<&str> = batch.iter().map(|delivery| delivery.id.as_str()).collect();
    let sql = "UPDATE delivery SET sent_at = now() WHERE id = ANY ($1)";
    sqlx::query(sql).bind(&ids).execute(connection).await?;
    Ok(())
}

/// Deliveries that a person has to look up.
pub async fn unknown(ledger: &Ledger) -> Result<Vec<String>, Trouble> {
    let sql = "SELECT id FROM delivery
        WHERE sent_at IS NULL AND claimed_at <= now() - make_interval(hours => $1) ORDER BY seq";
    Ok(sqlx::query_scalar(sql).bind(RESEND_HOURS).fetch_all(ledger.pool()).await?)
}

/// What a person found out about a delivery
#[derive(Debug, clap::Args)]
pub struct Settle {
    /// Its identifier
    id: String,
    /// Whether the API has it. What it does not have is due again
    #[arg(value_enum)]
    found: Found,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Found {
    /// The API has it
    Arrived,
    /// The API does not have it
    Missing,
}

impl Settle {
    /// Only of deliveries that are unknown: of the others the answer is on its way, or here.
    pub async fn run(&self, ledger: &Ledger) -> Result<(), Trouble> {
        if !unknown(ledger).await?.contains(&self.id) {
            return Err(Trouble::Stop(format!("{} is no delivery that has to be looked up", self.id)));
        }
        let mut transaction = ledger.pool().begin().await?;
        let statements: &[&'static str] = match self.found {
            Found::Arrived => &["UPDATE delivery SET sent_at = now() WHERE id = $1"],
            Found::Missing => &[
                "UPDATE ledger_line SET delivery_id = NULL WHERE delivery_id = $1",
                "DELETE FROM delivery WHERE id = $1",
            ],
        };
        for sql in statements {
            sqlx::query(*sql).bind(&self.id).execute(&mut *transaction).await?;
        }
        Ok(transaction.commit().await?)
    }
}
