//! Migrating beside others: writers, readers, other migrators, and those that were killed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rater::service::schema::{self, MigrationError, Step};
use sqlx::postgres::PgPool;
use tokio::task::JoinHandle;

use super::{BILLING_EVENT, RATED_USAGE, indexes, open, row, run, with};
use crate::harness::TestDb;

const SCAN: &str = "billing_event_rating_instant_ix";

async fn sleep(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}

/// A migrator at work.
fn up(database: &TestDb) -> JoinHandle<Result<Vec<Step>, MigrationError>> {
    let db = open(&database.url);
    tokio::spawn(async move { schema::up(&db).await })
}

/// The process of the migrator's that builds an index, once it waits for others.
async fn builder(pool: &PgPool) -> i32 {
    let sql = "SELECT pid FROM pg_stat_activity WHERE datname = current_database()
        AND query LIKE '%INDEX CONCURRENTLY%' AND wait_event_type = 'Lock' AND pid <> pg_backend_pid()";
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(pid) = sqlx::query_scalar(sql).fetch_optional(pool).await.unwrap() {
            return pid;
        }
        assert!(Instant::now() < deadline, "no index is being built");
        sleep(20).await;
    }
}

/// Reads a table as fast as it may until it is told to stop; gives the longest wait.
fn reader(pool: &PgPool, table: &'static str, stop: Arc<AtomicBool>) -> JoinHandle<(Duration, u32)> {
    let pool = pool.clone();
    tokio::spawn(async move {
        let (mut longest, mut reads) = (Duration::ZERO, 0);
        while !stop.load(Ordering::Relaxed) {
            let begun = Instant::now();
            row(&pool, &format!("SELECT count(*) FROM {table}")).await;
            longest = longest.max(begun.elapsed());
            reads += 1;
            sleep(5).await;
        }
        (longest, reads)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_in_use_delays_up_and_readers_hardly_notice() {
    let (database, _) = with(&format!("{BILLING_EVENT}; {RATED_USAGE}")).await;
    let mut holder = database.pool().begin().await.unwrap();
    let write = "UPDATE billing_event SET note = 'held' WHERE request_id = 'req-1'";
    sqlx::raw_sql(write).execute(&mut *holder).await.unwrap();
    sqlx::raw_sql("SELECT count(*) FROM rated_usage").execute(&mut *holder).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let readers = ["billing_event", "rated_usage"].map(|table| reader(database.pool(), table, stop.clone()));
    let migrator = up(&database);
    sleep(3000).await;
    assert!(!migrator.is_finished(), "{:?}", migrator.await);
    holder.commit().await.unwrap();
    migrator.await.unwrap().unwrap();
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        let (longest, reads) = reader.await.unwrap();
        // The lock's time limit is 250 ms; the rest is a busy machine's.
        assert!(longest < Duration::from_millis(900), "a reader waited for {longest:?}");
        assert!(reads > 50, "{reads}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_go_on_while_indexes_are_built() {
    let (database, _) = with(BILLING_EVENT).await;
    schema::up(&open(&database.url)).await.unwrap();
    let again = format!("DROP INDEX {SCAN}; DELETE FROM rater_migration WHERE version = 4");
    run(database.pool(), &again).await;
    let mut holder = database.pool().begin().await.unwrap();
    let insert = |id: &str| {
        format!(
            "INSERT INTO billing_event (request_id, prompt_tokens, completion_tokens) VALUES ('{id}', 1, 1)"
        )
    };
    sqlx::raw_sql(sqlx::AssertSqlSafe(insert("held"))).execute(&mut *holder).await.unwrap();
    let migrator = up(&database);
    builder(database.pool()).await;
    // Past the time limit of the other steps: this one must not have it.
    sleep(600).await;
    run(database.pool(), &insert("beside")).await;
    assert!(!migrator.is_finished());
    holder.commit().await.unwrap();
    migrator.await.unwrap().unwrap();
    assert_eq!(indexes(database.pool(), "billing_event").await, [SCAN]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_migrators_at_once_are_as_good_as_one() {
    let (database, _) = with(&format!("{BILLING_EVENT}; {RATED_USAGE}")).await;
    let migrators: Vec<_> = (0..4).map(|_| up(&database)).collect();
    let mut worked = 0;
    for migrator in migrators {
        worked += usize::from(!migrator.await.unwrap().unwrap().is_empty());
    }
    assert_eq!(worked, 1, "one does it, the others find it done");
    schema::check(&open(&database.url)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migrator_killed_while_it_builds_an_index_leaves_work_for_the_next_one() {
    let (database, _) = with(BILLING_EVENT).await;
    let mut holder = database.pool().begin().await.unwrap();
    // Sees no table yet, so that only the index must wait.
    sqlx::raw_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        .execute(&mut *holder)
        .await
        .unwrap();
    let migrator = up(&database);
    let pid = builder(database.pool()).await;
    run(database.pool(), &format!("SELECT pg_terminate_backend({pid}, 10000)")).await;
    let error = migrator.await.unwrap().unwrap_err();
    assert!(matches!(error, MigrationError::Step { step: 4, .. }), "{error:?}");
    assert_eq!(indexes(database.pool(), "billing_event").await, [format!("{SCAN} INVALID")]);
    schema::check(&open(&database.url)).await.unwrap_err();

    holder.rollback().await.unwrap();
    let taken = up(&database).await.unwrap().unwrap();
    assert_eq!(taken.first().map(|step| step.version), Some(4), "it goes on where that one ended");
    assert_eq!(indexes(database.pool(), "billing_event").await, [SCAN]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migrator_that_is_gone_while_its_index_is_built_is_waited_for() {
    let (database, _) = with(BILLING_EVENT).await;
    let mut holder = database.pool().begin().await.unwrap();
    sqlx::raw_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        .execute(&mut *holder)
        .await
        .unwrap();
    let first = up(&database);
    builder(database.pool()).await;
    first.abort();
    let second = up(&database);
    sleep(600).await;
    assert!(!second.is_finished(), "the server still builds the first one's index");
    let busy = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
        AND query LIKE '%INDEX CONCURRENTLY%' AND pid <> pg_backend_pid()";
    assert_eq!(row(database.pool(), busy).await, "1", "the second one waits without a lock in the server");
    holder.rollback().await.unwrap();
    second.await.unwrap().unwrap();
    assert_eq!(indexes(database.pool(), "billing_event").await, [SCAN]);
    schema::check(&open(&database.url)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_limits_of_the_database_do_not_break_a_long_migration() {
    let (database, _) = with(BILLING_EVENT).await;
    let name = row(database.pool(), "SELECT current_database()").await;
    let limits = format!(
        "ALTER DATABASE {name} SET statement_timeout = '300ms'; ALTER DATABASE {name} SET lock_timeout = '300ms'"
    );
    let mut holder = database.pool().begin().await.unwrap();
    sqlx::raw_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        .execute(&mut *holder)
        .await
        .unwrap();
    run(database.pool(), &limits).await;
    let migrator = up(&database);
    builder(database.pool()).await;
    sleep(600).await;
    assert!(!migrator.is_finished(), "{:?}", migrator.await);
    holder.rollback().await.unwrap();
    migrator.await.unwrap().unwrap();
}
