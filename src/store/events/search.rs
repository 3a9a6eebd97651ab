//! Which events of a batch a rule of the database's refuses: the batch is inserted in halves, each
//! behind a savepoint, and a half that fails in halves again. A bad event costs about two statements
//! for each doubling of the batch, and the others are stored by the same few statements.
//!
//! What is put off until COMMIT is asked for at once, or it would refuse the batch and name nobody.
//! Rows are taken in the order of the ids here, too, so that batches wait for each other and never
//! in a circle.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use sqlx::{Postgres, Transaction};

use super::failure::{Broken, Failure};
use super::statements::{compare, insert};
use super::{Inserted, OnConflict};
use crate::domain::event::Event;
use crate::store::Error;

/// A batch of 10,000 of which the database takes none takes a third of it. A slow server must not
/// hold the batch's place for ever.
const LIMIT: Duration = Duration::from_secs(15);

/// A batch that is refused as a whole is not searched further: an answer lists no more.
const ENOUGH: usize = 50;

/// The events that the database takes are inserted, and the others named.
pub(super) async fn insert_each(
    transaction: &mut Transaction<'_, Postgres>,
    events: &[Event],
    on_conflict: OnConflict,
) -> Result<Inserted, Failure> {
    let until = Instant::now() + LIMIT;
    say(transaction, "SET CONSTRAINTS ALL IMMEDIATE").await?;
    // A rule that refuses no row at all is no row's.
    insert(transaction, []).await.map_err(|error| Failure::Store(error.into()))?;
    let mut order: Vec<usize> = (0..events.len()).collect();
    // Stable: the first of an id stays the first.
    order.sort_by(|a, b| events[*a].request_id.cmp(&events[*b].request_id));
    let mut found = Inserted::default();
    let mut first_broken: Option<Broken> = None;
    // The whole has failed already. The next one to try is the last.
    let (head, tail) = order.split_at(order.len() / 2);
    let mut untried = vec![tail, head];
    while let Some(part) = untried.pop() {
        if Instant::now() > until {
            return Err(Failure::Store(Error::SearchTooLong));
        }
        let broken = match attempt(transaction, events, part).await? {
            Ok(ids) => {
                found.ids.extend(ids);
                continue;
            }
            Err(broken) => broken,
        };
        let &[at] = part else {
            let (head, tail) = part.split_at(part.len() / 2);
            untried.extend([tail, head]);
            continue;
        };
        // What is stored already, from before there was the rule, is a duplicate all the same.
        let known = !broken.is_unspeakable() && !compare(transaction, [&events[at]]).await?.is_empty();
        if !known {
            found.refused.insert(at, broken.field);
            first_broken.get_or_insert(broken);
        }
        if on_conflict == OnConflict::Refuse && found.refused.len() == ENOUGH {
            found.ended = true;
            break;
        }
    }
    if let Some(broken) = first_broken {
        broken.tell(found.refused.len());
    }
    Ok(found)
}

/// A part of the batch behind a savepoint: the ids that were inserted, or the rule that is broken.
async fn attempt(
    transaction: &mut Transaction<'_, Postgres>,
    events: &[Event],
    part: &[usize],
) -> Result<Result<HashSet<String>, Broken>, Failure> {
    if part.is_empty() {
        return Ok(Ok(HashSet::new()));
    }
    say(transaction, "SAVEPOINT part").await?;
    let (end, tried) = match insert(transaction, part.iter().map(|&at| &events[at])).await {
        Ok(ids) => ("RELEASE part", Ok(ids.unwrap_or_else(|| all(events, part)))),
        Err(error) => match error.into() {
            Failure::Row(broken) => ("ROLLBACK TO part; RELEASE part", Err(broken)),
            other => return Err(other),
        },
    };
    say(transaction, end).await?;
    Ok(tried)
}

fn all(events: &[Event], part: &[usize]) -> HashSet<String> {
    part.iter().map(|&at| events[at].request_id.clone()).collect()
}

async fn say(transaction: &mut Transaction<'_, Postgres>, sql: &'static str) -> Result<(), Failure> {
    sqlx::raw_sql(sql).execute(&mut **transaction).await?;
    Ok(())
}
