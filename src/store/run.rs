//! The durable record of a run. It begins together with its lease, in one transaction: a
//! request that is refused leaves nothing, and its id is not used up.

use sqlx::PgConnection;

use super::lease::{self, Holder, Lease};
use super::{Db, Error, error};
use crate::domain::plan::HourHash;
use crate::domain::window::{RateBasis, Trigger, Window};

/// Serialises acquisition, for an instant: concurrent inserts into an exclusion constraint can
/// deadlock.
pub(super) const GATE: i64 = 0x7261_7465_725f_6c73; // "rater_ls"

/// A run that is about to begin.
#[derive(Debug, Clone)]
pub struct NewRun {
    /// Made up by the process.
    pub run_id: String,
    /// What it rates.
    pub window: Window,
    /// How loud it is.
    pub trigger: Trigger,
    /// Which rates billed rollups keep.
    pub basis: RateBasis,
    /// The pricebook it keeps to its end.
    pub pricebook_digest: String,
    /// That pricebook's text.
    pub pricebook_yaml: String,
    /// That pricebook's currency.
    pub currency: String,
    /// The caller.
    pub requested_by: String,
    /// The caller's own id for the request.
    pub request_id: Option<String>,
    /// Of the request's arguments.
    pub request_hash: String,
    /// Why the operator runs it.
    pub reason: Option<String>,
    /// The plan that it must keep to.
    pub expected_plan_hash: Option<String>,
    /// The trace that it belongs to.
    pub traceparent: Option<String>,
    /// How long its lease lives without a heartbeat.
    pub lease_ttl: std::time::Duration,
}

/// What came of it.
#[derive(Debug)]
pub enum Begun {
    /// It runs, with this lease; runs without a process that a backfill ended on its way.
    Started(Lease, Vec<String>),
    /// The same caller's request id is known.
    Known(Known),
    /// An overlapping run holds the lease.
    Busy(Holder),
}

/// A run that a request id stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The run.
    pub run_id: String,
    /// Of the arguments that it was asked with.
    pub request_hash: String,
}

impl Db {
    /// Begins a run: finds its request id known, or takes the lease and writes the record.
    pub async fn begin_run(&self, run: &NewRun) -> Result<Begun, Error> {
        self.observed("INSERT rating_lease", self.begin(run)).await
    }

    async fn begin(&self, run: &NewRun) -> Result<Begun, Error> {
        let mut tx = self.begin_control().await?;
        sqlx::query!("SELECT pg_advisory_xact_lock($1)", GATE).execute(&mut *tx).await?;
        if let Some(id) = &run.request_id
            && let Some(known) = known(&mut tx, &run.requested_by, id).await?
        {
            return Ok(Begun::Known(known));
        }
        lease::reap(&mut tx, Some(run.window)).await?;
        let begun = match acquire(&mut tx, run).await? {
            Ok(fence) => {
                let ended = match run.trigger {
                    Trigger::Backfill => end_overlapped(&mut tx, run.window).await?,
                    Trigger::Routine => Vec::new(),
                };
                record(&mut tx, run, fence).await?;
                Begun::Started(Lease { run_id: run.run_id.clone(), fence, ttl: run.lease_ttl }, ended)
            }
            // What was reaped stays so.
            Err(holder) => Begun::Busy(holder),
        };
        tx.commit().await.map_err(error::at_commit)?;
        Ok(begun)
    }

    /// The run that a caller's request id stands for, if it was used in the last 24 hours.
    pub async fn known_request(&self, requested_by: &str, request_id: &str) -> Result<Option<Known>, Error> {
        let look = async {
            let mut connection = self.pool.acquire().await?;
            known(&mut connection, requested_by, request_id).await
        };
        self.observed("SELECT rating_run", look).await
    }

    /// Stores the plan that a run keeps to, before its first commit.
    pub async fn store_plan(&self, lease: &Lease, hours: &[HourHash]) -> Result<(), Error> {
        let hours: Vec<Vec<u8>> = hours.iter().map(|hash| hash.to_vec()).collect();
        let store = sqlx::query!(
            "UPDATE rating_run SET hour_hashes = $3 WHERE run_id = $1
                 AND EXISTS (SELECT FROM rating_lease WHERE run_id = $1 AND fence = $2)",
            lease.run_id,
            lease.fence,
            &hours
        )
        .execute(&self.pool);
        let stored = self.observed("UPDATE rating_run", store).await?;
        if stored.rows_affected() == 1 { Ok(()) } else { Err(Error::LeaseLost) }
    }
}

async fn end_overlapped(connection: &mut PgConnection, window: Window) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_file_scalar!("src/store/sql/end_overlapped_runs.sql", window.start, window.end)
        .fetch_all(connection)
        .await
}

/// The lease's fence, or who holds one that overlaps. A holder that ends between the two
/// statements has made room: then it is tried again.
async fn acquire(connection: &mut PgConnection, run: &NewRun) -> Result<Result<i64, Holder>, Error> {
    for _ in 0..10 {
        if let Some(fence) = lease::insert(connection, &run.run_id, run.window, run.lease_ttl).await? {
            return Ok(Ok(fence));
        }
        if let Some(holder) = lease::holder(connection, run.window).await? {
            return Ok(Err(holder));
        }
    }
    Err(Error::Inconsistent("a lease is refused that overlaps none"))
}

/// The run of a request id; ids are remembered for 24 hours.
async fn known(
    connection: &mut PgConnection,
    requested_by: &str,
    request_id: &str,
) -> Result<Option<Known>, sqlx::Error> {
    sqlx::query_as!(
        Known,
        "SELECT run_id, request_hash FROM rating_run
         WHERE request_id = $1 AND requested_by = $2 AND created_at > clock_timestamp() - interval '24 hours'
         ORDER BY created_at DESC LIMIT 1",
        request_id,
        requested_by
    )
    .fetch_optional(connection)
    .await
}

async fn record(connection: &mut PgConnection, run: &NewRun, fence: i64) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO pricebook (digest, pricebook_yaml) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        run.pricebook_digest,
        run.pricebook_yaml
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "INSERT INTO rating_run (run_id, window_start, window_end, trigger, rate_basis, state,
             pricebook_digest, currency_code, fence, requested_by, request_id, request_hash, reason,
             expected_plan_hash, traceparent, started_at, told)
         VALUES ($1, $2, $3, $4, $5, 'running', $6, $7, $8, $9, $10, $11, $12, $13, $14, clock_timestamp(),
             false)",
        run.run_id,
        run.window.start,
        run.window.end,
        run.trigger.as_str(),
        run.basis.as_str(),
        run.pricebook_digest,
        run.currency,
        fence,
        run.requested_by,
        run.request_id,
        run.request_hash,
        run.reason,
        run.expected_plan_hash,
        run.traceparent
    )
    .execute(connection)
    .await?;
    Ok(())
}
