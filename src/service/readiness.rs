//! Whether this process can serve, looked at every two seconds.
//!
//! The look has a pool of its own: a busy service is not an unready one, and a check that
//! hangs must not take a connection away from work. After a failure the pool is made anew, so
//! that a connection which the network swallowed is not waited for.

use std::error::Error as _;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::schema::{self, Incompatible};
use crate::store::{self, Db, DbOptions};

const AWAY: &str = "not available";

/// How often to look, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// From one look to the next.
    pub every: Duration,
    /// A database that has not answered by then is away.
    pub patience: Duration,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing { every: Duration::from_secs(2), patience: Duration::from_secs(2) }
    }
}

/// What the last look found. The texts are safe for anybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// Whether the database answers and takes writes.
    pub database: Result<(), String>,
    /// Whether its schema is one that this build works with.
    pub schema: Result<(), String>,
    /// The service is on its way out and wants no new calls.
    pub stopping: bool,
}

impl Readiness {
    /// Before the first look.
    pub fn unknown() -> Readiness {
        Readiness::away("not checked yet")
    }

    /// Whether the service wants calls.
    pub fn is_ready(&self) -> bool {
        self.database.is_ok() && self.schema.is_ok() && !self.stopping
    }

    fn away(why: &str) -> Readiness {
        Readiness { database: Err(why.into()), schema: Err("unknown".into()), stopping: false }
    }
}

/// Publishes what it finds until it is told to stop, and then that the service stops, unless
/// somebody else has said so before. A change is one line of the log.
pub async fn watch(
    options: DbOptions,
    timing: Timing,
    published: watch::Sender<Readiness>,
    stop: CancellationToken,
) {
    stop.run_until_cancelled(look(options, timing, &published)).await;
    published.send_modify(|readiness| readiness.stopping = true);
}

async fn look(options: DbOptions, timing: Timing, published: &watch::Sender<Readiness>) {
    let options = DbOptions { max_connections: 1, acquire_timeout: timing.patience, ..options };
    let mut db: Option<Db> = None;
    let mut ticks = interval(timing.every);
    // One look at a time, and no hurry after a slow one.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (mut found, detail) = check(&mut db, &options, timing.patience).await;
        let changed = published.send_if_modified(|last| {
            // A look says nothing about that.
            found.stopping = last.stopping;
            let changed = *last != found;
            last.clone_from(&found);
            changed
        });
        if changed {
            say(&found, &detail);
        }
    }
}

/// The answer, and what is for the log alone.
async fn check(db: &mut Option<Db>, options: &DbOptions, patience: Duration) -> (Readiness, String) {
    let open = match db.take() {
        Some(open) => Ok(open),
        None => Db::new(options),
    };
    let open = match open {
        Ok(open) => open,
        Err(error) => return (Readiness::away(&error.to_string()), detail(&error)),
    };
    let checked = timeout(patience, schema::check(&open)).await;
    let ready = Readiness { database: Ok(()), schema: Ok(()), stopping: false };
    match checked {
        // The same words for anybody, so that a database which is away is told once.
        Err(_) => (Readiness::away(AWAY), "it did not answer in time".into()),
        Ok(Err(Incompatible::Store(error @ store::Error::Unavailable(_)))) => {
            (Readiness::away(AWAY), detail(&error))
        }
        Ok(Err(Incompatible::Store(error))) => (Readiness::away(&error.to_string()), detail(&error)),
        Ok(Err(error @ Incompatible::InRecovery)) => (Readiness::away(&error.to_string()), String::new()),
        Ok(Err(error @ (Incompatible::Older { .. } | Incompatible::Newer { .. }))) => {
            *db = Some(open);
            (Readiness { schema: Err(error.to_string()), ..ready }, String::new())
        }
        Ok(Ok(())) => {
            *db = Some(open);
            (ready, String::new())
        }
    }
}

fn detail(error: &store::Error) -> String {
    error.source().map(ToString::to_string).unwrap_or_default()
}

fn say(found: &Readiness, detail: &str) {
    let text = |check: &Result<(), String>| check.clone().err().unwrap_or_else(|| "ok".into());
    let (database, schema) = (text(&found.database), text(&found.schema));
    if found.is_ready() {
        tracing::info!(database, schema, "ready");
    } else {
        tracing::warn!(database, schema, detail, "not ready");
    }
}
