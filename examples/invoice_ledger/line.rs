//! The one rule: what a rollup's change adds to its customer's account. Pure.
//!
//! A line is what rater says the rollup is *now*, less what the ledger's lines add up to. It is
//! taken from the ledger's own state and never from a change's `before`, so a change that comes
//! twice adds nothing the second time.

use std::fmt::{self, Display, Formatter};

use chrono::{DateTime, Utc};
use rater::domain::money::{Money, MoneyError};
use rater::proto::RatedUsage;

/// What a rollup is of: unique in rater's table, which its `id` need not be in one that was adopted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, sqlx::FromRow)]
pub struct Key {
    pub auth_id: String,
    pub resource_id: String,
    pub model_id: String,
    pub window_start: DateTime<Utc>,
    pub price_class: String,
}

/// Its columns, in every table.
pub const KEY: &str = "auth_id, resource_id, model_id, window_start, price_class";

impl Display for Key {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Key { auth_id, resource_id, model_id, window_start, price_class } = self;
        write!(f, "{auth_id} {resource_id} {model_id} {window_start} {price_class}")
    }
}

/// A rollup, as rater says it is or as the ledger has it. Money is text outside of arithmetic: no
/// float, and no driver, comes near it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, sqlx::FromRow)]
pub struct Rollup {
    #[serde(flatten)]
    #[sqlx(flatten)]
    pub key: Key,
    pub currency: String,
    pub prompt_tokens: i64,
    pub cached_tokens: i64,
    pub completion_tokens: i64,
    pub event_count: i64,
    pub cost: String,
}

/// A line of the ledger: what is added to a customer's account. Corrections take away.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Line {
    pub line_id: String,
    #[serde(flatten)]
    pub key: Key,
    pub currency: String,
    pub prompt_tokens: i64,
    pub cached_tokens: i64,
    pub completion_tokens: i64,
    pub event_count: i64,
    pub amount: String,
    pub kind: &'static str,
}

/// What was sent can't be billed exactly, and so is not.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Inexact {
    #[error("a rollup of {0} has no hour")]
    NoHour(String),
    #[error("the cost of rollup {0} {1}")]
    Cost(Key, MoneyError),
    #[error("the tokens of rollup {0} are too many to count")]
    Tokens(Key),
}

impl TryFrom<RatedUsage> for Rollup {
    type Error = Inexact;

    fn try_from(row: RatedUsage) -> Result<Rollup, Inexact> {
        let hour = row
            .window_start
            .and_then(|time| DateTime::from_timestamp(time.seconds, time.nanos.try_into().ok()?));
        let Some(window_start) = hour else { return Err(Inexact::NoHour(row.auth_id)) };
        let key = Key {
            auth_id: row.auth_id,
            resource_id: row.resource_id,
            model_id: row.model_id,
            window_start,
            price_class: row.price_class,
        };
        // A row that rater adopted from elsewhere may have no cost.
        let cost = if row.cost.is_empty() { "0".into() } else { row.cost };
        Ok(Rollup {
            key,
            currency: row.currency_code,
            prompt_tokens: row.prompt_tokens,
            cached_tokens: row.cached_tokens,
            completion_tokens: row.completion_tokens,
            event_count: row.event_count,
            cost,
        })
    }
}

/// The lines that lead from what the ledger holds of a rollup to what it is now: none where
/// nothing differs, and two where its currency does.
pub fn lines(id: &str, held: Option<&Rollup>, now: Option<&Rollup>) -> Result<Vec<Line>, Inexact> {
    let found = match (held, now) {
        // Amounts in two currencies have no difference: one is taken back, the other is new.
        (Some(held), Some(now)) if held.currency != now.currency => {
            [difference(format!("{id}-back"), Some(held), None)?, difference(id.into(), None, Some(now))?]
        }
        _ => [difference(id.into(), held, now)?, None],
    };
    Ok(found.into_iter().flatten().collect())
}

fn difference(id: String, held: Option<&Rollup>, now: Option<&Rollup>) -> Result<Option<Line>, Inexact> {
    let Some(of) = now.or(held) else { return Ok(None) };
    let count = |count: fn(&Rollup) -> i64| {
        let [now, held] = [now, held].map(|rollup| rollup.map_or(0, count));
        now.checked_sub(held).ok_or_else(|| Inexact::Tokens(of.key.clone()))
    };
    let line = Line {
        line_id: id,
        key: of.key.clone(),
        currency: of.currency.clone(),
        prompt_tokens: count(|rollup| rollup.prompt_tokens)?,
        cached_tokens: count(|rollup| rollup.cached_tokens)?,
        completion_tokens: count(|rollup| rollup.completion_tokens)?,
        event_count: count(|rollup| rollup.event_count)?,
        amount: money(now)?
            .minus(money(held)?)
            .map_err(|why| Inexact::Cost(of.key.clone(), why))?
            .to_string(),
        kind: if held.is_some() { "correction" } else { "usage" },
    };
    Ok(Some(line).filter(|line| !line.is_nothing()))
}

fn money(rollup: Option<&Rollup>) -> Result<Money, Inexact> {
    let Some(rollup) = rollup else { return Ok(Money::ZERO) };
    Money::parse(&rollup.cost).map_err(|why| Inexact::Cost(rollup.key.clone(), why))
}

impl Line {
    fn is_nothing(&self) -> bool {
        let counts = [self.prompt_tokens, self.cached_tokens, self.completion_tokens, self.event_count];
        counts == [0; 4] && self.amount == "0"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rollup(tokens: i64, cost: &str) -> Rollup {
        Rollup {
            key: Key {
                auth_id: "acme".into(),
                resource_id: "chat".into(),
                model_id: "m".into(),
                window_start: DateTime::UNIX_EPOCH,
                price_class: "standard".into(),
            },
            currency: "USD".into(),
            prompt_tokens: tokens,
            cached_tokens: 0,
            completion_tokens: 0,
            event_count: 1,
            cost: cost.into(),
        }
    }

    /// Id, tokens, amount, currency and kind of each line.
    fn said(held: Option<&Rollup>, now: Option<&Rollup>) -> Vec<(String, i64, String, String, &'static str)> {
        let lines = lines("c", held, now).expect("exact").into_iter();
        lines.map(|l| (l.line_id, l.prompt_tokens, l.amount, l.currency, l.kind)).collect()
    }

    fn line(
        id: &str,
        tokens: i64,
        amount: &str,
        currency: &str,
        kind: &'static str,
    ) -> (String, i64, String, String, &'static str) {
        (id.into(), tokens, amount.into(), currency.into(), kind)
    }

    #[test]
    fn a_line_is_what_is_now_less_what_was_billed() {
        let (small, large) = (rollup(10, "0.1"), rollup(30, "0.300000000001"));
        assert_eq!(said(None, Some(&small)), [line("c", 10, "0.1", "USD", "usage")]);
        assert_eq!(said(Some(&small), Some(&large)), [line("c", 20, "0.200000000001", "USD", "correction")]);
        assert_eq!(
            said(Some(&large), Some(&small)),
            [line("c", -20, "-0.200000000001", "USD", "correction")]
        );
        assert_eq!(said(Some(&small), None), [line("c", -10, "-0.1", "USD", "correction")]);
    }

    #[test]
    fn what_is_held_already_gives_no_line() {
        let held = rollup(10, "0.1");
        assert_eq!(said(Some(&held), Some(&rollup(10, "0.10"))), []);
        assert_eq!(said(None, None), []);
    }

    #[test]
    fn another_currency_takes_the_old_amount_back() {
        let (dollars, euros) = (rollup(10, "0.1"), Rollup { currency: "EUR".into(), ..rollup(10, "0.09") });
        let expected =
            [line("c-back", -10, "-0.1", "USD", "correction"), line("c", 10, "0.09", "EUR", "usage")];
        assert_eq!(said(Some(&dollars), Some(&euros)), expected);
    }

    #[test]
    fn what_is_not_exact_is_refused() {
        assert!(matches!(lines("c", None, Some(&rollup(1, "1e-7"))), Err(Inexact::Cost(..))));
        let (most, least) = (rollup(i64::MAX, "0"), rollup(-1, "0"));
        assert!(matches!(lines("c", Some(&least), Some(&most)), Err(Inexact::Tokens(_))));
    }
}
