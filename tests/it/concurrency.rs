//! R8: callers on overlapping windows, in several processes, while events arrive, change and
//! go, and while a process stands still for longer than its lease. No two transactions rate the
//! same hour at once (`concurrency/probe.sql` watches, not the lease), none deadlocks, and
//! afterwards the table is what a plain sum says.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rater::proto::rating_service_client::RatingServiceClient;
use rater::proto::{BillingEvent, RateWindowRequest, Trigger};
use sqlx::PgPool;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::events::Random;
use crate::harness::{Service, soak};
use crate::stage::{Refusal, Stage, assert_no_panic, event, hour, rate_until_done, record, until, window};

const CALLERS: u64 = 64;
const HOURS: i64 = 72;
const SOON: Duration = Duration::from_secs(20);
const PROBE: &str = include_str!("concurrency/probe.sql");
/// Pairs of committed chunks that rated an hour at once.
const OVERLAPS: &str = "SELECT count(*) FROM probe_seen a JOIN probe_seen b
    ON a.run_id < b.run_id AND a.during && b.during AND a.entered <= b.leaving AND b.entered <= a.leaving";

#[derive(Debug, Clone, Copy)]
struct Round {
    seed: u64,
    length: Duration,
    services: usize,
    /// A process stands still again and again, for longer than its lease lives.
    stalls: bool,
}

/// How calls ended, by ErrorInfo's reason, and how many windows were rated.
type Tally = BTreeMap<String, u64>;

#[tokio::test(flavor = "multi_thread")]
async fn r8_no_hour_is_rated_twice_at_once_and_the_table_is_right_afterwards() {
    let length = Duration::from_secs(if soak() { 20 } else { 3 });
    let seeds = if soak() { 1..=4 } else { 1..=1 };
    for seed in seeds {
        for stalls in [false, true] {
            let services = if soak() { 3 } else { 2 };
            run(Round { seed: seed * 2 + u64::from(stalls), length, services, stalls }).await;
        }
    }
}

/// A chunk that is about to commit has cut its lease down already, and nobody knows yet.
#[tokio::test]
async fn whoever_asks_for_hours_that_are_about_to_be_free_holds_up_nobody() {
    let stage = Stage::new().await;
    stage.fill("e", 0, 2, 5).await;
    stage
        .sql(
            "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN PERFORM pg_advisory_xact_lock_shared(7); RETURN NULL; END $$;
             CREATE TRIGGER hold BEFORE INSERT ON change_batch FOR EACH STATEMENT EXECUTE FUNCTION hold()",
        )
        .await;
    let mut hold = stage.pool.begin().await.unwrap();
    sqlx::query("SELECT pg_advisory_xact_lock(7)").execute(&mut *hold).await.unwrap();
    let service = stage.service(&["--chunk-hours", "1"]).await;
    let mut client = service.client_rating().await;
    let held = tokio::spawn(async move { client.rate_window(window(0, 2)).await.map_err(Refusal::from) });
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
        AND application_name = 'rater' AND wait_event = 'advisory'";
    until("it is about to commit", SOON, async || stage.number(waits).await == 1).await;
    let mut others = Vec::new();
    for request in [window(1, 2), window(0, 1), window(5, 6)] {
        let mut client = service.client_rating().await;
        others.push(tokio::spawn(async move {
            let answer = client.rate_window(request).await.map_err(Refusal::from);
            answer.map(|_| ()).map_err(|refused| refused.reason)
        }));
    }
    let mut others = others.into_iter();
    for _ in 0..2 {
        let answer = tokio::time::timeout(SOON, others.next().unwrap()).await.expect("at once");
        assert_eq!(answer.unwrap(), Err("WINDOW_BUSY".into()));
    }
    // One without events has nothing to say in the feed.
    let answer = tokio::time::timeout(SOON, others.next().unwrap()).await.expect("at once");
    assert_eq!(answer.unwrap(), Ok(()));
    assert_eq!(stage.number(waits).await, 1, "still there");
    hold.rollback().await.unwrap();
    held.await.unwrap().unwrap();
}

async fn run(round: Round) {
    let stage = Stage::new().await;
    stage.sql(PROBE).await;
    let tally = load(&stage, round).await;
    let overlaps = stage.number(OVERLAPS).await;
    let chunks = stage.number("SELECT count(*) FROM probe_seen").await;
    let takeovers =
        "SELECT count(*) FROM rating_run WHERE resumed_at IS NOT NULL OR error_reason = 'LEASE_LOST'";
    let takeovers = stage.number(takeovers).await;

    let service = stage.service(&[]).await;
    rate_until_done(&service, window(0, HOURS), Duration::from_secs(60)).await;
    drop(service);
    let changes = stage.number("SELECT count(*) FROM rated_usage_change").await;
    println!("{round:?}: {tally:?}, {chunks} chunks, {takeovers} takeovers, {changes} changes");
    assert_eq!(overlaps, 0, "{round:?}");
    assert_eq!(stage.mismatches().await, 0, "{round:?}");
    assert_eq!(stage.feed_faults().await, 0, "{round:?}");
    assert_eq!(stage.deadlocks().await, 0, "{round:?}");
    assert!(stage.number("SELECT count(*) FROM rated_usage").await > 100, "{round:?}");
    let running = "SELECT count(*) FROM rating_run WHERE finished_at IS NULL";
    assert_eq!(stage.number(running).await, 0, "{round:?}");

    assert!(tally["rated"] > 10, "{round:?} {tally:?}");
    let allowed: &[&str] = match round.stalls {
        false => &["rated", "WINDOW_BUSY"],
        // A stalled holder finds its lease or its session gone.
        true => &["rated", "WINDOW_BUSY", "LEASE_LOST", "DATABASE_UNAVAILABLE", "OUTCOME_UNKNOWN"],
    };
    for reason in tally.keys() {
        assert!(allowed.contains(&reason.as_str()), "{reason}: {round:?} {tally:?}");
    }
}

/// What keeps leases apart, twice: the constraint, and the look before. This blinds the look.
const BLIND: &str = "
    ALTER TABLE rating_lease DROP CONSTRAINT rating_lease_no_overlap;
    CREATE SCHEMA blind;
    CREATE FUNCTION blind.never(tstzrange, tstzrange) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT false';
    CREATE OPERATOR blind.&& (FUNCTION = blind.never, LEFTARG = tstzrange, RIGHTARG = tstzrange);
    DO $$ BEGIN
        EXECUTE format('ALTER DATABASE %I SET search_path = public, blind, pg_catalog', current_database());
    END $$";

/// The probe sees what it is there for: without what keeps leases apart, two transactions meet in
/// an hour.
#[tokio::test(flavor = "multi_thread")]
async fn the_probe_sees_two_transactions_in_one_hour() {
    // Two must meet, which on a busy machine takes more than one round.
    for seed in 7..17 {
        let stage = Stage::new().await;
        stage.sql(PROBE).await;
        stage.sql(BLIND).await;
        let round = Round { seed, length: Duration::from_secs(2), services: 1, stalls: false };
        let tally = load(&stage, round).await;
        let overlaps = stage.number(OVERLAPS).await;
        println!("without what keeps leases apart: {tally:?}, {overlaps} overlaps");
        // Among committed chunks, and by the locks.
        if overlaps > 0 && tally.contains_key("INTERNAL") {
            return;
        }
    }
    panic!("the probe sees nothing");
}

/// Calls, events and stalls for as long as the round lasts.
async fn load(stage: &Stage, round: Round) -> Tally {
    stage.fill("start", 0, HOURS, 8).await;
    let ttl = if round.stalls { "1s" } else { "30s" };
    let mut services = Vec::new();
    for n in 0..round.services as u64 {
        // Each kind beside the other, and each stands still in its turn.
        let parallel = if (n + round.seed).is_multiple_of(2) { "1" } else { "3" };
        let arguments = [
            &["--lease-ttl", ttl, "--chunk-hours", "3"][..],
            &["--parallel", parallel, "--database-connections", "8"],
        ]
        .concat();
        services.push(stage.service(&arguments).await);
    }
    let until = Instant::now() + round.length;
    let mut callers = JoinSet::new();
    let mut clients = Vec::new();
    for service in &services {
        clients.push(service.client_rating().await);
    }
    for n in 0..CALLERS {
        let random = Random((round.seed * CALLERS + n + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        callers.spawn(call(random, clients.clone(), until));
    }
    let changing = tokio::spawn(change(stage.pool.clone(), Random(round.seed + 17), until));
    let arriving = arrive(&services[services.len() - 1], Random(round.seed + 71), until);
    let standing_still = async {
        // The first alone: the last one takes events in.
        while round.stalls && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(400)).await;
            services[0].signal(Signal::SIGSTOP);
            tokio::time::sleep(Duration::from_millis(1_700)).await;
            services[0].signal(Signal::SIGCONT);
        }
    };
    tokio::join!(arriving, standing_still);
    changing.await.unwrap();
    let mut tally = Tally::new();
    while let Some(one) = callers.join_next().await {
        for (reason, count) in one.unwrap() {
            *tally.entry(reason).or_default() += count;
        }
    }
    services.iter().for_each(assert_no_panic);
    tally
}

/// One caller: window after window.
async fn call(mut random: Random, clients: Vec<RatingServiceClient<Channel>>, until: Instant) -> Tally {
    let mut tally = Tally::new();
    while Instant::now() < until {
        let mut client = clients[random.below(clients.len() as u64) as usize].clone();
        let start = random.below(HOURS as u64) as i64;
        let end = HOURS.min(start + 1 + random.below(24) as i64);
        let trigger = if random.below(2) == 0 { Trigger::Routine } else { Trigger::Backfill };
        let request = RateWindowRequest {
            since: Some(hour(start)),
            until: Some(hour(end)),
            trigger: trigger.into(),
            ..Default::default()
        };
        let ended = match client.rate_window(request).await.map_err(Refusal::from) {
            Ok(_) => "rated".into(),
            Err(refusal) if refusal.reason.is_empty() => format!("{refusal:?}"),
            Err(refusal) => refusal.reason,
        };
        *tally.entry(ended).or_default() += 1;
        tokio::time::sleep(Duration::from_millis(random.below(15))).await;
    }
    tally
}

/// Events come in through the service.
async fn arrive(service: &Service, mut random: Random, until: Instant) {
    let mut batch = 0;
    while Instant::now() < until {
        batch += 1;
        let events: Vec<BillingEvent> = (0..8)
            .map(|n| BillingEvent {
                auth_id: format!("auth-{}", random.below(5)),
                prompt_tokens: random.below(1_000) as i64,
                cached_tokens: random.below(1_000) as i64,
                ..event(&format!("new-{batch}-{n}"), random.below(HOURS as u64) as i64)
            })
            .collect();
        assert_eq!(record(service, &events).await.unwrap().stored, 8);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Another writer corrects and deletes events.
async fn change(pool: PgPool, mut random: Random, until: Instant) {
    while Instant::now() < until {
        let id = format!("start-{}-{}", random.below(HOURS as u64), 1 + random.below(8));
        let sql = match random.below(3) {
            0 => "DELETE FROM billing_event WHERE request_id = $1",
            _ => "UPDATE billing_event SET completion_tokens = completion_tokens + 1 WHERE request_id = $1",
        };
        sqlx::query(sql).bind(id).execute(&pool).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
