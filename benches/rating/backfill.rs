//! Backfills of 90 days through the service, each held to what it should have done.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rater::domain::pricebook;
use rater::grpc::client::Channel;
use rater::grpc::client::rating::RatingClient;
use rater::proto::RateWindowRequest;
use sqlx::{Executor, PgConnection, Row};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Outcome;
use super::data::{self, Filled};
use super::service::{self, Service};

const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long the service may take to notice other prices.
const PATIENCE: Duration = Duration::from_secs(30);
/// From here on all have as many digits: each prices otherwise.
const FIRST_EDITION: u32 = 101;

/// What a run does with every rollup.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Work {
    Inserts,
    ChangesNothing,
    Rewrites,
}

impl Work {
    pub fn name(self) -> &'static str {
        match self {
            Work::Inserts => "first run",
            Work::ChangesNothing => "backfill that changes nothing",
            Work::Rewrites => "backfill that changes every rollup",
        }
    }
}

pub struct Backfills<'a> {
    pub quarter: Filled,
    connection: &'a mut PgConnection,
    service: Service,
    client: RatingClient,
    pricebook: PathBuf,
    edition: u32,
    digest: String,
}

impl<'a> Backfills<'a> {
    /// With a service of their own, and nothing rated yet.
    pub async fn start(
        url: &str,
        dir: &Path,
        connection: &'a mut PgConnection,
        quarter: Filled,
    ) -> Outcome<Backfills<'a>> {
        let pricebook = dir.join("quarter.yaml");
        let digest = write(&pricebook, FIRST_EDITION)?;
        let service = Service::start(url, &pricebook)?;
        let client = RatingClient::new(service.connect().await?);
        Ok(Backfills { quarter, connection, service, client, pricebook, edition: FIRST_EDITION, digest })
    }

    /// A connection of another client's.
    pub async fn connect(&self) -> Outcome<Channel> {
        self.service.connect().await
    }

    /// As before the first run.
    pub async fn empty(&mut self) -> Outcome<()> {
        super::empty(self.connection).await
    }

    /// As autovacuum would; what was changed so far is retired.
    pub async fn tidy(&mut self) -> Outcome<()> {
        self.connection.execute("TRUNCATE rated_usage_change, change_batch").await?;
        self.connection.execute("VACUUM ANALYZE rated_usage").await?;
        Ok(())
    }

    /// The next run has other prices; one that goes on keeps its own.
    pub fn reprice(&mut self) -> Outcome<()> {
        self.edition += 1;
        self.digest = write(&self.pricebook, self.edition)?;
        Ok(())
    }

    /// Begins a run, once the service has noticed the latest prices.
    pub async fn begin(&mut self) -> Outcome<String> {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let request = RateWindowRequest {
                detach: true,
                expected_pricebook_digest: self.digest.clone(),
                ..service::rate(self.quarter.window)
            };
            match self.client.rate(request, Duration::ZERO, |_| {}).await {
                Ok(response) => return Ok(response.run_id),
                Err(failure) if failure.reason == "PRICEBOOK_MISMATCH" && Instant::now() < give_up => {
                    sleep(LOOK_EVERY).await;
                }
                Err(failure) => return Err(failure.into()),
            }
        }
    }

    /// A whole run: the time between its commits, in milliseconds.
    pub async fn run(&mut self, work: Work) -> Outcome<Vec<f64>> {
        let run_id = self.begin().await?;
        self.end(&run_id, work, &CancellationToken::new()).await?;
        let sql = "SELECT extract(epoch FROM committed_at - before)::float8 * 1000
            FROM (SELECT committed_at, lag(committed_at) OVER (ORDER BY committed_at) AS before
                FROM rating_run_chunk WHERE run_id = $1) c
            WHERE before IS NOT NULL ORDER BY committed_at";
        Ok(sqlx::query_scalar(sql).bind(&run_id).fetch_all(&mut *self.connection).await?)
    }

    /// Goes on with run after run, until it is enough.
    pub async fn go_on(&mut self, mut run_id: String, work: Work, enough: &CancellationToken) -> Outcome<()> {
        loop {
            if work == Work::Rewrites {
                self.reprice()?;
            }
            self.end(&run_id, work, enough).await?;
            if enough.is_cancelled() {
                return Ok(());
            }
            run_id = self.begin().await?;
        }
    }

    /// Waits for a run's end, or ends it after the chunk in flight when it is enough.
    async fn end(&mut self, run_id: &str, work: Work, enough: &CancellationToken) -> Outcome<()> {
        let mut asked = false;
        loop {
            let sql = "SELECT state FROM rating_run WHERE run_id = $1";
            let state: String = sqlx::query_scalar(sql).bind(run_id).fetch_one(&mut *self.connection).await?;
            match state.as_str() {
                "succeeded" => return self.check(run_id, work, true).await,
                "cancelled" => return self.check(run_id, work, false).await,
                "failed" => return Err("a run failed".into()),
                _ => {}
            }
            if enough.is_cancelled() && !asked {
                // It may have ended by itself.
                drop(self.client.cancel(run_id).await);
                asked = true;
            }
            sleep(LOOK_EVERY).await;
        }
    }

    async fn check(&mut self, run_id: &str, work: Work, whole: bool) -> Outcome<()> {
        let sql =
            "SELECT coalesce(sum(inserted_rollups), 0)::bigint, coalesce(sum(unchanged_rollups), 0)::bigint,
                coalesce(sum(updated_rollups), 0)::bigint, coalesce(sum(rollups), 0)::bigint
            FROM rating_run_chunk WHERE run_id = $1";
        let row = sqlx::query(sql).bind(run_id).fetch_one(&mut *self.connection).await?;
        let done: i64 = row.try_get(match work {
            Work::Inserts => 0,
            Work::ChangesNothing => 1,
            Work::Rewrites => 2,
        })?;
        let rollups: i64 = row.try_get(3)?;
        match done == rollups && (!whole || rollups == self.quarter.rollups) {
            true => Ok(()),
            false => Err(format!("a {}: {done} of {rollups} rollups", work.name()).into()),
        }
    }
}

/// Puts an edition where the service finds it.
fn write(path: &Path, edition: u32) -> Outcome<String> {
    let text = data::pricebook(edition);
    let book = pricebook::parse(&text).book.ok_or("the bench's pricebook is refused")?;
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    fs::rename(new, path)?;
    Ok(book.digest().to_owned())
}
