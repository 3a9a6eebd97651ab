//! Storing billing events: a batch is one transaction of two statements.
//!
//! 1. `sql/insert_events.sql` inserts what is not there yet. It waits for other writers of
//!    the same ids until they commit or roll back.
//! 2. `sql/compare_events.sql`, only when something was there already. A statement of its
//!    own on purpose: in READ COMMITTED its snapshot is newer than the writers that the first
//!    one waited for, whose rows the first one's own snapshot can't see.
//!
//! An id that was neither inserted nor found was deleted in between: the whole batch is tried
//! again, a few times. `created_at` is not compared; an event without a time of its own is
//! rated by it.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use sqlx::{Postgres, Transaction};

use super::error::at_commit;
use super::{Db, Error};
use crate::domain::event::Event;

/// For each of the two statements. 10,000 events take well under a second; what takes longer
/// waits for another writer of the same ids.
const STATEMENT_TIMEOUT: &str = "20s";

/// How often a batch is tried whose ids vanish under it, or that another writer, who takes
/// rows in another order than ours, drew into a deadlock.
const ATTEMPTS: usize = 5;

/// What to do when an id is stored with other content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnConflict {
    /// Store nothing of the batch.
    Refuse,
    /// Store the others.
    Skip,
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It was inserted.
    Stored,
    /// Its id is stored with the same content.
    Duplicate,
    /// Its id is stored with other content.
    Conflict,
}

/// Stores a batch, and says for each event, in its order, what became of it. An id may occur
/// more than once: its first event is the one to insert, and every other is compared with
/// what is stored in the end. With [`OnConflict::Refuse`] and any [`Fate::Conflict`], nothing
/// was stored, whatever the fates of the others say.
pub async fn record(db: &Db, events: &[Event], on_conflict: OnConflict) -> Result<Vec<Fate>, Error> {
    for _ in 1..ATTEMPTS {
        match attempt(db, events, on_conflict).await {
            Ok(Some(fates)) => return Ok(fates),
            Ok(None) => {}
            Err(error) if was_rolled_back(&error) => {}
            Err(error) => return Err(error),
        }
    }
    attempt(db, events, on_conflict).await?.ok_or_else(|| {
        let reason = "stored events with the ids of this batch are deleted as fast as it is tried";
        Error::Unavailable(sqlx::Error::Protocol(reason.into()))
    })
}

/// A deadlock or a failed serialization: the server has rolled back, and asks to be tried again.
fn was_rolled_back(error: &Error) -> bool {
    let Error::Unavailable(sqlx::Error::Database(db)) = error else { return false };
    db.code().is_some_and(|code| code.starts_with("40"))
}

/// One transaction; None when an id was neither inserted nor found.
async fn attempt(db: &Db, events: &[Event], on_conflict: OnConflict) -> Result<Option<Vec<Fate>>, Error> {
    let mut transaction = db.pool.begin().await?;
    sqlx::query_scalar!("SELECT set_config('statement_timeout', $1, true)", STATEMENT_TIMEOUT)
        .fetch_one(&mut *transaction)
        .await?;

    let firsts = first_of_each_id(events);
    let inserted = insert(&mut transaction, firsts.values().map(|&at| &events[at])).await?;

    let mut fates = vec![Fate::Stored; events.len()];
    let mut compared = Vec::new();
    for (at, event) in events.iter().enumerate() {
        match firsts.get(event.request_id.as_str()) {
            _ if !inserted.contains(&event.request_id) => compared.push(at),
            Some(&first) if first != at => fates[at] = same(*event == events[first]),
            _ => {}
        }
    }
    if !compared.is_empty() {
        let found = compare(&mut transaction, compared.iter().map(|&at| &events[at])).await?;
        if found.len() < compared.len() {
            transaction.rollback().await?;
            return Ok(None);
        }
        for (position, fate) in found {
            fates[compared[position]] = fate;
        }
    }

    if on_conflict == OnConflict::Refuse && fates.contains(&Fate::Conflict) {
        transaction.rollback().await?;
    } else {
        transaction.commit().await.map_err(at_commit)?;
    }
    Ok(Some(fates))
}

fn same(same: bool) -> Fate {
    if same { Fate::Duplicate } else { Fate::Conflict }
}

/// Where each id occurs first.
fn first_of_each_id(events: &[Event]) -> HashMap<&str, usize> {
    let mut firsts = HashMap::with_capacity(events.len());
    for (at, event) in events.iter().enumerate() {
        firsts.entry(event.request_id.as_str()).or_insert(at);
    }
    firsts
}

/// Statement 1: the ids that were inserted.
async fn insert<'a>(
    transaction: &mut Transaction<'_, Postgres>,
    events: impl Iterator<Item = &'a Event>,
) -> Result<HashSet<String>, Error> {
    let c = Columns::of(events);
    // Not query_file_scalar!, which does not notice that its file has changed.
    let rows = sqlx::query_file!(
        "src/store/sql/insert_events.sql",
        &c.request_id as _,
        &c.auth_id as _,
        &c.user_id as _,
        &c.group_id as _,
        &c.resource_id as _,
        &c.resource_type as _,
        &c.model as _,
        &c.base_model as _,
        &c.adapter as _,
        &c.prompt_tokens,
        &c.cached_tokens,
        &c.completion_tokens,
        &c.finish_reason as _,
        &c.gpu_type as _,
        &c.aborted,
        &c.event_time as _,
    )
    .fetch_all(&mut **transaction)
    .await?;
    Ok(rows.into_iter().map(|row| row.request_id).collect())
}

/// Statement 2: for those of the events whose ids are stored, their position among them and
/// whether they have the stored content.
async fn compare<'a>(
    transaction: &mut Transaction<'_, Postgres>,
    events: impl Iterator<Item = &'a Event>,
) -> Result<Vec<(usize, Fate)>, Error> {
    let c = Columns::of(events);
    let rows = sqlx::query_file!(
        "src/store/sql/compare_events.sql",
        &c.request_id as _,
        &c.auth_id as _,
        &c.user_id as _,
        &c.group_id as _,
        &c.resource_id as _,
        &c.resource_type as _,
        &c.model as _,
        &c.base_model as _,
        &c.adapter as _,
        &c.prompt_tokens,
        &c.cached_tokens,
        &c.completion_tokens,
        &c.finish_reason as _,
        &c.gpu_type as _,
        &c.aborted,
        &c.event_time as _,
    )
    .fetch_all(&mut **transaction)
    .await?;
    // WITH ORDINALITY counts from 1.
    let position = |ordinal: i64| usize::try_from(ordinal - 1).unwrap_or(usize::MAX);
    Ok(rows.into_iter().map(|row| (position(row.position), same(row.same))).collect())
}

/// Events turned into one array a column.
#[derive(Default)]
struct Columns<'a> {
    request_id: Vec<&'a str>,
    auth_id: Vec<Option<&'a str>>,
    user_id: Vec<Option<&'a str>>,
    group_id: Vec<Option<&'a str>>,
    resource_id: Vec<Option<&'a str>>,
    resource_type: Vec<Option<&'a str>>,
    model: Vec<Option<&'a str>>,
    base_model: Vec<Option<&'a str>>,
    adapter: Vec<Option<&'a str>>,
    prompt_tokens: Vec<i32>,
    cached_tokens: Vec<i32>,
    completion_tokens: Vec<i32>,
    finish_reason: Vec<Option<&'a str>>,
    gpu_type: Vec<Option<&'a str>>,
    aborted: Vec<bool>,
    event_time: Vec<Option<DateTime<Utc>>>,
}

impl<'a> Columns<'a> {
    fn of(events: impl Iterator<Item = &'a Event>) -> Columns<'a> {
        let mut columns = Columns::default();
        for event in events {
            columns.request_id.push(&event.request_id);
            columns.auth_id.push(event.auth_id.as_deref());
            columns.user_id.push(event.user_id.as_deref());
            columns.group_id.push(event.group_id.as_deref());
            columns.resource_id.push(event.resource_id.as_deref());
            columns.resource_type.push(event.resource_type.as_deref());
            columns.model.push(event.model.as_deref());
            columns.base_model.push(event.base_model.as_deref());
            columns.adapter.push(event.adapter.as_deref());
            columns.prompt_tokens.push(event.prompt_tokens);
            columns.cached_tokens.push(event.cached_tokens);
            columns.completion_tokens.push(event.completion_tokens);
            columns.finish_reason.push(event.finish_reason.as_deref());
            columns.gpu_type.push(event.gpu_type.as_deref());
            columns.aborted.push(event.aborted);
            columns.event_time.push(event.event_time);
        }
        columns
    }
}
