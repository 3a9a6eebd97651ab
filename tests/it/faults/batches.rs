//! Batches of events on a service and a database that die under them, from clients that send each
//! again until it is answered: in the end every event is stored exactly once, each batch whole.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rater::domain::event::{Event, RawEvent};
use rater::proto::event_service_client::EventServiceClient;
use rater::proto::{BillingEvent, RecordEventsRequest};
use rater::service::record_events::EventIntake;
use rater::service::{Error, StoreError};
use rater::store::events::{self, Fate, OnConflict};
use rater::store::{Db, DbOptions};
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};

use super::Server;
use crate::events::Random;
use crate::harness::{Service, database, soak};
use crate::proxy::{Deed, Proxy, Side, Spot};
use crate::stage::{Stage, assert_no_panic, event, rate_until_done, record, until, window};

const BATCH: i64 = 50;

/// Polls a future until its turn comes, and panics then.
async fn panics_at<F: Future>(poll: u32, future: F) -> F::Output {
    let mut future = pin!(future);
    let mut polled = 0;
    std::future::poll_fn(move |context| {
        polled += 1;
        assert!(polled < poll, "on purpose");
        future.as_mut().poll(context)
    })
    .await
}

fn stored(request_id: String, model: &str) -> Event {
    RawEvent { request_id, model: model.into(), ..RawEvent::default() }.check().unwrap()
}

/// On one connection, so that the next batch gets the one that was left in the middle of something;
/// a straight batch, and one of which an event is known, one is refused and one has another content.
#[tokio::test]
async fn a_panic_at_any_await_leaves_a_batch_whole_or_not_there() {
    let test = database().await;
    let count = async |like: &str| -> i64 {
        let sql = "SELECT count(*) FROM billing_event WHERE request_id LIKE $1";
        sqlx::query_scalar(sql).bind(like).fetch_one(test.pool()).await.unwrap()
    };
    sqlx::query("ALTER TABLE billing_event ADD CHECK (model <> 'poison')")
        .execute(test.pool())
        .await
        .unwrap();
    let acquire_timeout = Duration::from_secs(10);
    // The proxy runs on this thread, too: no answer is there before we wait for it.
    let url = Proxy::to(&test.url).await.url(&test.url);
    let db = Db::new(&DbOptions { url, max_connections: 1, acquire_timeout }).unwrap();
    let mut polls = [0; 2];
    for (mixed, most) in polls.iter_mut().enumerate() {
        for poll in 1.. {
            let id = |n: usize| format!("{mixed}-{poll}-{n}");
            let mut batch: Vec<Event> = (0..20).map(|n| stored(id(n), "m")).collect();
            let mut good = 20;
            if mixed == 1 {
                events::record(&db, &batch[..5], OnConflict::Skip).await.unwrap();
                batch[3].prompt_tokens = 9;
                batch[7] = stored(id(7), "poison");
                good = 19;
            }
            let before = count(&format!("{mixed}-{poll}-%")).await;
            let (db_, batch_) = (db.clone(), batch.clone());
            let work = async move { events::record(&db_, &batch_, OnConflict::Skip).await };
            let ended = tokio::spawn(panics_at(poll, work)).await;
            // On the same connection, and visible to others.
            let next = [stored(format!("next-{mixed}-{poll}"), "m")];
            let fates = events::record(&db, &next, OnConflict::Skip).await.unwrap();
            assert_eq!((fates, count(&next[0].request_id).await), (vec![Fate::Stored], 1));
            let there = count(&format!("{mixed}-{poll}-%")).await;
            assert!([before, good].contains(&there), "{there} at poll {poll}");
            // With a new one, or nothing would show that it is the event which is refused.
            batch.push(stored(format!("again-{mixed}-{poll}"), "m"));
            let mut again = events::record(&db, &batch, OnConflict::Skip).await.unwrap();
            assert_eq!(again.pop(), Some(Fate::Stored));
            let is = |fate| again.iter().filter(|f| **f == fate).count() as i64;
            assert_eq!((is(Fate::Stored), count(&format!("{mixed}-{poll}-%")).await), (good - there, good));
            if let Ok(done) = ended {
                done.unwrap();
                *most = poll;
                break;
            }
        }
    }
    println!("panics at each of {polls:?} polls");
    assert!(polls[0] > 4 && polls[1] > polls[0], "{polls:?}");
}

/// Clients that send batches of their own, each until it is answered.
struct Senders {
    tasks: JoinSet<()>,
    stop: Arc<AtomicBool>,
    batches: Arc<AtomicI64>,
    repeats: Arc<AtomicU64>,
    stored: Arc<AtomicI64>,
}

impl Senders {
    fn start(address: &str, senders: u64, prefix: &str) -> Senders {
        let mut all = Senders {
            tasks: JoinSet::new(),
            stop: Arc::default(),
            batches: Arc::default(),
            repeats: Arc::default(),
            stored: Arc::default(),
        };
        for _ in 0..senders {
            let client = client(address);
            let (stop, prefix) = (all.stop.clone(), prefix.to_owned());
            let (batches, repeats, stored) = (all.batches.clone(), all.repeats.clone(), all.stored.clone());
            all.tasks.spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    let n = batches.fetch_add(1, Ordering::SeqCst);
                    let events: Vec<_> = (0..BATCH).map(|k| event(&format!("{prefix}-{n}-{k}"), 0)).collect();
                    let (answered, tries) = send(&client, &events).await;
                    stored.fetch_add(answered, Ordering::SeqCst);
                    repeats.fetch_add(tries - 1, Ordering::SeqCst);
                }
            });
        }
        all
    }

    /// Waits until every batch that was begun has its answer, and says how many there were.
    async fn end(mut self) -> i64 {
        self.stop.store(true, Ordering::SeqCst);
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
        self.batches.load(Ordering::SeqCst)
    }
}

/// Connects when it is used, and again when it must.
fn client(address: &str) -> EventServiceClient<Channel> {
    EventServiceClient::new(Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy())
}

/// Until it is answered: how many events the answer says it stored, and how many tries it took.
async fn send(client: &EventServiceClient<Channel>, events: &[BillingEvent]) -> (i64, u64) {
    let deadline = Instant::now() + Duration::from_secs(120);
    for tries in 1.. {
        let mut request = Request::new(RecordEventsRequest { events: events.to_vec(), skip_invalid: true });
        request.set_timeout(Duration::from_secs(20));
        match client.clone().record_events(request).await {
            Ok(answer) => {
                let answer = answer.into_inner();
                assert_eq!(answer.stored + answer.duplicates, events.len() as i64, "{answer:?}");
                return (answer.stored, tries);
            }
            Err(status) => {
                let never = [Code::InvalidArgument, Code::AlreadyExists, Code::FailedPrecondition];
                assert!(!never.contains(&status.code()), "{status:?}");
                assert!(Instant::now() < deadline, "still not answered: {status:?}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
    unreachable!()
}

/// The table is exactly these batches.
async fn assert_exact(stage: &Stage, batches: i64) {
    let events = "SELECT count(*) FROM billing_event";
    let whole = "SELECT count(*) FROM (SELECT FROM billing_event
        GROUP BY substring(request_id FROM '^.*-') HAVING count(*) = 50) b";
    assert_eq!((stage.number(events).await, stage.number(whole).await), (batches * BATCH, batches));
}

/// On each side of whatever a batch says to the database.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_killed_around_commit_loses_and_doubles_nothing() {
    let rounds = if soak() { 200 } else { 8 };
    let stage = Stage::new().await;
    let proxy = Proxy::to(&stage.url).await;
    let url = proxy.url(&stage.url);
    let mut service = stage.service_over(&url, &[]).await;
    let address = service.address().to_owned();
    let senders = Senders::start(&address, 3, "k");
    let sides = [Side::Before, Side::During, Side::After];
    let mut random = Random(20_260_601);
    for round in 0..rounds {
        let side = sides[round % 3];
        // COMMIT more often than the others.
        let statement = ["COMMIT", "INSERT INTO billing_event", "COMMIT", "BEGIN"][round / 3 % 4];
        let nth = 1 + random.below(5) as u32;
        proxy.strike(Spot { statement, nth, side }, Deed::Kill(service.pid()));
        until("it is killed", Duration::from_secs(60), async || proxy.has_struck()).await;
        assert!(!service.wait(Duration::from_secs(10)).await.success());
        let pricebook = stage.pricebook();
        service = Service::start_at(&address, &url, &["--pricebook", &pricebook]).await;
    }
    let repeats = senders.repeats.clone();
    let batches = senders.end().await;
    println!("{rounds} kills, {batches} batches, {} sent again", repeats.load(Ordering::SeqCst));
    assert_exact(&stage, batches).await;
    assert!(repeats.load(Ordering::SeqCst) > 0);
    service.signal(Signal::SIGTERM);
    service.wait(Duration::from_secs(40)).await;
}

/// Each batch many times over, from senders at once, among them ones that overlap by half.
#[tokio::test(flavor = "multi_thread")]
async fn duplicate_batches_from_senders_at_once_are_stored_once() {
    let rounds: i64 = if soak() { 10_000 } else { 200 };
    const SETS: i64 = 20;
    let stage = Stage::new().await;
    let service = stage.service(&[]).await;
    let mut senders = JoinSet::new();
    for sender in 0..8 {
        let client = client(service.address());
        senders.spawn(async move {
            let mut random = Random(sender as u64 * 7919 + 1);
            let mut stored = 0;
            for _ in (sender..rounds).step_by(8) {
                // From the middle of one batch to the middle of the next, or one batch.
                let first = random.below(SETS as u64 * 2 - 1) as i64 * BATCH / 2;
                let mut events: Vec<_> = (first..first + BATCH)
                    .map(|n| event(&format!("d-{}-{}", n / BATCH, n % BATCH), 0))
                    .collect();
                random.shuffle(&mut events);
                stored += send(&client, &events).await.0;
            }
            stored
        });
    }
    let mut stored = 0;
    while let Some(sender) = senders.join_next().await {
        stored += sender.unwrap();
    }
    println!("{rounds} batches of which {stored} events are new");
    assert_eq!(stored, SETS * BATCH, "each event was told as stored once");
    assert_exact(&stage, SETS).await;
    assert_no_panic(&service);
    assert_eq!(stage.deadlocks().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_stopped_at_once_under_load_loses_and_doubles_nothing() {
    let rounds = if soak() { 50 } else { 2 };
    let mut server = Server::start().await;
    let stage = Stage::over(&server.url());
    let service = stage.service(&["--migrate"]).await;
    let senders = Senders::start(service.address(), 4, "s");
    let mut random = Random(20_260_601);
    for _ in 0..rounds {
        let so_far = senders.batches.load(Ordering::SeqCst);
        let more = 5 + random.below(20) as i64;
        until("batches are on their way", Duration::from_secs(60), async || {
            senders.batches.load(Ordering::SeqCst) > so_far + more
        })
        .await;
        server.crash().await;
        server.start_again().await;
    }
    let (repeats, told) = (senders.repeats.clone(), senders.stored.clone());
    let batches = senders.end().await;
    let repeats = repeats.load(Ordering::SeqCst);
    println!("{rounds} stops, {batches} batches, {repeats} sent again");
    assert_exact(&stage, batches).await;
    // What a lost answer told is told as a duplicate by the next.
    assert!(told.load(Ordering::SeqCst) <= batches * BATCH);
    assert!(repeats > 0);
    assert_no_panic(&service);
    drop(service);
    server.stop().await;
}

/// What is told is on disk even where the database leaves commits in memory, as many do for speed.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_told_outlives_a_crash_where_commits_are_left_in_memory() {
    let mut server = Server::start().await;
    let stage = Stage::over(&server.url());
    stage
        .sql(
            "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = off', current_database()); END $$",
        )
        .await;
    stage.sql("ALTER SYSTEM SET wal_writer_delay = '10s'").await;
    stage.sql("SELECT pg_reload_conf()").await;
    let service = stage.service(&["--migrate"]).await;
    let events: Vec<_> = (0..300).map(|n| event(&format!("e-{n}"), 0)).collect();
    assert_eq!(record(&service, &events).await.unwrap().stored, 300);
    server.crash().await;
    server.start_again().await;
    assert_eq!(stage.number("SELECT count(*) FROM billing_event").await, 300);
    until("it is found again", Duration::from_secs(30), async || record(&service, &events).await.is_ok())
        .await;
    let (result, _) = rate_until_done(&service, window(0, 1), Duration::from_secs(30)).await;
    assert_eq!(result.rated_events, 300);
    server.crash().await;
    server.start_again().await;
    let rated = "SELECT coalesce(sum(event_count), 0)::bigint FROM rated_usage";
    assert_eq!(stage.number(rated).await, 300);
    drop(service);
    server.stop().await;
}

/// In a network that swallows everything and closes nothing: after INSERT, and after COMMIT.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_swallowed_costs_its_batch_a_while_and_nobody_else_anything() {
    let test = database().await;
    let proxy = Proxy::to(&test.url).await;
    let over = |url: String| {
        let acquire_timeout = Duration::from_secs(2);
        let db = Db::new(&DbOptions { url, max_connections: 1, acquire_timeout }).unwrap();
        EventIntake::new(db, 32, Default::default()).waiting_at_most(Duration::from_secs(2))
    };
    let (intake, healthy) = (over(proxy.url(&test.url)), over(test.url.clone()));
    let batch = |name: &str| {
        let event = |n| RawEvent { request_id: format!("{name}-{n}"), ..RawEvent::default() };
        (0..20).map(event).collect::<Vec<_>>()
    };
    for (statement, unknown) in [("INSERT INTO billing_event", false), ("COMMIT", true)] {
        intake.record(batch(&format!("before-{unknown}")), true).await.unwrap();
        proxy.strike(Spot { statement, nth: 1, side: Side::After }, Deed::Swallow);
        let name = format!("swallowed-{unknown}");
        let began = Instant::now();
        let error = intake.record(batch(&name), true).await.unwrap_err();
        assert!(proxy.has_struck() && began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        let told = matches!(error, Error::Store(StoreError::OutcomeUnknown(_)));
        assert_eq!(told, unknown, "{error:?}");
        assert!(told || matches!(error, Error::Store(StoreError::Unavailable(_))), "{error:?}");
        // The server gives its rows up, and another instance stores the same.
        until("another instance stores them", Duration::from_secs(30), async || {
            healthy.record(batch(&name), true).await.is_ok()
        })
        .await;
        println!("{statement}: stored by another after {:.1?}", began.elapsed());
        // The only connection of the pool is made anew.
        proxy.recover();
        until("it goes on", Duration::from_secs(20), async || {
            intake.record(batch(&name), true).await.is_ok()
        })
        .await;
    }
    let count: i64 =
        sqlx::query_scalar("SELECT count(*) FROM billing_event").fetch_one(test.pool()).await.unwrap();
    assert_eq!(count, 80);
}
