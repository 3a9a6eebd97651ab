//! R12 at its worst: many writers that commit in every order, and consumers that come and go. Each
//! sees each change once, in an order that applies, and ends with a copy of the table. Readers that
//! follow ids alone miss some of the same changes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rater::proto::*;
use sqlx::{AssertSqlSafe, PgPool};
use tokio::sync::watch;

use super::writers::Writers;
use super::{Copy, filtered, open, table};
use crate::events::Random;
use crate::harness::{Service, soak};
use crate::stage::assert_no_panic;

/// A consumer's end.
struct Consumed {
    ids: Vec<String>,
    copy: Copy,
    connections: u64,
}

/// Follows for a while, leaves in the middle of whatever there is, and comes back to any process
/// with its last cursor; once all is written, up to the end.
async fn consume(
    services: Arc<Vec<Service>>,
    filter: UsageFilter,
    mut random: Random,
    over: watch::Receiver<bool>,
) -> Consumed {
    let mut consumed = Consumed { ids: Vec::new(), copy: Copy::default(), connections: 0 };
    let mut cursor = String::new();
    loop {
        let last = *over.borrow();
        let follow = !last && random.below(4) > 0;
        let mut messages = if last { u64::MAX } else { 1 + random.below(15) };
        let patience = Duration::from_millis(if last { 30_000 } else { random.below(400) });
        let client = services[random.below(services.len() as u64) as usize].client_rating().await;
        let request = StreamRatedUsageChangesRequest { follow, ..filtered(&cursor, &filter) };
        let mut stream = open(&client, request).await.unwrap();
        consumed.connections += 1;
        while messages > 0 {
            let Ok(told) = tokio::time::timeout(patience, stream.message()).await else { break };
            let Some(message) = told.unwrap() else { break };
            for change in &message.changes {
                consumed.copy.apply_strictly(change);
                consumed.ids.push(change.change_id.clone());
            }
            (cursor, messages) = (message.cursor, messages - 1);
        }
        if last {
            return consumed;
        }
    }
}

/// Follows an order of ids, as often as it can, and counts the changes that it sees.
async fn follow_ids(pool: PgPool, sql: &'static str, mut over: watch::Receiver<bool>) -> i64 {
    let (mut last, mut seen) = (String::new(), 0);
    loop {
        let end = *over.borrow_and_update();
        let new: Vec<(String, i64)> =
            sqlx::query_as(AssertSqlSafe(sql)).bind(&last).fetch_all(&pool).await.unwrap();
        seen += new.iter().map(|(_, changes)| changes).sum::<i64>();
        last = new.into_iter().next_back().map_or(last, |(id, _)| id);
        if end {
            return seen;
        }
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

/// By a sequence's number, and by the batches' ids, which begin with the time.
const BY_NUMBER: &str = "SELECT id::text, changes FROM by_id WHERE id > ('0' || $1)::bigint ORDER BY id";
const BY_BATCH_ID: &str = "SELECT batch_id::text, changes FROM change_batch
    WHERE $1 = '' OR batch_id > nullif($1, '')::uuid ORDER BY batch_id";

fn filters() -> [UsageFilter; 3] {
    let some = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
    [
        UsageFilter::default(),
        UsageFilter { auth_ids: some(&["auth-1", "auth-2"]), ..Default::default() },
        UsageFilter {
            model_ids: some(&["acme/small"]),
            resource_ids: some(&["res-1"]),
            ..Default::default()
        },
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn r12_each_consumer_sees_each_change_once_whoever_writes_and_in_whatever_order_they_commit() {
    let (services, hours, changes) = if soak() { (3, 96, 100_000) } else { (2, 24, 3_000) };
    let seed = 20_260_601;
    let (writers, began) = (Writers::new(services, hours).await, Instant::now());
    let (stop, over) = watch::channel(false);
    let consumers: Vec<_> = (1..=8)
        .map(|n| {
            let filter = filters()[n as usize % 3].clone();
            let services = writers.services.clone();
            (filter.clone(), tokio::spawn(consume(services, filter, Random(seed + n), over.clone())))
        })
        .collect();
    let naive = [BY_NUMBER, BY_BATCH_ID]
        .map(|sql| tokio::spawn(follow_ids(writers.stage.pool.clone(), sql, over.clone())));
    let (mut random, mut rounds) = (Random(seed), 0);
    while writers.stage.number("SELECT count(*) FROM rated_usage_change").await < changes {
        writers.round(rounds, &mut random).await;
        rounds += 1;
    }
    stop.send(true).unwrap();

    let total = writers.stage.number("SELECT count(*) FROM rated_usage_change").await;
    let mut missed = Vec::new();
    for reader in naive {
        missed.push(total - reader.await.unwrap());
    }
    let client = writers.services[0].client_rating().await;
    let mut connections = 0;
    for (filter, consumer) in consumers {
        let consumed = consumer.await.unwrap();
        assert_eq!(consumed.ids, told_by_the_table(&writers, &filter).await, "seed {seed}");
        assert_eq!(consumed.copy.0, table(&client, &filter).await, "seed {seed}");
        connections += consumed.connections;
    }
    assert!(total >= changes && connections > 30, "{total} {connections}");
    assert_eq!(writers.stage.feed_faults().await, 0);
    assert_eq!(writers.stage.mismatches().await, 0);
    let batches = writers.stage.number("SELECT count(*) FROM change_batch").await;
    println!(
        "{total} changes in {batches} batches, {rounds} rounds, {:?}: 8 consumers on {connections} connections \
         saw each once; by a sequence's number {} would have been missed, by batch ids {} (seed {seed})",
        began.elapsed(),
        missed[0],
        missed[1]
    );
    assert!(missed.iter().all(|missed| *missed > 0), "{missed:?} of {total}");
    writers.services.iter().for_each(assert_no_panic);
}

/// The ids of the changes that a filter lets through, in the feed's order.
async fn told_by_the_table(writers: &Writers, filter: &UsageFilter) -> Vec<String> {
    sqlx::query_scalar(
        "SELECT c.batch_id || '-' || ordinal FROM rated_usage_change c JOIN change_batch USING (batch_id)
         WHERE (cardinality($1) = 0 OR auth_id = ANY ($1)) AND (cardinality($2) = 0 OR resource_id = ANY ($2))
            AND (cardinality($3) = 0 OR model_id = ANY ($3))
         ORDER BY position, ordinal",
    )
    .bind(&filter.auth_ids)
    .bind(&filter.resource_ids)
    .bind(&filter.model_ids)
    .fetch_all(&writers.stage.pool)
    .await
    .unwrap()
}
