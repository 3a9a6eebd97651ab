//! Which locks that others wait for anyone has on the two tables, and for how long.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection};
use tokio::task::JoinHandle;

/// All that keep others from reading or from writing a whole table.
const STRONG: &str = "SELECT pid, relation::regclass::text, mode FROM pg_locks
    WHERE granted AND locktype = 'relation' AND relation IN ('billing_event'::regclass, 'rated_usage'::regclass)
        AND mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')";
/// For what is done to the catalog alone, on a busy machine.
const SHORT: Duration = Duration::from_millis(500);

/// The longest that each kind of lock was held on each table.
#[derive(Debug, Default)]
pub struct Held(HashMap<(String, String), Duration>);

pub struct Locks {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Held>,
}

impl Locks {
    pub async fn watch(url: &str) -> Locks {
        let stop = Arc::new(AtomicBool::new(false));
        let mut connection = PgConnection::connect(url).await.unwrap();
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let (mut held, mut since) = (Held::default(), HashMap::new());
            while !stopped.load(Ordering::Relaxed) {
                let found: Vec<(i32, String, String)> =
                    sqlx::query_as(STRONG).fetch_all(&mut connection).await.unwrap();
                since.retain(|lock, _| found.contains(lock));
                for lock in found {
                    let begun: &mut Instant = since.entry(lock.clone()).or_insert_with(Instant::now);
                    let (_, table, mode) = lock;
                    let longest = held.0.entry((table, mode)).or_default();
                    *longest = (*longest).max(begun.elapsed());
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            held
        });
        Locks { stop, task }
    }

    pub async fn stop(self) -> Held {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

impl Held {
    /// None that an index is built or a table is read through under, whatever the table's size; the
    /// strongest is there for a moment.
    pub fn assert_short(&self) {
        for ((table, mode), longest) in &self.0 {
            assert_eq!(mode, "AccessExclusiveLock", "{table} had a lock that writers wait for: {self}");
            assert!(*longest < SHORT, "{table} could not be read for {longest:?}");
        }
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "locks that others wait for:")?;
        for ((table, mode), longest) in &self.0 {
            write!(f, " {mode} on {table} for {longest:.1?};")?;
        }
        Ok(())
    }
}
