//! The two statements of a batch, each over one array a column, and the one that asks what an index
//! is over.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use sqlx::{Postgres, Transaction};

use super::failure::FIELDS;
use super::{Fate, same};
use crate::domain::event::Event;

/// Statement 1: the ids that were inserted, unless all events were. Of events with the same id the
/// first one is.
pub(super) async fn insert<'a>(
    transaction: &mut Transaction<'_, Postgres>,
    events: impl IntoIterator<Item = &'a Event>,
) -> sqlx::Result<Option<HashSet<String>>> {
    let c = Columns::of(events);
    // Not query_file_scalar!, which does not notice that its file has changed.
    let row = sqlx::query_file!(
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
    .fetch_one(&mut **transaction)
    .await?;
    Ok(row.inserted.map(|ids| ids.into_iter().collect()))
}

/// Statement 2: for those of the events whose ids are stored, their position among them and
/// whether they have the stored content.
pub(super) async fn compare<'a>(
    transaction: &mut Transaction<'_, Postgres>,
    events: impl IntoIterator<Item = &'a Event>,
) -> sqlx::Result<Vec<(usize, Fate)>> {
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

/// Whether an index of the table is over columns that we write, and no other.
pub(super) async fn is_over_ours(
    transaction: &mut Transaction<'_, Postgres>,
    schema: &str,
    index: &str,
) -> sqlx::Result<bool> {
    let ours: Vec<String> = FIELDS.iter().map(|(column, _)| (*column).to_owned()).collect();
    sqlx::query_file_scalar!("src/store/sql/index_is_over.sql", schema, index, &ours)
        .fetch_one(&mut **transaction)
        .await
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
    fn of(events: impl IntoIterator<Item = &'a Event>) -> Columns<'a> {
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
