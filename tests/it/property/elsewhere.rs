//! Rollups that we did not write: adopted from elsewhere, or changed behind our back. They get
//! past the constraints as they would have before those were there.

use rater::domain::money::{Money, Rate};
use rater::domain::rating::{Rollup, RollupKey};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::script::{Adopted, Flaw};

/// The constraints that such rows may not keep, as the schema has them.
#[derive(Debug, Clone)]
pub struct Checks(Vec<(String, String)>);

impl Checks {
    pub async fn read(connection: &mut PgConnection) -> sqlx::Result<Checks> {
        let sql = "SELECT conname::text, pg_get_constraintdef(oid) FROM pg_constraint
            WHERE conrelid = 'rated_usage'::regclass AND contype = 'c'";
        Ok(Checks(sqlx::query_as(sql).fetch_all(connection).await?))
    }
}

/// A rollup that its rates explain, but for the flaw.
pub fn rollup(adopted: &Adopted) -> Rollup {
    let [prompt, cached, completion] = adopted.tokens;
    let [prompt_rate, cached_rate, completion_rate] = adopted.rates.map(|rate| Rate::parse(rate).ok());
    let rollup = Rollup {
        prompt_tokens: Some(prompt),
        cached_tokens: Some(cached),
        completion_tokens: Some(completion),
        billable_prompt_tokens: Some((prompt - cached).max(0)),
        event_count: Some(adopted.event_count),
        cost: None,
        prompt_rate,
        cached_rate,
        completion_rate,
        currency: Some("USD".to_owned()),
        digest: Some("from-elsewhere".to_owned()),
    };
    flawed(Rollup { cost: cost(&rollup), ..rollup }, adopted.flaw)
}

pub fn flawed(mut rollup: Rollup, flaw: Flaw) -> Rollup {
    match flaw {
        Flaw::None => {}
        Flaw::CostOff => {
            let more = Money::parse("0.000000000001").unwrap();
            rollup.cost = rollup.cost.map(|cost| cost.plus(more).unwrap());
        }
        Flaw::NoCost => rollup.cost = None,
        Flaw::NoRate(0) => rollup.prompt_rate = None,
        Flaw::NoRate(1) => rollup.cached_rate = None,
        Flaw::NoRate(_) => rollup.completion_rate = None,
        Flaw::NoBillable => {
            let left = rollup.prompt_tokens.zip(rollup.cached_tokens).map(|(p, c)| (p - c).max(0));
            rollup.billable_prompt_tokens = left;
            rollup.cost = cost(&rollup);
            rollup.billable_prompt_tokens = None;
        }
        Flaw::BillableLost => rollup.billable_prompt_tokens = None,
        Flaw::NoPrompt => rollup.prompt_tokens = None,
        Flaw::NoPromptAtAll => {
            rollup.billable_prompt_tokens = Some(0);
            rollup.cost = cost(&rollup);
            (rollup.prompt_tokens, rollup.billable_prompt_tokens) = (None, None);
        }
        Flaw::NoCached => rollup.cached_tokens = None,
        Flaw::NoCompletion => rollup.completion_tokens = None,
        Flaw::NoCount => rollup.event_count = None,
        Flaw::MoreEvents => rollup.event_count = rollup.event_count.map(|count| count + 3),
        Flaw::TooFine => {
            rollup.prompt_rate = Rate::parse("0.0000000000001").ok();
            rollup.cost = cost(&rollup);
        }
        Flaw::Negative => {
            rollup.completion_tokens = Some(-3_000_000);
            rollup.completion_rate = Rate::parse("999").ok();
            rollup.cost = cost(&rollup);
        }
        Flaw::OtherRates => {
            rollup.prompt_rate = Rate::parse("0.000007").ok();
            rollup.completion_rate = Rate::parse("0.25").ok();
            rollup.cost = cost(&rollup);
        }
        Flaw::NoDigest => rollup.digest = None,
        Flaw::NoCurrency => rollup.currency = None,
        Flaw::ForeignCurrency => rollup.currency = Some("EUR".to_owned()),
    }
    rollup
}

fn cost(rollup: &Rollup) -> Option<Money> {
    let prompt = rollup.prompt_rate?.cost_of(rollup.billable_prompt_tokens?).unwrap();
    let cached = rollup.cached_rate?.cost_of(rollup.cached_tokens?).unwrap();
    let completion = rollup.completion_rate?.cost_of(rollup.completion_tokens?).unwrap();
    Some(prompt.plus(cached).unwrap().plus(completion).unwrap())
}

/// Puts rollups in place, each under its key; a new one gets the id beside it.
pub async fn put(
    connection: &mut PgConnection,
    checks: &Checks,
    rollups: &[(RollupKey, Rollup, String)],
) -> sqlx::Result<()> {
    if rollups.is_empty() {
        return Ok(());
    }
    let mut transaction = connection.begin().await?;
    for (name, _) in &checks.0 {
        let sql = format!("ALTER TABLE rated_usage DROP CONSTRAINT {name}");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *transaction).await?;
    }
    for (key, rollup, id) in rollups {
        let sql = "INSERT INTO rated_usage (window_start, auth_id, resource_id, model_id, price_class, id,
                prompt_tokens, cached_tokens, completion_tokens, billable_prompt_tokens, event_count,
                cost, applied_prompt_rate, applied_cached_rate, applied_completion_rate,
                currency_code, pricebook_digest)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11,
                $12::numeric, $13::numeric, $14::numeric, $15::numeric, $16, $17)
            ON CONFLICT (auth_id, resource_id, model_id, window_start, price_class) DO UPDATE SET
                prompt_tokens = $7, cached_tokens = $8, completion_tokens = $9,
                billable_prompt_tokens = $10, event_count = $11, cost = $12::numeric,
                applied_prompt_rate = $13::numeric, applied_cached_rate = $14::numeric,
                applied_completion_rate = $15::numeric, currency_code = $16, pricebook_digest = $17";
        sqlx::query(sql)
            .bind(key.window_start)
            .bind(&key.auth_id)
            .bind(&key.resource_id)
            .bind(&key.model_id)
            .bind(&key.price_class)
            .bind(id)
            .bind(rollup.prompt_tokens)
            .bind(rollup.cached_tokens)
            .bind(rollup.completion_tokens)
            .bind(rollup.billable_prompt_tokens)
            .bind(rollup.event_count)
            .bind(rollup.cost.map(|cost| cost.to_string()))
            .bind(rollup.prompt_rate.map(|rate| rate.to_string()))
            .bind(rollup.cached_rate.map(|rate| rate.to_string()))
            .bind(rollup.completion_rate.map(|rate| rate.to_string()))
            .bind(&rollup.currency)
            .bind(&rollup.digest)
            .execute(&mut *transaction)
            .await?;
    }
    for (name, definition) in &checks.0 {
        let valid = definition.trim_end_matches(" NOT VALID");
        let sql = format!("ALTER TABLE rated_usage ADD CONSTRAINT {name} {valid} NOT VALID");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *transaction).await?;
    }
    transaction.commit().await
}
