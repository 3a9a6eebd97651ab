//! The other program: it stores events, reads them, reads rollups and writes to them, one call after
//! the other on a connection each, and knows how long it ever waited.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection};
use tokio::task::JoinHandle;

const CALLS: [(&str, &str); 4] = [
    (
        "store an event",
        "INSERT INTO billing_event (request_id, auth_id, resource_id, model, prompt_tokens, cached_tokens,
             completion_tokens) VALUES ('client-' || $1, 'auth-1', 'resource-1', 'acme/large', 1, 0, 1)",
    ),
    ("read an event", "SELECT FROM billing_event WHERE request_id = 'request-' || $1 % 200000"),
    ("read rollups", "SELECT FROM rated_usage WHERE id = md5(($1 % 20000)::text)"),
    // Not those that their rates don't explain: R13 holds whoever writes.
    (
        "write a rollup",
        "UPDATE rated_usage SET note = 'touched' WHERE id = md5(($1 * 7 % 20000)::text) AND auth_id <> 'auth-500'",
    ),
];
/// Between two calls, so that the machine has time for others.
const BREATH: Duration = Duration::from_millis(2);

/// What a client saw since it was last asked.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    calls: [Vec<Duration>; 4],
}

impl Seen {
    pub fn longest(&self) -> Duration {
        self.calls.iter().flatten().max().copied().unwrap_or_default()
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((name, _), waits) in CALLS.iter().zip(&self.calls) {
            let mut waits = waits.clone();
            waits.sort();
            let at = |share: usize| {
                waits.get(waits.len() * share / 1000).or(waits.last()).copied().unwrap_or_default()
            };
            let longest = waits.last().copied().unwrap_or_default();
            write!(f, "{name} {} times, p99 {:.1?}, longest {longest:.1?}; ", waits.len(), at(990))?;
        }
        write!(f, "longest of all {:.1?}", self.longest())
    }
}

pub struct Client {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Client {
    pub async fn start(url: &str) -> Client {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Seen::default())));
        let mut tasks = Vec::new();
        for (n, (_, sql)) in CALLS.iter().enumerate() {
            let mut connection = PgConnection::connect(url).await.unwrap();
            let (stop, seen) = (stop.clone(), seen.clone());
            tasks.push(tokio::spawn(async move {
                for call in 0_i64.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let begun = Instant::now();
                    sqlx::query(*sql).bind(call).execute(&mut connection).await.unwrap();
                    let took = begun.elapsed();
                    seen.lock().unwrap().calls[n].push(took);
                    tokio::time::sleep(BREATH).await;
                }
            }));
        }
        Client { stop, seen, tasks }
    }

    /// What it saw since it was last asked. It must have seen something.
    pub fn so_far(&self) -> Seen {
        let seen = std::mem::take(&mut *self.seen.lock().unwrap());
        assert!(seen.calls.iter().all(|waits| waits.len() > 10), "{seen}");
        seen
    }

    pub async fn stop(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            // A call that was refused is a failure, too.
            task.await.unwrap();
        }
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
}
