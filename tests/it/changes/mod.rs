//! StreamRatedUsageChanges: every change after a cursor, once, in an order that applies (R12).

mod copying;
mod cursors;
mod everyone;
mod following;
mod held;
mod retention;
mod telling;
mod writers;

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prost::Message;
use rater::proto::rating_service_client::RatingServiceClient;
use rater::proto::*;
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgPool};
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use crate::harness::{Event, event};
use crate::rig::Rig;
use crate::stage::Refusal;

pub type Client = RatingServiceClient<Channel>;
type Changes = Streaming<StreamRatedUsageChangesResponse>;

/// For whatever has to happen, however busy the machine is.
const SOON: Duration = Duration::from_secs(30);

pub fn asked(cursor: &str) -> StreamRatedUsageChangesRequest {
    StreamRatedUsageChangesRequest { cursor: cursor.into(), ..Default::default() }
}

fn following(cursor: &str) -> StreamRatedUsageChangesRequest {
    StreamRatedUsageChangesRequest { follow: true, ..asked(cursor) }
}

pub fn filtered(cursor: &str, filter: &UsageFilter) -> StreamRatedUsageChangesRequest {
    StreamRatedUsageChangesRequest { filter: Some(filter.clone()), ..asked(cursor) }
}

async fn open(client: &Client, request: StreamRatedUsageChangesRequest) -> Result<Changes, Status> {
    Ok(client.clone().stream_rated_usage_changes(request).await?.into_inner())
}

/// The next message; `None` at the end.
async fn next(stream: &mut Changes) -> Result<Option<StreamRatedUsageChangesResponse>, Status> {
    let told = tokio::time::timeout(SOON, stream.message()).await.expect("it says something")?;
    if let Some(message) = &told {
        assert!(message.encoded_len() < 2 * 1024 * 1024, "{} bytes", message.encoded_len());
        assert!(!message.cursor.is_empty());
    }
    Ok(told)
}

/// Every message up to the end.
async fn messages(
    client: &Client,
    request: StreamRatedUsageChangesRequest,
) -> Result<Vec<StreamRatedUsageChangesResponse>, Status> {
    assert!(!request.follow, "it has no end");
    let mut stream = open(client, request).await?;
    let mut told = Vec::new();
    while let Some(message) = next(&mut stream).await? {
        told.push(message);
    }
    Ok(told)
}

/// Every change up to the end, and the last cursor.
pub async fn changes(
    client: &Client,
    request: StreamRatedUsageChangesRequest,
) -> (Vec<RatedUsageChange>, String) {
    let told = messages(client, request).await.unwrap();
    let cursor = told.last().expect("a cursor at least").cursor.clone();
    (told.into_iter().flat_map(|message| message.changes).collect(), cursor)
}

/// The end of the feed.
async fn end(client: &Client) -> String {
    let request = GetRatedUsageRequest { page_size: 1, ..Default::default() };
    client.clone().get_rated_usage(request).await.unwrap().into_inner().change_cursor
}

async fn refused(client: &Client, request: StreamRatedUsageChangesRequest) -> Refusal {
    messages(client, request).await.map(|told| told.len()).expect_err("refused").into()
}

fn ids(changes: &[RatedUsageChange]) -> Vec<&str> {
    changes.iter().map(|change| change.change_id.as_str()).collect()
}

/// Every rollup, page by page.
pub async fn table(client: &Client, filter: &UsageFilter) -> BTreeMap<String, RatedUsage> {
    let mut request =
        GetRatedUsageRequest { filter: Some(filter.clone()), page_size: 10_000, ..Default::default() };
    let mut rows = BTreeMap::new();
    loop {
        let page = client.clone().get_rated_usage(request.clone()).await.unwrap().into_inner();
        rows.extend(page.rated_usage.into_iter().map(|row| (row.id.clone(), row)));
        if page.next_page_token.is_empty() {
            return rows;
        }
        request.page_token = page.next_page_token;
    }
}

/// A consumer's copy of rated usage.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Copy(pub BTreeMap<String, RatedUsage>);

impl Copy {
    /// A change that must meet exactly the state that it begins with.
    pub fn apply_strictly(&mut self, change: &RatedUsageChange) {
        let id = &change.before.as_ref().or(change.after.as_ref()).expect("one of them").id;
        assert_eq!(self.0.get(id), change.before.as_ref(), "{}", change.change_id);
        self.apply(change);
    }

    /// What a change says, whatever was there.
    pub fn apply(&mut self, change: &RatedUsageChange) {
        match (&change.before, &change.after) {
            (_, Some(after)) => drop(self.0.insert(after.id.clone(), after.clone())),
            (Some(before), None) => drop(self.0.remove(&before.id)),
            (None, None) => panic!("{change:?}"),
        }
    }
}

/// The cursor of who has so many changes of the batch at a position.
async fn place(rig: &Rig, position: i64, ordinal: i64) -> String {
    let sql = format!(
        "SELECT jsonb_build_object('feed_id', feed_id, 'position', position, 'batch_id', batch_id, 'ordinal', {ordinal})
         FROM change_feed, change_batch WHERE position = {position}"
    );
    let end = URL_SAFE_NO_PAD.decode(end(&rig.client()).await).unwrap();
    let mut token: Value = serde_json::from_slice(&end).unwrap();
    token["k"] = rig.one(&sql).await;
    URL_SAFE_NO_PAD.encode(token.to_string())
}

/// The usual event of an hour.
fn at(request_id: &str, hour: u32) -> Event {
    event(request_id).at(&format!("2026-06-01T{hour:02}:15:00Z"))
}

/// Batches as if runs had written them, each of that many changes, the ordinal in the model.
pub async fn fabricate(pool: &PgPool, batches: &[i64]) {
    for changes in batches {
        let sql = format!(
            "WITH batch AS (
                INSERT INTO change_batch (batch_id, run_id, trigger, changes)
                VALUES (gen_random_uuid(), 'run', 'routine', {changes}) RETURNING batch_id
            )
            INSERT INTO rated_usage_change (batch_id, ordinal, operation, run_id, id, auth_id, resource_id,
                model_id, window_start, price_class, after_prompt_tokens, after_cached_tokens,
                after_completion_tokens, after_billable_prompt_tokens, after_event_count, after_cost,
                after_applied_prompt_rate, after_applied_cached_rate, after_applied_completion_rate,
                after_currency_code, after_pricebook_digest, after_rated_at)
            SELECT batch_id, n, 'insert', 'run', md5(batch_id::text || n), 'auth-' || n % 10, 'resource-1',
                'model-' || n, '2026-06-01T10:00Z', 'standard', 1, 0, 0, 1, 1, 1.50, 1.50, 0, 0, 'USD',
                repeat('0', 64), now()
            FROM batch, generate_series(1, {changes}) n"
        );
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await.unwrap();
    }
}
