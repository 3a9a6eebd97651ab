//! Taking events in, over a real database.

use std::time::Duration;

use rater::domain::event::RawEvent;
use rater::service::Error;
use rater::service::record_events::{DEFAULT_MAX_BATCHES, EventIntake, Recorded};
use rater::store::{Db, DbOptions};
use sqlx::PgPool;

use crate::harness::{self, TestDb};

mod admission;
mod bad_input;
mod call;
mod conflicts;
mod content;
mod model;
mod poison;
mod races;
mod wire;

/// A database, an intake over it, and another writer beside it.
pub struct Fixture {
    pub intake: EventIntake,
    db: TestDb,
}

pub async fn fixture() -> Fixture {
    over(harness::database().await)
}

/// The same in a database made from a template, which may have options after its name.
pub async fn fixture_in(template: &str) -> Fixture {
    over(harness::database_from(template).await)
}

fn over(db: TestDb) -> Fixture {
    let options =
        DbOptions { url: db.url.clone(), max_connections: 16, acquire_timeout: Duration::from_secs(10) };
    Fixture {
        intake: EventIntake::new(Db::new(&options).unwrap(), DEFAULT_MAX_BATCHES, Default::default()),
        db,
    }
}

impl Fixture {
    /// The other writer's connections.
    pub fn other(&self) -> &PgPool {
        self.db.pool()
    }

    /// An event of some content.
    pub fn event(&self, name: &str) -> RawEvent {
        RawEvent {
            request_id: name.into(),
            auth_id: "acme".into(),
            resource_id: "team".into(),
            model: "acme/large".into(),
            prompt_tokens: 10,
            cached_tokens: 4,
            completion_tokens: 3,
            event_time: Some((1_780_000_000, 5_000)),
            ..RawEvent::default()
        }
    }

    pub async fn record(&self, events: &[RawEvent]) -> Result<Recorded, Error> {
        self.intake.record(events.to_vec(), false).await
    }

    pub async fn record_skipping(&self, events: &[RawEvent]) -> Result<Recorded, Error> {
        self.intake.record(events.to_vec(), true).await
    }

    /// How many events are stored.
    pub async fn count(&self) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM billing_event").fetch_one(self.other()).await.unwrap()
    }

    pub async fn prompt_tokens(&self, name: &str) -> i32 {
        sqlx::query_scalar("SELECT prompt_tokens FROM billing_event WHERE request_id = $1")
            .bind(name)
            .fetch_one(self.other())
            .await
            .unwrap()
    }
}

pub fn done(stored: i64, duplicates: i64) -> Recorded {
    Recorded { stored, duplicates, rejected: Vec::new() }
}

/// Index, field and reason of each rejected event.
pub fn rejected(recorded: &Recorded) -> Vec<(usize, &str, &str)> {
    recorded.rejected.iter().map(|r| (r.index, r.field, r.reason)).collect()
}

/// Field and reason of each violation.
pub fn violations(result: Result<Recorded, Error>) -> Vec<(String, &'static str)> {
    match result {
        Err(Error::Invalid(v) | Error::EventConflict(v)) => {
            v.into_iter().map(|v| (v.field, v.reason)).collect()
        }
        other => panic!("not a refusal: {other:?}"),
    }
}

/// Repeatable random numbers (xorshift64*); the seed is not 0.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % limit
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let j = self.below(i as u64 + 1);
            items.swap(i, usize::try_from(j).unwrap());
        }
    }
}
