//! R12 at its worst: many writers that commit in every order, transactions that are held open all
//! the while, and consumers that come and go. Each sees each change once, in an order that applies,
//! is held back by nobody, and ends with a copy of the table. Readers that follow ids alone miss some
//! of the same changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rater::proto::*;
use sqlx::{AssertSqlSafe, PgPool};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::held::{Held, LATE, holders};
use super::writers::Writers;
use super::{Copy, SOON, filtered, open, table};
use crate::events::Random;
use crate::harness::{Service, soak};
use crate::stage::{assert_no_panic, rate_until_done, until, window};

/// A consumer's end.
struct Consumed {
    ids: Vec<String>,
    copy: Copy,
    connections: u64,
}

/// A consumer at work, and how many changes it has so far.
struct Consumer {
    filter: UsageFilter,
    seen: Arc<AtomicUsize>,
    work: JoinHandle<Consumed>,
}

/// Eight of them.
fn consumers(writers: &Writers, seed: u64, over: &watch::Receiver<bool>) -> Vec<Consumer> {
    let consumer = |n: u64| {
        let (filter, seen) = (filters()[n as usize % 3].clone(), Arc::new(AtomicUsize::new(0)));
        let services = writers.services.clone();
        let work = consume(services, filter.clone(), seen.clone(), Random(seed + n), over.clone());
        Consumer { filter, seen, work: tokio::spawn(work) }
    };
    (1..=8).map(consumer).collect()
}

/// Follows for a while, leaves in the middle of whatever there is, and comes back to any process
/// with its last cursor; once all is written, up to the end.
async fn consume(
    services: Arc<Vec<Service>>,
    filter: UsageFilter,
    seen: Arc<AtomicUsize>,
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
            seen.store(consumed.ids.len(), Ordering::SeqCst);
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

/// Batches that were committed after one whose changes were written later.
const OVERTAKEN: &str = "SELECT count(*) FROM (
    SELECT id, max(id) OVER (ORDER BY position ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
    FROM by_id JOIN change_batch USING (batch_id)) b WHERE id < before";

#[tokio::test(flavor = "multi_thread")]
async fn r12_each_consumer_sees_each_change_once_whoever_writes_and_in_whatever_order_they_commit() {
    let (services, hours, changes) = if soak() { (3, 96, 100_000) } else { (2, 24, 2_000) };
    let seed = 20_260_601;
    let (writers, began) = (Writers::new(services, hours).await, Instant::now());
    let (stop, over) = watch::channel(false);
    let naive = [BY_NUMBER, BY_BATCH_ID]
        .map(|sql| tokio::spawn(follow_ids(writers.stage.pool.clone(), sql, over.clone())));
    let mut held = Held::open(&writers).await;
    let holders = holders(&writers, seed + 20, &over).await;
    let consumers = consumers(&writers, seed, &over);
    let (mut random, mut rounds) = (Random(seed), 0);
    while writers.stage.number("SELECT count(*) FROM rated_usage_change").await < changes {
        writers.round(rounds, &mut random).await;
        rounds += 1;
    }
    for consumer in &consumers {
        let all = told_by_the_table(&writers, &consumer.filter).await.len();
        until("nobody is held back", SOON, async || consumer.seen.load(Ordering::SeqCst) == all).await;
    }
    let past = held.check(&writers).await;
    let late = held.let_go(&writers).await;
    writers.round(rounds, &mut random).await;
    rate_until_done(&writers.services[0], window(hours, hours + 2), SOON).await;
    stop.send(true).unwrap();

    let total = writers.stage.number("SELECT count(*) FROM rated_usage_change").await;
    let mut missed = Vec::new();
    for reader in naive {
        missed.push(total - reader.await.unwrap());
    }
    let mut holds = Vec::new();
    for holder in holders {
        holds.push(holder.await.unwrap());
    }
    let client = writers.services[0].client_rating().await;
    let mut connections = 0;
    for Consumer { filter, work, .. } in consumers {
        let consumed = work.await.unwrap();
        assert_eq!(consumed.ids, told_by_the_table(&writers, &filter).await, "seed {seed}");
        assert_eq!(consumed.copy.0, table(&client, &filter).await, "seed {seed}");
        connections += consumed.connections;
    }
    assert!(total >= changes && connections > 30, "{total} {connections}");
    assert_eq!(writers.stage.feed_faults().await, 0);
    assert_eq!(writers.stage.mismatches().await, 0);
    let batches = writers.stage.number("SELECT count(*) FROM change_batch").await;
    let overtaken = writers.stage.number(OVERTAKEN).await;
    println!(
        "{total} changes in {batches} batches, {} rounds, {:?}: 8 consumers on {connections} connections \
         saw each once; by a sequence's number {} would have been missed, by batch ids {} (seed {seed})",
        rounds + 1,
        began.elapsed(),
        missed[0],
        missed[1]
    );
    println!(
        "held open: a writer and a snapshot while {past} batches were committed and told, and a chunk that \
         {late} overtook; {overtaken} batches were overtaken, {} times one that was held by as many as it \
         should be; {} crowds at the feed's lock, {} snapshots that each were the feed up to a place",
        holds[0], holds[1], holds[2]
    );
    assert!(missed.iter().all(|missed| *missed >= LATE), "{missed:?} of {total}");
    assert!(past > 20 && late >= past && overtaken > 5, "{past} {late} {overtaken}");
    assert!(holds.iter().all(|times| *times > 2), "{holds:?}");
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
