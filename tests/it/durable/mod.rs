//! A run outlives its process. Whoever goes on with it does what is not committed, once, with the
//! prices and the plan that it began with; or it ends, and says why and what is left.

mod books;
mod cancelled;
mod fruitless;
mod handover;
mod kills;
mod later;
mod parallel;
mod plan;
mod stopped;
mod sweeps;

use std::time::Duration;

use nix::sys::signal::Signal;
use rater::domain::window::{RateBasis, Trigger, Window};
use rater::proto::{RateWindowRequest, RatingResult};
use rater::store::{Begun, Db, DbOptions, Failure, Lease, Leaves, NewRun};
use serde_json::Value;
use sqlx::Row;
use tokio::task::JoinHandle;

use crate::harness::Service;
use crate::proxy::{Deed, Proxy, Side, Spot};
use crate::stage::{Refusal, Stage, hour, until};

const SOON: Duration = Duration::from_secs(30);
const RUNS: &str = "SELECT count(*) FROM rating_run";
const CHUNKS: &str = "SELECT count(*) FROM rating_run_chunk";
const CHANGES: &str = "SELECT count(*) FROM rated_usage_change";
const BEGIN: &str = "INSERT INTO rating_run (";
const S1: &str = "FOR KEY SHARE OF l";
const S2: &str = "-- The rating statement (S2)";
const S3: &str = "INSERT INTO rating_run_chunk";
const FEED: &str = "INSERT INTO change_batch";
const COMMIT: &str = "COMMIT";
const HEARTBEAT: &str = "UPDATE rating_lease SET expires_at";
const STORE_PLAN: &str = "SET hour_hashes";
const READ: &str = "-- Runs, newest first";
const TAKE: &str = "INSERT INTO rating_lease";

/// A run whose process is gone. Its lease stays until the test lets it end, so that nobody goes on
/// with the run before.
struct Dead {
    stage: Stage,
    run_id: String,
}

impl Dead {
    /// Its process was killed when that many chunks were committed.
    async fn after(chunks: u32, stage: Stage, request: RateWindowRequest, arguments: &[&str]) -> Dead {
        // The first COMMIT is that of the lease and the record, then one a chunk.
        let spot = Spot { statement: COMMIT, nth: chunks + 1, side: Side::After };
        let dead = Dead::at(spot, stage, request, arguments).await;
        assert_eq!(dead.stage.number(CHUNKS).await, i64::from(chunks));
        dead
    }

    async fn at(spot: Spot, stage: Stage, request: RateWindowRequest, arguments: &[&str]) -> Dead {
        let proxy = Proxy::to(&stage.url).await;
        let mut service = stage.service_over(&proxy.url(&stage.url), arguments).await;
        proxy.strike(spot, Deed::Kill(service.pid()));
        let run = ask(&service, request).await;
        service.wait(SOON).await;
        run.await.unwrap().unwrap_err();
        quiet(&stage).await;
        hold_leases(&stage).await;
        let run_id = "SELECT run_id FROM rating_run ORDER BY created_at DESC LIMIT 1";
        let run_id = sqlx::query_scalar(run_id).fetch_one(&stage.pool).await.unwrap();
        Dead { stage, run_id }
    }

    async fn record(&self) -> Record {
        record(&self.stage, &self.run_id).await
    }

    /// From now on it waits: another run, of its first hour, has a lease that lives on.
    async fn waits(&self) -> Lease {
        end_leases(&self.stage).await;
        let other = NewRun { trigger: Trigger::Routine, ..new_run("other", 0, 1, &book(&self.stage)) };
        let begun = store(&self.stage).begin_run(&other).await.unwrap();
        let Begun::Started(lease, _) = begun else { panic!("{begun:?}") };
        assert_eq!(self.record().await.state, "pending");
        lease
    }

    /// The other run gives its lease back.
    async fn goes_on(&self, other: Lease) {
        let failure = Failure { reason: "INTERNAL", message: "", refused_rollups: None };
        assert!(store(&self.stage).leave_run(&other, &Leaves::Failed(failure)).await.unwrap());
    }

    /// Waits for the run's end, whoever comes to it.
    async fn end(&self) -> Record {
        let ended = format!(
            "SELECT count(*) FROM rating_run WHERE run_id = '{}' AND finished_at IS NOT NULL",
            self.run_id
        );
        until("the run has ended", SOON, async || self.stage.number(&ended).await == 1).await;
        self.record().await
    }
}

/// How a run stands.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Record {
    state: String,
    reason: String,
    /// From the window's start, as far as anything is left.
    hours_left: i64,
}

fn ended(state: &str, reason: &str, hours_left: i64) -> Record {
    Record { state: state.into(), reason: reason.into(), hours_left }
}

async fn record(stage: &Stage, run_id: &str) -> Record {
    let sql = "SELECT state, coalesce(error_reason, '') AS reason,
            CASE state WHEN 'succeeded' THEN 0
                ELSE coalesce(extract(epoch FROM remaining_end - window_start) / 3600, 0) END::bigint AS hours_left
        FROM rating_run WHERE run_id = $1";
    let row = sqlx::query(sql).bind(run_id).fetch_one(&stage.pool).await.unwrap();
    Record { state: row.get("state"), reason: row.get("reason"), hours_left: row.get("hours_left") }
}

/// No lease ends by itself.
async fn hold_leases(stage: &Stage) {
    stage.sql("UPDATE rating_lease SET expires_at = clock_timestamp() + interval '1 hour'").await;
}

/// Every lease has ended.
async fn end_leases(stage: &Stage) {
    stage.sql("UPDATE rating_lease SET expires_at = clock_timestamp()").await;
}

/// Waits until the sessions of killed processes are gone, one way or the other.
async fn quiet(stage: &Stage) {
    let busy = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'rater'";
    until("the sessions are gone", SOON, async || stage.number(busy).await == 0).await;
}

type Call = JoinHandle<Result<RatingResult, Refusal>>;

/// Calls, and goes on while that waits.
async fn ask(service: &Service, request: RateWindowRequest) -> Call {
    let mut client = service.client_rating().await;
    tokio::spawn(async move {
        let response = client.rate_window(request).await.map_err(Refusal::from)?;
        Ok(response.into_inner().result.unwrap())
    })
}

/// A field of a log line, which may stand under `fields`.
fn field<'a>(line: &'a Value, name: &str) -> &'a Value {
    line.get(name).unwrap_or(&line["fields"][name])
}

/// The lines of all logs with a field of this value.
fn lines(services: &[&Service], name: &str, value: &str) -> Vec<Value> {
    let logs = services.iter().flat_map(|service| service.logs());
    logs.filter(|line| field(line, name) == value).collect()
}

/// Waits until the logs have one: what is logged is read a moment later.
async fn logged(services: &[&Service], name: &str, value: &str) -> Vec<Value> {
    until("it is logged", SOON, async || !lines(services, name, value).is_empty()).await;
    lines(services, name, value)
}

/// The store, as a process of its own would use it.
fn store(stage: &Stage) -> Db {
    let acquire_timeout = Duration::from_secs(10);
    Db::new(&DbOptions { url: stage.url.clone(), max_connections: 4, acquire_timeout }).unwrap()
}

/// A backfill of some hours, for the store.
fn new_run(run_id: &str, from: i64, until: i64, book: &rater::domain::pricebook::Pricebook) -> NewRun {
    let time = |n| chrono::DateTime::from_timestamp(hour(n).seconds, 0).unwrap();
    NewRun {
        run_id: run_id.into(),
        window: Window { start: time(from), end: time(until) },
        trigger: Trigger::Backfill,
        basis: RateBasis::Pricebook,
        pricebook_digest: book.digest().into(),
        pricebook_yaml: book.yaml().into(),
        currency: book.currency().into(),
        requested_by: String::new(),
        request_id: None,
        request_hash: String::new(),
        reason: None,
        expected_plan_hash: None,
        traceparent: None,
        lease_ttl: Duration::from_secs(3600),
    }
}

/// The pricebook of a stage.
fn book(stage: &Stage) -> rater::domain::pricebook::Pricebook {
    let parsed = rater::domain::pricebook::parse(&std::fs::read_to_string(stage.pricebook()).unwrap());
    parsed.book.expect("a good pricebook")
}

async fn stop(mut service: Service) -> Service {
    service.signal(Signal::SIGTERM);
    assert_eq!(service.wait(SOON).await.code(), Some(0));
    service
}

/// Faults of whatever the run's chunks say, in one snapshot. Each chunk's hours have exactly the
/// rows that its counts say, its batch has its place in the feed, and no hour without a chunk has a
/// row.
const AHEAD: &str = "
WITH held AS (
    SELECT c.run_id, c.chunk_start, count(u.id), coalesce(sum(u.event_count), 0), coalesce(sum(u.cost), 0)
    FROM rating_run_chunk c LEFT JOIN rated_usage u
        ON u.window_start >= c.chunk_start AND u.window_start < c.chunk_end
    GROUP BY 1, 2
),
said AS (SELECT run_id, chunk_start, rollups, rated_events, total_cost FROM rating_run_chunk)
SELECT (SELECT count(*) FROM (TABLE said EXCEPT TABLE held) ahead)
    + (SELECT count(*) FROM rated_usage u WHERE NOT EXISTS (SELECT FROM rating_run_chunk c
        WHERE c.run_id = u.run_id AND u.window_start >= c.chunk_start AND u.window_start < c.chunk_end))
    + (SELECT count(*) FROM rating_run_chunk c FULL JOIN change_batch b USING (batch_id)
        WHERE coalesce(b.changes, 0) <> coalesce(inserted_rollups + updated_rollups + reconciled_deletions, -1))
    + (SELECT count(*) FROM rating_run_chunk a JOIN rating_run_chunk b
        ON a.run_id = b.run_id AND a.chunk_start < b.chunk_start AND a.chunk_end > b.chunk_start)";

/// Each rollup came to be once, and never changed.
async fn assert_billed_once(stage: &Stage) {
    let again = "SELECT count(*) FROM rated_usage_change WHERE operation <> 'insert'";
    assert_eq!(stage.number(again).await, 0, "written again");
    assert_eq!(stage.number(CHANGES).await, stage.number("SELECT count(*) FROM rated_usage").await);
    assert_eq!((stage.number(AHEAD).await, stage.feed_faults().await), (0, 0));
    assert_eq!(stage.mismatches().await, 0, "not what a plain sum says");
    assert_eq!(stage.number("SELECT count(*) FROM rating_lease").await, 0);
}
