//! Transactions that are held open beside the writers: of another program that has written, of
//! one that only looks, of chunks that have written their changes and are not let on to their place
//! in the feed, so that younger ones are committed first, and of chunks that have their place.

use std::time::{Duration, Instant};

use rater::proto::*;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::writers::Writers;
use crate::events::Random;
use crate::stage::{hour, window};

/// Serialises the feed's last step before COMMIT: the service's own lock.
const FEED: i64 = 0x7261_7465_725f_6664;
/// Where chunks wait that have written their changes, one at a time; that of the later hours; and a
/// chunk that has its place in the feed.
const WRITTEN: i64 = 7;
const LATER: i64 = 8;
const PLACED: i64 = 9;
/// So many younger batches are committed before a chunk goes on.
const OVERTAKEN_BY: i64 = 4;
/// Unless there are no more of them, as at the end of a round.
const PATIENCE: Duration = Duration::from_millis(500);

/// Changes of the chunk that is held all the while: two hours of each key.
pub const LATE: i64 = 84;

/// What is open from before the first run until [`Held::let_go`].
pub struct Held {
    /// Has written an event, and so has a transaction's id.
    writer: PgConnection,
    /// REPEATABLE READ, and has looked.
    reader: PgConnection,
    /// Has the lock that the chunk of the later hours waits for.
    gate: PgConnection,
    chunk: JoinHandle<RateWindowResponse>,
    /// The writer's.
    xid: i64,
    /// How far the feed was when the reader looked, and how many batches it had.
    looked: (i64, i64),
}

impl Held {
    /// Opens them all. The chunk is of two hours after those that are written.
    pub async fn open(writers: &Writers) -> Held {
        let (stage, hours) = (&writers.stage, writers.hours);
        let later = hour(hours).seconds;
        let sql = format!(
            "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF NEW.chunk_start >= to_timestamp({later}) THEN
                    PERFORM pg_advisory_xact_lock_shared({LATER});
                ELSIF pg_try_advisory_xact_lock(1, {WRITTEN}) THEN
                    PERFORM pg_advisory_xact_lock_shared({WRITTEN});
                END IF;
                RETURN NULL; END $$;
             CREATE TRIGGER hold AFTER INSERT ON rating_run_chunk FOR EACH ROW EXECUTE FUNCTION hold();
             CREATE FUNCTION hold_placed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF pg_try_advisory_xact_lock(1, {PLACED}) THEN
                    PERFORM pg_advisory_xact_lock_shared({PLACED});
                END IF;
                RETURN NULL; END $$;
             CREATE CONSTRAINT TRIGGER hold_placed AFTER INSERT ON change_batch DEFERRABLE INITIALLY DEFERRED
                FOR EACH ROW EXECUTE FUNCTION hold_placed()"
        );
        stage.sql(&sql).await;
        let mut gate = connection(writers).await;
        number(&mut gate, &format!("SELECT count(pg_advisory_lock({LATER}))")).await;
        stage.fill("held", hours, hours + 2, LATE / 2).await;
        let mut client = writers.services[0].client_rating().await;
        let request = window(hours, hours + 2);
        let chunk = tokio::spawn(async move { client.rate_window(request).await.unwrap().into_inner() });
        stage.waiting(LATER, 1).await;

        let mut writer = connection(writers).await;
        let sql = "BEGIN; INSERT INTO billing_event (request_id, auth_id, resource_id, model, prompt_tokens,
                cached_tokens, completion_tokens, event_ts)
            VALUES ('held', 'auth-1', 'res-1', 'acme/small', 100, 40, 10, '2026-06-01T00:30Z')";
        sqlx::raw_sql(sql).execute(&mut writer).await.unwrap();
        let xid = number(&mut writer, "SELECT pg_current_xact_id()::text::bigint").await;
        let mut reader = connection(writers).await;
        sqlx::raw_sql("BEGIN ISOLATION LEVEL REPEATABLE READ").execute(&mut reader).await.unwrap();
        let looked = look(&mut reader).await;
        Held { writer, reader, gate, chunk, xid, looked }
    }

    /// All of them are still what they were; how many batches were committed past the writer.
    pub async fn check(&mut self, writers: &Writers) -> i64 {
        let horizon =
            writers.stage.number("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint").await;
        assert!(horizon <= self.xid, "it holds back everyone's horizon: {horizon} {}", self.xid);
        assert_eq!(look(&mut self.reader).await, self.looked);
        assert!(!self.chunk.is_finished());
        writers
            .stage
            .number(&format!("SELECT count(*) FROM change_batch WHERE xmin::text::bigint > {}", self.xid))
            .await
    }

    /// Lets them all commit. How many batches were committed before the chunk that had written its
    /// changes before them all.
    pub async fn let_go(mut self, writers: &Writers) -> i64 {
        for connection in [&mut self.writer, &mut self.reader] {
            sqlx::raw_sql("COMMIT").execute(connection).await.unwrap();
        }
        self.gate.close().await.unwrap();
        let run = self.chunk.await.unwrap();
        assert_eq!(run.state(), RunState::Succeeded);
        let sql = format!(
            "SELECT count(*) FROM change_batch b, by_id n, change_batch h JOIN by_id i USING (batch_id)
             WHERE h.run_id = '{}' AND n.batch_id = b.batch_id AND b.position < h.position AND n.id > i.id",
            run.run_id
        );
        writers.stage.number(&sql).await
    }
}

/// Those who hold something again and again until it is over, and then tell how often they did.
pub async fn holders(writers: &Writers, seed: u64, over: &watch::Receiver<bool>) -> [JoinHandle<u64>; 3] {
    let two = [connection(writers).await, connection(writers).await];
    [
        tokio::spawn(overtake(connection(writers).await, Random(seed), over.clone())),
        tokio::spawn(crowd(connection(writers).await, Random(seed + 1), over.clone())),
        tokio::spawn(look_back(two, Random(seed + 2), over.clone())),
    ]
}

/// Holds one chunk after the other until it was overtaken; how often one was by all that it was to be.
async fn overtake(mut connection: PgConnection, mut random: Random, over: watch::Receiver<bool>) -> u64 {
    let newest = "SELECT coalesce(max(position), 0) FROM change_batch";
    let mut overtaken = 0;
    while !*over.borrow() {
        number(&mut connection, &format!("SELECT count(pg_advisory_lock({WRITTEN}))")).await;
        if reaches(&mut connection, &waiting(WRITTEN), 1, &over).await {
            let enough = number(&mut connection, newest).await + OVERTAKEN_BY;
            overtaken += u64::from(reaches(&mut connection, newest, enough, &over).await);
        }
        number(&mut connection, &format!("SELECT count(pg_advisory_unlock({WRITTEN}))")).await;
        pause(random.below(100)).await;
    }
    overtaken
}

/// Holds one chunk after the other that has its place until others want theirs; how often they did.
async fn crowd(mut connection: PgConnection, mut random: Random, over: watch::Receiver<bool>) -> u64 {
    let mut crowds = 0;
    while !*over.borrow() {
        number(&mut connection, &format!("SELECT count(pg_advisory_lock({PLACED}))")).await;
        if reaches(&mut connection, &waiting(PLACED), 1, &over).await {
            crowds += u64::from(reaches(&mut connection, &waiting(FEED), 2, &over).await);
        }
        number(&mut connection, &format!("SELECT count(pg_advisory_unlock({PLACED}))")).await;
        pause(random.below(200)).await;
    }
    crowds
}

/// Takes a snapshot after the other and keeps it while others commit: what it sees is the feed up to
/// a place, and nothing in it is ever added; how many.
async fn look_back(
    [mut snapshot, mut now]: [PgConnection; 2],
    mut random: Random,
    over: watch::Receiver<bool>,
) -> u64 {
    let mut snapshots = 0;
    while !*over.borrow() {
        sqlx::raw_sql("BEGIN ISOLATION LEVEL REPEATABLE READ").execute(&mut snapshot).await.unwrap();
        let looked = look(&mut snapshot).await;
        pause(random.below(1_500)).await;
        let sql = format!("SELECT count(*) FROM change_batch WHERE position <= {}", looked.0);
        assert_eq!(number(&mut now, &sql).await, looked.1, "up to {}", looked.0);
        assert_eq!(look(&mut snapshot).await, looked);
        sqlx::raw_sql("COMMIT").execute(&mut snapshot).await.unwrap();
        snapshots += 1;
    }
    snapshots
}

/// One of its own: it is held.
async fn connection(writers: &Writers) -> PgConnection {
    PgConnection::connect(&writers.stage.url).await.unwrap()
}

async fn number(connection: &mut PgConnection, sql: &str) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(connection).await.unwrap()
}

/// How far the feed is, and how many batches it has.
async fn look(connection: &mut PgConnection) -> (i64, i64) {
    let sql = "SELECT coalesce(max(position), 0), count(*) FROM change_batch";
    sqlx::query_as(sql).fetch_one(connection).await.unwrap()
}

/// How many sessions wait for an advisory lock.
fn waiting(lock: i64) -> String {
    format!(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
            AND ((classid::bigint << 32) | objid::bigint) = {lock}
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
}

/// Whether a number became that large before it was time to go on.
async fn reaches(
    connection: &mut PgConnection,
    sql: &str,
    enough: i64,
    over: &watch::Receiver<bool>,
) -> bool {
    let began = Instant::now();
    while began.elapsed() < PATIENCE && !*over.borrow() {
        if number(connection, sql).await >= enough {
            return true;
        }
        pause(3).await;
    }
    false
}

async fn pause(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}
