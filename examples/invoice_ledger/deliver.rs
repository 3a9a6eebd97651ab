//! Telling the invoicing API, in three steps: claim, send, note.
//!
//! - **Claim**: lines become a delivery, with its id and its body for ever, in one transaction,
//!   before anything is sent. A rollup's next line is claimed when its last one has arrived.
//! - **Send**: `Outbox::send`, the one place that a reader replaces by POSTs.
//! - **Note**: what the API says it has is sent; what it refused is left to a person.
//!
//! A process that is killed between claim and note does not know whether the API has the delivery.
//! For as long as the API remembers its id (at Stripe: 24 hours) the same body is sent again, and
//! counts once. After that nobody can tell from here: the delivery is left to a person, who looks
//! it up and says so with `settle`. It is never sent again blindly. Nor is a meter event of an hour
//! whose invoice is final by now: if the first try did not arrive, nobody would be billed for it.

use std::collections::HashSet;
use std::io;

use serde_json::Value;
use sqlx::postgres::PgConnection;
use sqlx::{Acquire, AssertSqlSafe};

use crate::ledger::Ledger;
use crate::line::KEY;
use crate::meter::{Due, Together, invoice_item, meter_event};
use crate::outbox::{Answer, Channel, Delivery, OutboxOptions};
use crate::trouble::Trouble;

/// Stripe keeps an identifier for "a rolling period of at least 24 hours"; an hour is room for
/// clocks and for a request that takes long.
const RESEND_HOURS: i32 = 23;
/// Stripe takes timestamps of the past 35 days. A day of them is for sending again.
const METER_DAYS: i32 = 34;
/// The most that Stripe's meter event stream takes in a request.
const BATCH: i64 = 100;
/// Of the process that delivers from this database, or settles; one at a time.
const DELIVERING: i64 = 7_305_804_385_371_857_485;

/// Tell the invoicing API what it does not have yet
#[derive(Debug, clap::Args)]
pub struct Deliver {
    #[command(flatten)]
    outbox: OutboxOptions,
    /// The meters' event name, to which the currency is added: rater_cost_usd
    #[arg(long, env = "LEDGER_EVENT_NAME", default_value = "rater_cost")]
    event_name: String,
    /// A meter counts units of 10^-SCALE of its currency
    #[arg(long, env = "LEDGER_METER_SCALE", value_name = "SCALE", default_value_t = 12)]
    #[arg(value_parser = clap::value_parser!(u8).range(0..=12))]
    meter_scale: u8,
}

impl Deliver {
    /// Sends everything that is due, each request once a run, and fails when there is something
    /// that the API is not known to have.
    pub async fn run(&self, ledger: &Ledger) -> Result<(), Trouble> {
        let stop = |error: io::Error| Trouble::Stop(format!("--to {}: {error}", self.outbox.to.display()));
        let mut connection = ledger.pool().acquire().await?;
        lock(&mut connection).await?;
        let mut outbox = self.outbox.open().map_err(stop)?;
        let mut last = 0;
        loop {
            // What may or may not have arrived goes first, as it was.
            let batch = unanswered(&mut connection, last).await?;
            if let Some(newest) = batch.last() {
                last = newest.seq;
                let answers = outbox.send(&batch).map_err(stop)?;
                note(&mut connection, &batch, answers).await?;
            } else if !self.claim(&mut connection).await? {
                break;
            }
        }
        let left: Vec<String> = left_to_a_person(ledger).await?.into_iter().map(|left| left.id).collect();
        match unanswered(&mut connection, 0).await?.len() {
            0 if left.is_empty() => Ok(()),
            _ if !left.is_empty() => Err(Trouble::Stop(format!(
                "a person has to see to {}: `invoice_ledger status`",
                left.join(", ")
            ))),
            count => {
                Err(Trouble::Stop(format!("{count} requests got no answer; the next run sends them again")))
            }
        }
    }

    /// Makes deliveries of lines that are due; `false` when there are none.
    async fn claim(&self, connection: &mut PgConnection) -> Result<bool, Trouble> {
        let mut transaction = connection.begin().await?;
        let sql = format!(
            "SELECT l.line_id, c.customer_id, {KEY}, l.currency, l.amount::text AS amount
             FROM ledger_line l JOIN customer c USING (auth_id)
             WHERE {} AND {} ORDER BY l.seq LIMIT {BATCH}",
            due(),
            metered()
        );
        let mut lines: Vec<Due> = sqlx::query_as(AssertSqlSafe(sql)).fetch_all(&mut *transaction).await?;
        let mut seen = HashSet::new();
        lines.retain(|line| seen.insert((line.key.clone(), line.currency.clone())));
        for line in &lines {
            let body = meter_event(line, &self.event_name, self.meter_scale.into());
            insert(&mut transaction, &line.line_id, Channel::Meter, body).await?;
        }
        let ids: Vec<&str> = lines.iter().map(|line| line.line_id.as_str()).collect();
        let sql = "UPDATE ledger_line SET delivery_id = line_id WHERE line_id = ANY ($1)";
        sqlx::query(sql).bind(&ids).execute(&mut *transaction).await?;
        let claimed = !lines.is_empty() || claim_item(&mut transaction).await?;
        transaction.commit().await?;
        Ok(claimed)
    }
}

/// Given back with the session, however this process ends.
async fn lock(connection: &mut PgConnection) -> Result<(), Trouble> {
    let lock = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)").bind(DELIVERING);
    match lock.fetch_one(connection).await? {
        true => Ok(()),
        false => Err(Trouble::Stop("another process delivers from this ledger".into())),
    }
}

/// Lines of a known customer, of some amount, that nobody was told of yet; and nobody waits to hear
/// whether an earlier line of the same rollup arrived. If that did not, and this one takes it back,
/// the API would have less than nothing of it.
fn due() -> String {
    let of_line = KEY.split(", ").map(|column| format!("l.{column}")).collect::<Vec<_>>().join(", ");
    format!(
        "(l.delivery_id IS NULL AND l.amount <> 0 AND l.currency <> '' AND l.window_start <= now()
            AND ({of_line}, l.currency) NOT IN (SELECT {KEY}, currency
                FROM ledger_line JOIN delivery ON delivery.id = delivery_id WHERE sent_at IS NULL))"
    )
}

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
         WHERE {} AND NOT {} ORDER BY l.seq LIMIT 1",
        due(),
        metered()
    );
    let first: Option<(String, String)> =
        sqlx::query_as(AssertSqlSafe(sql)).fetch_optional(&mut *connection).await?;
    let Some((customer_id, currency)) = first else { return Ok(false) };
    let id = format!("item-{}", uuid::Uuid::now_v7());
    let sql = format!(
        "WITH taken AS (
            UPDATE ledger_line l SET delivery_id = $1 FROM customer c
            WHERE c.auth_id = l.auth_id AND c.customer_id = $2 AND l.currency = $3 AND {} AND NOT {}
            RETURNING l.amount, l.window_start)
         SELECT trim_scale(sum(amount))::text AS amount, count(*) AS lines, min(window_start) AS first_hour,
            max(window_start) AS last_hour
         FROM taken",
        due(),
        metered()
    );
    let together: Together = sqlx::query_as(AssertSqlSafe(sql))
        .bind(&id)
        .bind(&customer_id)
        .bind(&currency)
        .fetch_one(&mut *connection)
        .await?;
    let body = invoice_item(&customer_id, &currency, &together);
    insert(connection, &id, Channel::InvoiceItem, Ok(body)).await?;
    Ok(true)
}

/// A body that can't be is refused before it is sent.
async fn insert(
    connection: &mut PgConnection,
    id: &str,
    channel: Channel,
    body: Result<Value, String>,
) -> Result<(), Trouble> {
    let (body, refused) = body.map_or_else(|why| (Value::Null, Some(why)), |body| (body, None));
    let sql = "INSERT INTO delivery (id, channel, body, refused) VALUES ($1, $2, $3, $4)";
    let query = sqlx::query(sql).bind(id).bind(channel).bind(sqlx::types::Json(body)).bind(refused);
    query.execute(connection).await?;
    Ok(())
}

/// Whether a delivery without an answer may be sent again: the API remembers it, and if it does not
/// have it, it may still take it.
fn again() -> String {
    format!(
        "(refused IS NULL AND claimed_at > now() - make_interval(hours => {RESEND_HOURS})
            AND NOT (channel = 'meter' AND EXISTS (SELECT FROM ledger_line l JOIN customer c USING (auth_id)
                WHERE l.delivery_id = delivery.id AND l.window_start < c.billed_until)))"
    )
}

/// Claimed, and without an answer: those after one, in the order in which they were claimed.
async fn unanswered(connection: &mut PgConnection, after: i64) -> Result<Vec<Delivery>, Trouble> {
    let sql = format!(
        "SELECT seq, id, channel, body FROM delivery
         WHERE sent_at IS NULL AND seq > $1 AND {} ORDER BY seq LIMIT {BATCH}",
        again()
    );
    Ok(sqlx::query_as(AssertSqlSafe(sql)).bind(after).fetch_all(connection).await?)
}

async fn note(
    connection: &mut PgConnection,
    batch: &[Delivery],
    answers: Vec<Answer>,
) -> Result<(), Trouble> {
    let mut arrived = Vec::new();
    for (Delivery { id, .. }, answer) in batch.iter().zip(answers) {
        match answer {
            Answer::Arrived => arrived.push(id),
            Answer::Refused(why) => {
                let sql = "UPDATE delivery SET refused = $2 WHERE id = $1";
                sqlx::query(sql).bind(id).bind(why).execute(&mut *connection).await?;
            }
            Answer::Unknown => {}
        }
    }
    let sql = "UPDATE delivery SET sent_at = now() WHERE id = ANY ($1)";
    sqlx::query(sql).bind(&arrived).execute(connection).await?;
    Ok(())
}

/// A delivery that a person has to see to, and why the API refused it, if it did.
#[derive(Debug, sqlx::FromRow)]
pub struct Left {
    pub id: String,
    pub refused: Option<String>,
}

/// In the order in which they were claimed.
pub async fn left_to_a_person(ledger: &Ledger) -> Result<Vec<Left>, Trouble> {
    let sql =
        format!("SELECT id, refused FROM delivery WHERE sent_at IS NULL AND NOT {} ORDER BY seq", again());
    Ok(sqlx::query_as(AssertSqlSafe(sql)).fetch_all(ledger.pool()).await?)
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
    /// Only of deliveries that are left to a person: of the others the answer is on its way, or
    /// here. And not while a process may be sending it.
    pub async fn run(&self, ledger: &Ledger) -> Result<(), Trouble> {
        let mut connection = ledger.pool().acquire().await?;
        lock(&mut connection).await?;
        if !left_to_a_person(ledger).await?.iter().any(|left| left.id == self.id) {
            return Err(Trouble::Stop(format!("{} is no delivery that is left to a person", self.id)));
        }
        let mut transaction = connection.begin().await?;
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
