//! R8: a holder that stands still past the end of its lease commits nothing once another run
//! has taken over, wherever it stood; one that is killed leaves its hours to others; and one
//! that is only slow keeps its lease.

use std::time::Duration;

use nix::sys::signal::Signal;
use rater::domain::window::{RateBasis, Trigger, Window};
use rater::proto::RatingResult;
use rater::store::{Begun, Db, DbOptions, Failure, Leaves, NewRun};
use sqlx::pool::PoolConnection;
use sqlx::{Postgres, Row};
use tokio::task::JoinHandle;
use tonic::Code;

use crate::harness::{Rated, Service, rated_usage};
use crate::stage::{GATE, Refusal, Stage, assert_no_panic, rate, rate_until_done, until, window};

/// A second would do, were the machine not busy with other tests.
const TTL: Duration = Duration::from_secs(2);
const SOON: Duration = Duration::from_secs(20);

/// Where a run is held up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Point {
    /// At the commit of its lease and record: when let go, its process is still before S1.
    BeforeS1,
    InS2,
    /// After S2, before its first chunk's result is written.
    BeforeS3,
    /// At the commit of its first chunk: when let go, its process is before the next S1.
    BetweenChunks,
}

impl Point {
    fn trigger(self) -> &'static str {
        match self {
            Point::BeforeS1 => {
                "CONSTRAINT TRIGGER gate AFTER INSERT ON rating_run
                DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"
            }
            Point::InS2 => "TRIGGER gate BEFORE INSERT ON rated_usage FOR EACH STATEMENT",
            Point::BeforeS3 => "TRIGGER gate BEFORE INSERT ON rating_run_chunk FOR EACH STATEMENT",
            Point::BetweenChunks => {
                "CONSTRAINT TRIGGER gate AFTER INSERT ON rating_run_chunk
                DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"
            }
        }
    }
}

/// A run of two hours, an hour a chunk, that waits in the database.
struct Held {
    stage: Stage,
    holder: Service,
    run_id: String,
    run: JoinHandle<Result<RatingResult, Refusal>>,
    gate: PoolConnection<Postgres>,
}

impl Held {
    async fn at(point: Point) -> Held {
        let stage = Stage::new().await;
        stage.fill("e", 0, 4, 20).await;
        stage
            .sql(&format!(
                "CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN PERFORM pg_advisory_xact_lock_shared(7); RETURN NULL; END $$;
                 CREATE {} EXECUTE FUNCTION gate()",
                point.trigger()
            ))
            .await;
        let mut gate = stage.pool.acquire().await.unwrap();
        sqlx::query("SELECT pg_advisory_lock(7)").execute(&mut *gate).await.unwrap();
        let holder = service(&stage, "2s").await;
        let mut client = holder.client_rating().await;
        let run = tokio::spawn(async move {
            let response = client.rate_window(window(0, 2)).await.map_err(Refusal::from)?;
            Ok(response.into_inner().result.unwrap())
        });
        stage.waiting(7, 1).await;
        let found = holder.logs().into_iter().find_map(|line| {
            let started = line["fields"]["message"] == "run started" || line["message"] == "run started";
            let id = line.get("run_id").unwrap_or(&line["fields"]["run_id"]);
            (started && id.is_string()).then(|| id.as_str().unwrap().to_owned())
        });
        Held { run_id: found.unwrap_or_default(), stage, holder, run, gate }
    }

    async fn let_go(&mut self) {
        sqlx::query("SELECT pg_advisory_unlock(7)").execute(&mut *self.gate).await.unwrap();
        if self.run_id.is_empty() {
            let stage = &self.stage;
            until("the run is there", SOON, async || {
                stage.number("SELECT count(*) FROM rating_run").await > 0
            })
            .await;
            self.run_id =
                sqlx::query_scalar("SELECT run_id FROM rating_run").fetch_one(&stage.pool).await.unwrap();
        }
    }

    /// State, reason and hours left of the held run.
    async fn record(&self) -> (String, String, i64) {
        let sql = "SELECT state, coalesce(error_reason, '') AS reason,
                coalesce(extract(epoch FROM remaining_end - window_start) / 3600, 0)::bigint AS left
            FROM rating_run WHERE run_id = $1";
        let row = sqlx::query(sql).bind(&self.run_id).fetch_one(&self.stage.pool).await.unwrap();
        (row.get("state"), row.get("reason"), row.get("left"))
    }
}

async fn service(stage: &Stage, ttl: &str) -> Service {
    stage.service(&["--lease-ttl", ttl, "--chunk-hours", "1"]).await
}

fn lost(hours_left: i64) -> (String, String, i64) {
    ("failed".into(), "LEASE_LOST".into(), hours_left)
}

#[tokio::test]
async fn r8_a_holder_that_was_stopped_before_s1_commits_nothing() {
    a_stopped_holder_commits_nothing(Point::BeforeS1).await;
}

#[tokio::test]
async fn r8_a_holder_that_was_stopped_in_s2_commits_nothing() {
    a_stopped_holder_commits_nothing(Point::InS2).await;
}

#[tokio::test]
async fn r8_a_holder_that_was_stopped_before_s3_commits_nothing() {
    a_stopped_holder_commits_nothing(Point::BeforeS3).await;
}

#[tokio::test]
async fn r8_a_holder_that_was_stopped_between_chunks_commits_no_more() {
    a_stopped_holder_commits_nothing(Point::BetweenChunks).await;
}

async fn a_stopped_holder_commits_nothing(point: Point) {
    let mut held = Held::at(point).await;
    let taker = service(&held.stage, "4s").await;
    held.holder.signal(Signal::SIGSTOP);
    if matches!(point, Point::InS2 | Point::BeforeS3) {
        // Its lease has run out, and its transaction is still there: nobody takes over yet.
        tokio::time::sleep(TTL + TTL / 2).await;
        let refused = rate(&taker, window(0, 2)).await.unwrap_err();
        assert_eq!((refused.code, refused.reason.as_str()), (Code::Aborted, "WINDOW_BUSY"), "{point:?}");
    }
    held.let_go().await;
    let (result, _) = rate_until_done(&taker, window(0, 2), SOON).await;
    let first_committed = point == Point::BetweenChunks;
    let mine = if first_committed { result.rollups / 2 } else { result.rollups };
    assert_eq!(result.inserted_rollups, mine, "{point:?}");
    let hours_left = if first_committed { 1 } else { 2 };
    assert_eq!(held.record().await, lost(hours_left), "{point:?}");
    let rows = rated_usage(&held.stage.pool).await;
    let changes = held.stage.number("SELECT count(*) FROM rated_usage_change").await;

    held.holder.signal(Signal::SIGCONT);
    let refused = (&mut held.run).await.unwrap().unwrap_err();
    assert_eq!((refused.code, refused.reason.as_str()), (Code::Aborted, "LEASE_LOST"));
    assert_eq!(refused.metadata["run"], held.run_id);
    assert_eq!(refused.metadata["hours_committed"], (2 - hours_left).to_string());

    // The taker's output stands, to the row version.
    assert_eq!(rated_usage(&held.stage.pool).await, rows, "{point:?}");
    assert_eq!(held.stage.number("SELECT count(*) FROM rated_usage_change").await, changes);
    assert_eq!(held.record().await, lost(hours_left), "{point:?}");
    let own: Vec<&Rated> = rows.iter().filter(|row| row.run_id == held.run_id).collect();
    assert_eq!(own.len() as i64, result.rollups - mine, "{point:?}");
    let fence = "SELECT fence FROM rating_run WHERE run_id = $1";
    let fence: i64 = sqlx::query_scalar(fence).bind(&held.run_id).fetch_one(&held.stage.pool).await.unwrap();
    for row in &rows {
        assert_eq!(row.fence == fence, row.run_id == held.run_id);
        assert!(row.fence >= fence, "{point:?}: {row:?}");
    }
    assert_eq!(held.stage.feed_faults().await, 0);
    // It serves on.
    let again = rate(&held.holder, window(0, 2)).await.unwrap();
    assert_eq!((again.unchanged_rollups, again.rollups), (result.rollups, result.rollups));
    assert_no_panic(&held.holder);
}

#[tokio::test]
async fn a_killed_holders_run_goes_on_in_another_process() {
    let mut held = Held::at(Point::InS2).await;
    let taker = service(&held.stage, "4s").await;
    held.holder.signal(Signal::SIGKILL);
    held.let_go().await;
    (&mut held.run).await.unwrap().unwrap_err();
    // Without any call.
    until("the run is done", SOON, async || held.record().await.0 == "succeeded").await;
    rate_until_done(&taker, window(0, 4), SOON).await;
    assert_eq!(held.stage.mismatches().await, 0);
    assert_eq!(held.stage.feed_faults().await, 0);
}

#[tokio::test]
async fn a_heartbeat_keeps_the_lease_of_a_long_chunk() {
    let mut held = Held::at(Point::InS2).await;
    let other = service(&held.stage, "4s").await;
    tokio::time::sleep(TTL * 3).await;
    let refused = rate(&other, window(1, 3)).await.unwrap_err();
    assert_eq!(refused.reason, "WINDOW_BUSY");
    assert_eq!(refused.metadata["run"], held.run_id);
    held.let_go().await;
    // The second chunk's S1 looks at the time.
    let result = (&mut held.run).await.unwrap().expect("the lease lived on");
    assert_eq!(result.inserted_rollups, result.rollups);
}

/// Acquisition passes one narrow gate. Whoever stands in it for long holds up other runs'
/// beginnings, and never their heartbeats.
#[tokio::test]
async fn heartbeats_do_not_wait_behind_calls_that_wait_for_their_lease() {
    let mut held = Held::at(Point::InS2).await;
    // Its connection is there: on a busy machine, making one takes longer than a lease lives.
    let renewed = "SELECT count(*) FROM rating_lease JOIN rating_run USING (run_id)
        WHERE expires_at > created_at + interval '2.3 s'";
    until("a heartbeat", SOON, async || held.stage.number(renewed).await == 1).await;
    let mut gate = held.stage.pool.acquire().await.unwrap();
    sqlx::query("SELECT pg_advisory_lock($1)").bind(GATE).execute(&mut *gate).await.unwrap();
    let mut others = Vec::new();
    for _ in 0..8 {
        let mut client = held.holder.client_rating().await;
        others
            .push(tokio::spawn(async move { client.rate_window(window(3, 4)).await.map_err(Refusal::from) }));
    }
    held.stage.waiting(GATE, 4).await;
    tokio::time::sleep(TTL * 2).await;
    held.let_go().await;
    let result = (&mut held.run).await.unwrap();
    sqlx::query("SELECT pg_advisory_unlock($1)").bind(GATE).execute(&mut *gate).await.unwrap();
    result.expect("the lease lived on");
    for other in others {
        if let Err(refused) = other.await.unwrap() {
            // Nobody waits at the gate for ever.
            assert!(
                ["WINDOW_BUSY", "DATABASE_UNAVAILABLE"].contains(&refused.reason.as_str()),
                "{refused:?}"
            );
        }
    }
}

/// A run that fails ends its record and gives its lease back, while another process takes the
/// expired lease away and ends the record: neither waits for the other in a circle.
#[tokio::test]
async fn the_end_of_a_run_and_its_takeover_do_not_deadlock() {
    let stage = Stage::new().await;
    let acquire_timeout = Duration::from_secs(10);
    let db = Db::new(&DbOptions { url: stage.url.clone(), max_connections: 2, acquire_timeout }).unwrap();
    for fails_first in [true, false] {
        let start = "2026-06-01T00:00:00Z".parse().unwrap();
        let run = NewRun {
            run_id: format!("run-{fails_first}"),
            window: Window { start, end: "2026-06-01T01:00:00Z".parse().unwrap() },
            trigger: Trigger::Backfill,
            basis: RateBasis::Pricebook,
            pricebook_digest: "0".repeat(64),
            pricebook_yaml: String::new(),
            currency: "USD".into(),
            requested_by: String::new(),
            request_id: None,
            request_hash: String::new(),
            reason: None,
            expected_plan_hash: None,
            traceparent: None,
            lease_ttl: Duration::from_millis(1),
        };
        let Begun::Started(lease, _) = db.begin_run(&run).await.unwrap() else { panic!("not begun") };
        tokio::time::sleep(Duration::from_millis(10)).await;
        // Whoever comes to the record waits, so that both are in the middle.
        let mut reader = stage.pool.begin().await.unwrap();
        let pause = "SELECT 1 FROM rating_run WHERE run_id = $1 FOR UPDATE";
        sqlx::query(pause).bind(&run.run_id).execute(&mut *reader).await.unwrap();
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'rater'
            AND datname = current_database() AND wait_event_type = 'Lock'";
        let failure = Failure { reason: "INTERNAL", message: "failed", refused_rollups: None };
        let leaves = Leaves::Failed(failure);
        let fail = async { db.leave_run(&lease, &leaves).await.map(drop) };
        let reap = async { db.take_over("another", Duration::from_secs(2)).await.map(drop) };
        let second = async {
            until("the first waits", SOON, async || stage.number(waits).await > 0).await;
        };
        let release = async {
            until("the first waits", SOON, async || stage.number(waits).await > 0).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
            reader.rollback().await.unwrap();
        };
        let (one, other, ()) = match fails_first {
            true => tokio::join!(
                fail,
                async {
                    second.await;
                    reap.await
                },
                release
            ),
            false => tokio::join!(
                async {
                    second.await;
                    fail.await
                },
                reap,
                release
            ),
        };
        one.expect("the end is recorded");
        other.expect("the sweep goes on");
        assert_eq!(stage.number("SELECT count(*) FROM rating_lease").await, 0);
    }
    drop(db);
    assert_eq!(stage.deadlocks().await, 0);
}
