//! What becomes of a rollup, by what is held and what the run produced for its key (R5): only
//! a difference is written (R6), and billed rates are kept where the run keeps them (R10).

use super::classify::Produced;
use super::{Rollup, Run};
use crate::domain::money::{MAX_SCALE, Money, MoneyError};
use crate::domain::pricebook::Rates;
use crate::domain::window::{RateBasis, Trigger};

/// What a run does with a rollup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// It is new.
    Insert,
    /// It is replaced.
    Update,
    /// The run did not produce it.
    Delete,
    /// It is the same as before.
    Unchanged,
    /// Its rates do not explain it, and a routine run does not touch what it can't explain.
    Left,
}

/// A rollup, before and after the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// What is done.
    pub operation: Operation,
    /// What was held; `None` for a new one.
    pub before: Option<Rollup>,
    /// What is held from now on; `None` for a deleted one.
    pub after: Option<Rollup>,
    /// Replaced by one of fewer events than were billed.
    pub shrunk: bool,
    /// Its kept rates differ from the pricebook's.
    pub drifted: bool,
}

/// Settles one key; at least one of the two is there.
pub(super) fn settle(
    run: &Run<'_>,
    produced: Option<&Produced>,
    held: Option<&Rollup>,
) -> Result<Settled, MoneyError> {
    let settled = |operation, after: Option<Rollup>| Settled {
        operation,
        before: held.cloned(),
        after,
        shrunk: false,
        drifted: false,
    };
    let explained = held.map_or(Ok(false), explained)?;
    Ok(match (held, produced) {
        (Some(row), _) if run.trigger == Trigger::Routine && !explained => {
            settled(Operation::Left, Some(row.clone()))
        }
        (_, None) => settled(Operation::Delete, None),
        (None, Some(produced)) => settled(Operation::Insert, Some(priced_anew(run, produced, None)?)),
        (Some(row), Some(produced)) => {
            let frozen = rates_of(row).filter(|_| explained && run.basis == RateBasis::Frozen);
            let after = match frozen {
                Some(rates) => rollup(run, produced, rates, row.digest.clone())?,
                None => priced_anew(run, produced, Some(row))?,
            };
            let drifted = frozen.is_some_and(|rates| rates != produced.rates);
            if same(row, &after) {
                Settled { drifted, ..settled(Operation::Unchanged, Some(row.clone())) }
            } else {
                let shrunk = row.event_count.is_some_and(|billed| produced.event_count < billed);
                Settled { shrunk, drifted, ..settled(Operation::Update, Some(after)) }
            }
        }
    })
}

/// At the pricebook's rates. The digest is that of the book they came from: where they are the
/// rates that the row has already, that is not this book (R6).
fn priced_anew(run: &Run<'_>, produced: &Produced, held: Option<&Rollup>) -> Result<Rollup, MoneyError> {
    let kept = held.filter(|row| rates_of(row) == Some(produced.rates)).and_then(|row| row.digest.clone());
    rollup(run, produced, produced.rates, kept.or_else(|| Some(run.book.digest().to_owned())))
}

fn rollup(
    run: &Run<'_>,
    produced: &Produced,
    rates: Rates,
    digest: Option<String>,
) -> Result<Rollup, MoneyError> {
    let (cached, completion) = (produced.cached_tokens, produced.completion_tokens);
    Ok(Rollup {
        prompt_tokens: Some(produced.prompt_tokens),
        cached_tokens: Some(cached),
        completion_tokens: Some(completion),
        billable_prompt_tokens: Some(produced.billable_prompt_tokens),
        event_count: Some(produced.event_count),
        cost: Some(cost(&rates, produced.billable_prompt_tokens, cached, completion)?),
        prompt_rate: Some(rates.prompt),
        cached_rate: Some(rates.cached),
        completion_rate: Some(rates.completion),
        currency: Some(run.book.currency().to_owned()),
        digest,
    })
}

/// R2, on the sums of a rollup.
fn cost(rates: &Rates, billable: i64, cached: i64, completion: i64) -> Result<Money, MoneyError> {
    rates
        .prompt
        .cost_of(billable)?
        .plus(rates.cached.cost_of(cached)?)?
        .plus(rates.completion.cost_of(completion)?)
}

/// R13: whether a row's cost is what its tokens and rates come to, in amounts that a row of ours
/// can hold: others can't be kept on one. An adopted row may lack the billable tokens; then they
/// are what its cached tokens leave of its prompt.
fn explained(row: &Rollup) -> Result<bool, MoneyError> {
    let left = || Some((row.prompt_tokens? - row.cached_tokens?).max(0));
    let parts = (
        row.cost,
        rates_of(row),
        row.billable_prompt_tokens.or_else(left),
        row.cached_tokens,
        row.completion_tokens,
    );
    let (Some(billed), Some(rates), Some(billable), Some(cached), Some(completion)) = parts else {
        return Ok(false);
    };
    let Rates { prompt, cached: cached_rate, completion: completion_rate } = rates;
    let holds = [prompt, cached_rate, completion_rate].iter().all(|rate| rate.scale() <= MAX_SCALE)
        && billed >= Money::ZERO;
    Ok(holds && cost(&rates, billable, cached, completion)? == billed)
}

fn rates_of(row: &Rollup) -> Option<Rates> {
    Some(Rates { prompt: row.prompt_rate?, cached: row.cached_rate?, completion: row.completion_rate? })
}

/// R6: whether two rollups are the same but for the digest, which changes nothing by itself.
fn same(one: &Rollup, other: &Rollup) -> bool {
    Rollup { digest: None, ..one.clone() } == Rollup { digest: None, ..other.clone() }
}
