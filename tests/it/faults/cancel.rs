//! Callers go away in the middle of anything. What was acknowledged is visible to everybody,
//! and no connection is left in a transaction or lost to the pool.

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use rater::domain::event::{Event, RawEvent};
use rater::proto::{BillingEvent, GetRatedUsageRequest};
use rater::store::events::{self, Fate, OnConflict};
use rater::store::{Db, DbOptions};
use tokio::task::JoinSet;

use crate::events::Random;
use crate::harness::{database, soak};
use crate::stage::{Refusal, Stage, assert_no_panic, event, rate_until_done, record, until, window};

/// Drops a future once it has been polled that often.
async fn cut_after<F: Future>(polls: u64, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut polled = 0;
    std::future::poll_fn(move |context| {
        polled += 1;
        match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if polled >= polls => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

fn stored(request_id: &str) -> Event {
    RawEvent { request_id: request_id.into(), ..RawEvent::default() }.check().unwrap()
}

/// One connection, so that the next caller gets the one that was left in the middle of
/// something: in the middle of BEGIN, of a statement, of COMMIT.
#[tokio::test]
async fn a_write_that_is_cut_off_anywhere_leaves_no_open_transaction_to_the_next() {
    let test = database().await;
    let acquire_timeout = Duration::from_secs(10);
    let options = DbOptions { url: test.url.clone(), max_connections: 1, acquire_timeout };
    let db = Db::new(&options).unwrap();
    let mut cut = 0;
    for round in 0..if soak() { 3_000 } else { 300 } {
        let lost = [stored(&format!("lost-{round}"))];
        let polls = 1 + round % 12;
        cut += u32::from(cut_after(polls, events::record(&db, &lost, OnConflict::Skip)).await.is_none());
        let id = format!("kept-{round}");
        let fates = events::record(&db, &[stored(&id)], OnConflict::Skip).await.unwrap();
        assert_eq!(fates, [Fate::Stored]);
        let seen: i64 = sqlx::query_scalar("SELECT count(*) FROM billing_event WHERE request_id = $1")
            .bind(&id)
            .fetch_one(test.pool())
            .await
            .unwrap();
        assert_eq!(seen, 1, "{id} was acknowledged and nobody sees it");
    }
    // Each that was polled once, and others.
    assert!(cut >= 25, "{cut} were cut off");
}

/// An autocommitted write on the connection of a `begin()` that was cut off: without the pool's
/// check it is acknowledged and invisible.
#[tokio::test]
async fn a_begin_that_is_cut_off_does_not_poison_its_connection() {
    let test = database().await;
    let acquire_timeout = Duration::from_secs(10);
    let options = DbOptions { url: test.url.clone(), max_connections: 1, acquire_timeout };
    let db = Db::new(&options).unwrap();
    for round in 0..100 {
        let lost = [stored(&format!("lost-{round}"))];
        drop(cut_after(1 + round % 4, events::record(&db, &lost, OnConflict::Skip)).await);
        // The same instant is now() and clock_timestamp() to a millisecond only outside of a
        // transaction that was opened before.
        tokio::time::sleep(Duration::from_millis(3)).await;
        db.now().await.unwrap();
        let open: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                AND application_name = 'rater' AND state LIKE 'idle in transaction%'",
        )
        .fetch_one(test.pool())
        .await
        .unwrap();
        assert_eq!(open, 0, "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_go_away_leave_nothing_behind() {
    let stage = Stage::new().await;
    stage.fill("e", 0, 24, 20).await;
    let service = stage.service(&["--chunk-hours", "2", "--database-connections", "8"]).await;
    let (rating, taking) = (service.client_rating().await, service.client_events().await);
    let rounds = if soak() { 4_000 } else { 400 };
    let mut callers = JoinSet::new();
    for caller in 0..8_u64 {
        let (mut rating, mut taking) = (rating.clone(), taking.clone());
        callers.spawn(async move {
            let mut random = Random(caller * 7919 + 1);
            let mut acknowledged = Vec::new();
            for round in 0..rounds / 8 {
                // One in four waits for its answer.
                let most = if random.below(4) == 0 { 20_000_000 } else { 25_000 };
                let patience = Duration::from_micros(most - random.below(most.min(25_000)));
                if random.below(3) == 0 {
                    let start = random.below(23) as i64;
                    drop(tokio::time::timeout(patience, rating.rate_window(window(start, start + 1))).await);
                } else if random.below(4) == 0 {
                    let call = rating.get_rated_usage(GetRatedUsageRequest::default());
                    drop(tokio::time::timeout(patience, call).await);
                } else {
                    let id = format!("{caller}-{round}");
                    let events = (0..5).map(|n| event(&format!("{id}-{n}"), round % 24)).collect();
                    let request = rater::proto::RecordEventsRequest { events, skip_invalid: false };
                    let call = tokio::time::timeout(patience, taking.record_events(request));
                    if call.await.is_ok_and(|answer| answer.map_err(Refusal::from).is_ok()) {
                        acknowledged.push(id);
                    }
                }
            }
            acknowledged
        });
    }
    let mut acknowledged = Vec::new();
    while let Some(ids) = callers.join_next().await {
        acknowledged.extend(ids.unwrap());
    }
    nothing_is_left(&stage, &service).await;
    for id in &acknowledged {
        let sql = format!("SELECT count(*) FROM billing_event WHERE request_id LIKE '{id}-%'");
        assert_eq!(stage.number(&sql).await, 5, "{id} was acknowledged");
    }
    assert!(!acknowledged.is_empty());
    println!("{rounds} calls, {} batches acknowledged", acknowledged.len());
    let batches =
        "SELECT count(*) FROM (SELECT count(*) AS n FROM billing_event WHERE request_id NOT LIKE 'e-%'
        GROUP BY substring(request_id FROM '^\\d+-\\d+')) b WHERE n <> 5";
    assert_eq!(stage.number(batches).await, 0, "a batch is whole or not there");
    rate_until_done(&service, window(0, 24), Duration::from_secs(30)).await;
    assert_eq!((stage.mismatches().await, stage.feed_faults().await), (0, 0));
    assert_no_panic(&service);
}

async fn nothing_is_left(stage: &Stage, service: &crate::harness::Service) {
    let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
        AND application_name = 'rater' AND state <> 'idle'";
    until("no session is in a transaction", Duration::from_secs(20), async || stage.number(open).await == 0)
        .await;
    let leases = "SELECT count(*) FROM rating_lease";
    until("no lease is left", Duration::from_secs(20), async || stage.number(leases).await == 0).await;
    // More calls at once than there are connections.
    let mut client = service.client_rating().await;
    let mut reads = JoinSet::new();
    for _ in 0..32 {
        let mut client = client.clone();
        reads.spawn(async move { client.get_rated_usage(GetRatedUsageRequest::default()).await });
    }
    while let Some(read) = reads.join_next().await {
        read.unwrap().expect("the pool has connections");
    }
    client.get_rated_usage(GetRatedUsageRequest::default()).await.unwrap();
    let events: Vec<BillingEvent> = vec![event("e-last", 0)];
    assert_eq!(record(service, &events).await.unwrap().stored, 1);
}
