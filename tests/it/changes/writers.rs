//! Writers that change rated usage all the time, from several processes: rollups come, change, go
//! and return, and transactions commit in every order.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::events::Random;
use crate::harness::Service;
use crate::stage::{Stage, rate_until_done, window};

/// Rollups in an hour, at most.
const KEYS: i64 = 42;
/// Runs at a time.
const ABREAST: usize = 6;

/// A chunk that has written its changes takes its time before it takes its place in the feed, one
/// in six a long time; and so does one that has its place, before it commits.
const DAWDLE: &str = "
    CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM pg_sleep(CASE WHEN random() < 0.17 THEN 0.3 ELSE random() * 0.01 END);
        RETURN NULL; END $$;
    CREATE TRIGGER dawdle AFTER INSERT ON rating_run_chunk FOR EACH ROW EXECUTE FUNCTION dawdle();
    CREATE FUNCTION commit_slowly() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM pg_sleep(random() * 0.01); RETURN NULL; END $$;
    CREATE CONSTRAINT TRIGGER commit_slowly AFTER INSERT ON change_batch DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION commit_slowly()";

/// Each batch by a number that it gets when its changes are written, as a consumer without the
/// feed would follow them.
const NUMBERED: &str = "
    CREATE TABLE by_id (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, batch_id uuid, changes bigint);
    CREATE FUNCTION number() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO by_id (batch_id, changes) SELECT batch_id, count(*) FROM new GROUP BY batch_id;
        RETURN NULL; END $$;
    CREATE TRIGGER number AFTER INSERT ON rated_usage_change REFERENCING NEW TABLE AS new
        FOR EACH STATEMENT EXECUTE FUNCTION number()";

/// A stage with its services, and hours that are written.
pub struct Writers {
    pub stage: Stage,
    pub services: Arc<Vec<Service>>,
    pub hours: i64,
}

impl Writers {
    pub async fn new(services: usize, hours: i64) -> Writers {
        let stage = Stage::new().await;
        stage.sql(DAWDLE).await;
        stage.sql(NUMBERED).await;
        let mut started = Vec::new();
        for _ in 0..services {
            started.push(stage.service(&["--chunk-hours", "2", "--database-connections", "24"]).await);
        }
        Writers { stage, services: Arc::new(started), hours }
    }

    /// More events for most rollups, none any more for some, and runs over everything.
    pub async fn round(&self, round: u64, random: &mut Random) {
        let (hours, seed) = (self.hours, random.below(1_000));
        let sql = format!(
            "SELECT setseed({seed} / 1000.0);
             DELETE FROM billing_event WHERE mod(abs(hashtext(auth_id || resource_id || model
                || extract(epoch FROM date_trunc('hour', event_ts)))), 10) = {round} % 10;
             INSERT INTO billing_event (request_id, auth_id, resource_id, model, prompt_tokens, cached_tokens,
                completion_tokens, event_ts)
             SELECT format('{round}-%s-%s', h, n), 'auth-' || n % 7, 'res-' || n % 3,
                (ARRAY['acme/large', 'acme/small'])[1 + n % 2], 100 + n, n, n % 11,
                timestamptz '2026-06-01 00:00Z' + make_interval(hours => h, secs => n)
             FROM generate_series(0, {hours} - 1) h, generate_series(1, {KEYS}) n WHERE random() < 0.7"
        );
        self.stage.sql(&sql).await;
        let (mut windows, mut from) = (Vec::new(), 0);
        while from < self.hours {
            let until = self.hours.min(from + 1 + random.below(6) as i64);
            windows.push((from, until));
            from = until;
        }
        random.shuffle(&mut windows);
        let (abreast, mut runs) = (Arc::new(Semaphore::new(ABREAST)), JoinSet::new());
        for (from, until) in windows {
            let (services, abreast) = (self.services.clone(), abreast.clone());
            let service = random.below(services.len() as u64) as usize;
            runs.spawn(async move {
                let _turn = abreast.acquire().await.unwrap();
                rate_until_done(&services[service], window(from, until), Duration::from_secs(60)).await;
            });
        }
        while let Some(run) = runs.join_next().await {
            run.unwrap();
        }
    }
}
