//! What the ledger says: its lines, its totals, where it stands, and whether its books agree.

use std::io::{self, ErrorKind, Write};

use chrono::{DateTime, SecondsFormat, Utc};
use futures_util::TryStreamExt;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use crate::deliver::{Left, left_to_a_person};
use crate::ledger::Ledger;
use crate::line::KEY;
use crate::trouble::Trouble;

/// Prints a line on standard output. A reader that has gone away has seen enough.
pub fn print(text: &str) -> Result<(), Trouble> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        result => result.map_err(|error| Trouble::Stop(format!("standard output: {error}"))),
    }
}

fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// Print lines as JSON, one a line: exact decimals, and the id that is theirs for ever
#[derive(Debug, clap::Args)]
pub struct Lines {
    /// Also those that the invoicing API has
    #[arg(long, env = "LEDGER_ALL", value_parser = clap::builder::BoolishValueParser::new())]
    all: bool,
}

impl Lines {
    /// In the order in which they were written.
    pub async fn run(&self, ledger: &Ledger) -> Result<(), Trouble> {
        let sql = "SELECT json_build_object('line_id', line_id, 'auth_id', auth_id, 'resource_id', resource_id,
                'model_id', model_id, 'price_class', price_class,
                'timestamp', to_char(window_start AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'),
                'kind', kind, 'amount', amount::text, 'currency', currency, 'prompt_tokens', prompt_tokens::text,
                'cached_tokens', cached_tokens::text, 'completion_tokens', completion_tokens::text,
                'events', event_count::text, 'delivery', delivery_id)::text
            FROM ledger_line l LEFT JOIN delivery d ON d.id = l.delivery_id
            WHERE $1 OR d.sent_at IS NULL ORDER BY l.seq";
        let mut lines = sqlx::query_scalar::<_, String>(sql).bind(self.all).fetch(ledger.pool());
        while let Some(line) = lines.try_next().await? {
            print(&line)?;
        }
        Ok(())
    }
}

/// Print what each customer owes by the ledger's lines, and all of them
#[derive(Debug, clap::Args)]
pub struct Totals {
    /// As JSON, one object a line; that of all customers has no auth_id
    #[arg(long, env = "LEDGER_JSON", value_parser = clap::builder::BoolishValueParser::new())]
    json: bool,
}

#[derive(Debug, sqlx::FromRow)]
struct Total {
    auth_id: Option<String>,
    currency: String,
    amount: String,
    told: String,
    events: String,
    prompt_tokens: String,
    cached_tokens: String,
    completion_tokens: String,
    lines: i64,
}

impl Totals {
    /// Summed by the database, exactly.
    pub async fn run(&self, ledger: &Ledger) -> Result<(), Trouble> {
        let sql = "SELECT auth_id, currency, trim_scale(sum(amount))::text AS amount,
                trim_scale(coalesce(sum(amount) FILTER (WHERE sent_at IS NOT NULL), 0))::text AS told,
                sum(event_count)::text AS events, sum(prompt_tokens)::text AS prompt_tokens,
                sum(cached_tokens)::text AS cached_tokens, sum(completion_tokens)::text AS completion_tokens,
                count(*) AS lines
            FROM ledger_line l LEFT JOIN delivery d ON d.id = l.delivery_id
            GROUP BY GROUPING SETS ((auth_id, currency), (currency))
            ORDER BY auth_id COLLATE \"C\" NULLS LAST, currency";
        let totals: Vec<Total> = sqlx::query_as(sql).fetch_all(ledger.pool()).await?;
        if !self.json {
            print(&format!(
                "{:<40} {:>24} {:>24} {:>12} {:>9}",
                "auth_id", "amount", "told", "events", "lines"
            ))?;
        }
        for total in totals {
            let who = total.auth_id.as_deref().unwrap_or("all");
            let Total { currency, amount, told, events, lines, .. } = &total;
            print(&match self.json {
                true => total.json().to_string(),
                false => format!(
                    "{who:<40} {amount:>20} {currency:<3} {told:>20} {currency:<3} {events:>12} {lines:>9}"
                ),
            })?;
        }
        Ok(())
    }
}

impl Total {
    /// Counts and money as text, as in rater's own JSON.
    fn json(&self) -> Value {
        let mut json = json!({
            "currency": self.currency,
            "amount": self.amount,
            "told": self.told,
            "events": self.events,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "completion_tokens": self.completion_tokens,
            "lines": self.lines.to_string(),
        });
        if let Some(auth_id) = &self.auth_id {
            json["auth_id"] = json!(auth_id);
        }
        json
    }
}

/// Prints where the ledger stands, and what waits for whom.
pub async fn status(ledger: &Ledger) -> Result<(), Trouble> {
    let sql = "SELECT phase, copy_number, moved_at FROM consumer";
    let place: Option<(String, i64, DateTime<Utc>)> =
        sqlx::query_as(sql).fetch_optional(ledger.pool()).await?;
    let Some((phase, copy_number, moved_at)) = place else {
        return print("not begun: run `invoice_ledger follow`");
    };
    print(&format!("{phase} (first copy {copy_number}), last moved {}", rfc3339(moved_at)))?;
    if phase != "following" {
        print("the ledger stands as it was before this first copy, until that is whole")?;
    }
    let counts =
        "SELECT count(*), count(*) FILTER (WHERE delivery_id IS NULL AND amount <> 0) FROM ledger_line";
    let (lines, untold): (i64, i64) = sqlx::query_as(counts).fetch_one(ledger.pool()).await?;
    print(&format!("{lines} lines, {untold} of them to be told"))?;
    let sql = "SELECT auth_id, count(*) FROM ledger_line LEFT JOIN customer USING (auth_id)
        WHERE customer_id IS NULL AND delivery_id IS NULL AND amount <> 0
        GROUP BY auth_id ORDER BY auth_id COLLATE \"C\" LIMIT 100";
    let unmapped: Vec<(String, i64)> = sqlx::query_as(sql).fetch_all(ledger.pool()).await?;
    for (auth_id, lines) in unmapped {
        print(&format!("{auth_id}: {lines} lines wait for `invoice_ledger customer {auth_id} CUSTOMER_ID`"))?;
    }
    // What an adopted row without a currency was, until it is rated again.
    let sql = "SELECT auth_id, trim_scale(sum(amount))::text FROM ledger_line WHERE currency = ''
        GROUP BY auth_id HAVING sum(amount) <> 0 ORDER BY auth_id COLLATE \"C\" LIMIT 100";
    let nameless: Vec<(String, String)> = sqlx::query_as(sql).fetch_all(ledger.pool()).await?;
    for (auth_id, amount) in nameless {
        print(&format!(
            "{auth_id}: {amount} of no currency is held back until rater rates those hours again"
        ))?;
    }
    for Left { id, refused } in left_to_a_person(ledger).await? {
        print(&match refused {
            Some(why) => format!(
                "{id}: refused ({why}); put that right, and then `invoice_ledger settle {id} missing`"
            ),
            None => {
                format!("{id}: look it up at the API; then `invoice_ledger settle {id} arrived` or `missing`")
            }
        })?;
    }
    Ok(())
}

/// Holds every rollup against its lines, in every quantity: they add up, or this names where not.
pub async fn check(ledger: &Ledger) -> Result<(), Trouble> {
    const SUMS: &str = "prompt_tokens, cached_tokens, completion_tokens, event_count";
    let summed = SUMS.split(", ").map(|column| format!("sum({column}) AS {column}")).collect::<Vec<_>>();
    let sql = format!(
        "WITH billed AS (
            SELECT {KEY}, currency, {}, sum(amount) AS cost FROM ledger_line GROUP BY {KEY}, currency),
         wrong AS (
            SELECT concat_ws(' ', {KEY}) AS name FROM billed FULL JOIN rollup r USING ({KEY}, currency)
            WHERE (coalesce(billed.prompt_tokens, 0), coalesce(billed.cached_tokens, 0),
                    coalesce(billed.completion_tokens, 0), coalesce(billed.event_count, 0), coalesce(billed.cost, 0))
                <> (coalesce(r.prompt_tokens, 0), coalesce(r.cached_tokens, 0),
                    coalesce(r.completion_tokens, 0), coalesce(r.event_count, 0), coalesce(r.cost, 0)))
         SELECT count(*), coalesce(min(name), '') FROM wrong",
        summed.join(", ")
    );
    let (wrong, first): (i64, String) = sqlx::query_as(AssertSqlSafe(sql)).fetch_one(ledger.pool()).await?;
    match wrong {
        0 => print("every rollup is what its lines add up to"),
        _ => {
            Err(Trouble::Stop(format!("{wrong} rollups are not what their lines add up to, such as {first}")))
        }
    }
}
