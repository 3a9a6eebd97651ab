//! Jobs that go row by row over a whole table, `table_job`: one row a kind of job. A batch is one
//! transaction that does the work and writes down how far the job is. It locks the job's row, which
//! says that someone is at it; between two batches a short claim does. Who loses both has lost the
//! job, and commits nothing.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{PgConnection, Postgres, Transaction};
use uuid::Uuid;

use super::{Db, Error, audit, error};

/// How long a job is kept between two batches, which follow each other within a second.
const CLAIM: &str = "3s";
/// A batch waits for nobody's lock for longer, and a process that stands still in one loses it.
const LOCK_LIMIT: &str = "2s";
const IDLE_LIMIT: &str = "10s";

/// How far a job is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRecord {
    /// Which one.
    pub job: String,
    /// `never`, `running`, `succeeded`, `failed` or `cancelled`.
    pub state: String,
    /// What it was asked to do.
    pub parameters: Value,
    /// Rows that are done, those passed over among them.
    pub rows_done: i64,
    /// Rows in all, as counted at the beginning.
    pub rows_all: i64,
    /// Rows that could not be read or changed.
    pub rows_passed_over: i64,
    /// Of the time that someone was at it; a decimal.
    pub rows_per_second: Option<String>,
    /// Until it is done, at this rate.
    pub eta_seconds: Option<i64>,
    /// Whether someone is at it.
    pub owned: bool,
    /// When it began.
    pub started_at: Option<DateTime<Utc>>,
    /// When its last batch was committed.
    pub updated_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// Why it failed; or why a row was passed over, the last one that was.
    pub error: Option<String>,
}

/// A job that is to be done.
#[derive(Debug, Clone)]
pub struct JobStart<'a> {
    /// Which one.
    pub job: &'static str,
    /// What it is asked to do. One that is not done is gone on with if it was asked for the same.
    pub parameters: &'a Value,
    /// Whether other parameters may take over the place of one that is not done.
    pub adapts: bool,
    /// Rows in all, where it begins.
    pub rows_all: i64,
    /// Begin anew, also where there is one that is not done.
    pub anew: bool,
    /// Whether it is an audit, which forgets what the last one found where it begins.
    pub audits: bool,
}

/// The right to do a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobClaim {
    /// Which one.
    pub job: &'static str,
    owner: Uuid,
}

/// What came of claiming a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claimed {
    /// It begins.
    Begun(JobClaim),
    /// It goes on where another process left it.
    Resumed(JobClaim),
    /// Someone is at it.
    Busy,
    /// One with other parameters is not done.
    Other,
}

/// What came of giving up a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelled {
    /// It is given up.
    Now,
    /// Someone is at it.
    Busy,
    /// It is not one that goes on.
    Nothing,
}

/// What a batch did.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct JobStep {
    /// Rows that it worked off, those passed over among them.
    pub rows: i64,
    /// Rows that could not be read or changed.
    pub passed_over: i64,
    /// Where the next one begins.
    pub cursor: Value,
    /// Nothing is left.
    pub done: bool,
    /// Why a row was passed over.
    pub why: Option<String>,
}

/// A batch at work. Dropping it undoes it.
#[derive(Debug)]
pub struct JobBatch {
    pub(super) tx: Transaction<'static, Postgres>,
    claim: JobClaim,
    /// Where it begins.
    pub cursor: Value,
    /// What the job was asked to do.
    pub parameters: Value,
}

impl Db {
    /// Every job that this build knows of.
    pub async fn jobs(&self) -> Result<Vec<JobRecord>, Error> {
        Ok(sqlx::query_as!(
            JobRecord,
            r#"SELECT job, state, parameters, rows_done, rows_all, rows_passed_over,
                   trim_scale(rows_per_second)::text AS rows_per_second,
                   CASE WHEN eta IS NOT NULL
                       THEN greatest(extract(epoch FROM eta - clock_timestamp()), 0)::bigint END AS eta_seconds,
                   coalesce(owner_until > clock_timestamp(), false) OR EXISTS (
                       SELECT FROM pg_locks l WHERE l.locktype = 'transactionid' AND l.granted
                           AND l.transactionid = t.xmax AND t.owner IS NOT NULL) AS "owned!",
                   started_at, updated_at, finished_at, error
               FROM table_job t ORDER BY job"#
        )
        .fetch_all(&self.pool)
        .await?)
    }

    /// Whether the role may look at jobs: not every duty's may.
    pub async fn may_see_jobs(&self) -> Result<bool, Error> {
        let sql = sqlx::query_scalar!(r#"SELECT has_table_privilege('table_job', 'SELECT') AS "may!""#);
        Ok(sql.fetch_one(&self.pool).await?)
    }

    /// Claims a job: one that is not done to go on with it, any other to begin it.
    pub async fn claim_job(&self, start: &JobStart<'_>) -> Result<Claimed, Error> {
        let mut tx = self.pool.begin().await?;
        limit(&mut tx, Duration::from_secs(10)).await?;
        let found = sqlx::query!(
            r#"SELECT state, parameters, owner_until > clock_timestamp() AS claimed
               FROM table_job WHERE job = $1 FOR UPDATE SKIP LOCKED"#,
            start.job
        );
        let Some(found) = found.fetch_optional(&mut *tx).await? else { return Ok(Claimed::Busy) };
        if found.claimed == Some(true) {
            return Ok(Claimed::Busy);
        }
        let same = found.parameters == *start.parameters;
        let unfinished = matches!(found.state.as_str(), "running" | "failed") && !start.anew;
        if unfinished && !same && !start.adapts {
            return Ok(Claimed::Other);
        }
        let claim = JobClaim { job: start.job, owner: Uuid::now_v7() };
        match unfinished {
            true => resume(&mut tx, claim, start).await?,
            false => begin(&mut tx, claim, start).await?,
        }
        tx.commit().await.map_err(error::at_commit)?;
        Ok(if unfinished { Claimed::Resumed(claim) } else { Claimed::Begun(claim) })
    }

    /// Begins a batch whose statements may take so long each. [`Error::LeaseLost`] when another
    /// process took the job over.
    pub async fn begin_batch(&self, claim: JobClaim, statement_timeout: Duration) -> Result<JobBatch, Error> {
        let mut tx = self.pool.begin().await?;
        limit(&mut tx, statement_timeout).await?;
        let found = sqlx::query!(
            "SELECT cursor, parameters FROM table_job
             WHERE job = $1 AND owner = $2 AND state = 'running' FOR UPDATE",
            claim.job,
            claim.owner
        );
        let found = found.fetch_optional(&mut *tx).await?.ok_or(Error::LeaseLost)?;
        Ok(JobBatch { tx, claim, cursor: found.cursor, parameters: found.parameters })
    }

    /// Writes down that a job failed; what it has done stays.
    pub async fn fail_job(&self, claim: JobClaim, why: &str) -> Result<(), Error> {
        sqlx::query!(
            "UPDATE table_job SET state = 'failed', error = $3, finished_at = clock_timestamp(),
                 eta = NULL, owner = NULL, owner_until = NULL
             WHERE job = $1 AND owner = $2 AND state = 'running'",
            claim.job,
            claim.owner,
            why
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Leaves a job to whoever comes next.
    pub async fn leave_job(&self, claim: JobClaim) -> Result<(), Error> {
        sqlx::query!(
            "UPDATE table_job SET eta = NULL, owner = NULL, owner_until = NULL
             WHERE job = $1 AND owner = $2 AND state = 'running'",
            claim.job,
            claim.owner
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Whether it was this claim that brought the job to its end: a commit whose answer never came may
    /// have.
    pub async fn has_done_job(&self, claim: JobClaim) -> Result<bool, Error> {
        Ok(sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM table_job WHERE job = $1 AND owner = $2 AND state = 'succeeded') AS "done!""#,
            claim.job,
            claim.owner
        )
        .fetch_one(&self.pool)
        .await?)
    }

    /// Gives up a job that is not done and that nobody is at. What it did stays.
    pub async fn cancel_job(&self, job: &str) -> Result<Cancelled, Error> {
        let mut tx = self.pool.begin().await?;
        limit(&mut tx, Duration::from_secs(10)).await?;
        let found = sqlx::query!(
            r#"SELECT state IN ('running', 'failed') AS "open!", owner_until > clock_timestamp() AS claimed
               FROM table_job WHERE job = $1 FOR UPDATE SKIP LOCKED"#,
            job
        );
        let Some(found) = found.fetch_optional(&mut *tx).await? else { return Ok(Cancelled::Busy) };
        if found.claimed == Some(true) {
            return Ok(Cancelled::Busy);
        }
        if !found.open {
            return Ok(Cancelled::Nothing);
        }
        sqlx::query!(
            "UPDATE table_job SET state = 'cancelled', finished_at = clock_timestamp(), eta = NULL,
                 owner = NULL, owner_until = NULL WHERE job = $1",
            job
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await.map_err(error::at_commit)?;
        Ok(Cancelled::Now)
    }
}

impl JobBatch {
    /// Commits the work and how far the job is by it.
    pub async fn commit(mut self, step: &JobStep) -> Result<(), Error> {
        sqlx::query!(
            "UPDATE table_job SET
                 rows_done = p.done, rows_all = p.total, worked = p.worked,
                 rows_passed_over = rows_passed_over + $3, cursor = $4,
                 rows_per_second = p.per_second,
                 eta = CASE WHEN NOT $5 AND p.per_second > 0
                     THEN p.at + least((p.total - p.done) / p.per_second, 1e9)::float8 * interval '1 second' END,
                 updated_at = p.at, owner_until = CASE WHEN NOT $5 THEN p.at + $6::text::interval END,
                 error = coalesce($7, error),
                 state = CASE WHEN $5 THEN 'succeeded' ELSE state END,
                 finished_at = CASE WHEN $5 THEN p.at END
             FROM (
                 SELECT *, round(done / greatest(extract(epoch FROM worked), 0.001), 3) AS per_second
                 FROM (
                     SELECT rows_done + $2 AS done,
                         CASE WHEN $5 THEN rows_done + $2 ELSE greatest(rows_all, rows_done + $2) END AS total,
                         worked + (now - updated_at) AS worked, now AS at
                     FROM table_job, clock_timestamp() AS now WHERE job = $1
                 ) q
             ) p
             WHERE job = $1",
            self.claim.job,
            step.rows,
            step.passed_over,
            step.cursor,
            step.done,
            CLAIM,
            step.why
        )
        .execute(&mut *self.tx)
        .await?;
        self.tx.commit().await.map_err(error::at_commit)
    }
}

/// Whatever holds a batch up must not make it hold up others.
async fn limit(connection: &mut PgConnection, statement_timeout: Duration) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"SELECT set_config('statement_timeout', $1, true) AS a, set_config('lock_timeout', $2, true) AS b,
            set_config('idle_in_transaction_session_timeout', $3, true) AS c,
            set_config('client_connection_check_interval',
                CASE WHEN version() LIKE '%linux%' THEN '2s' ELSE '0' END, true) AS d,
            set_config('jit', 'off', true) AS e, set_config('plan_cache_mode', 'force_custom_plan', true) AS f,
            set_config('enable_incremental_sort', 'off', true) AS g"#,
        format!("{}ms", statement_timeout.as_millis().max(1)),
        LOCK_LIMIT,
        IDLE_LIMIT
    )
    .fetch_one(connection)
    .await?;
    Ok(())
}

async fn begin(connection: &mut PgConnection, claim: JobClaim, start: &JobStart<'_>) -> Result<(), Error> {
    sqlx::query!(
        "UPDATE table_job SET state = 'running', parameters = $3, cursor = '{}', rows_done = 0, rows_all = $4,
             rows_passed_over = 0, worked = '0', rows_per_second = NULL, eta = NULL, owner = $2,
             owner_until = now + $5::text::interval, started_at = now, updated_at = now,
             finished_at = NULL, error = NULL
         FROM clock_timestamp() AS now WHERE job = $1",
        claim.job,
        claim.owner,
        start.parameters,
        start.rows_all,
        CLAIM
    )
    .execute(&mut *connection)
    .await?;
    if start.audits {
        audit::forget_findings(connection).await?;
    }
    Ok(())
}

async fn resume(connection: &mut PgConnection, claim: JobClaim, start: &JobStart<'_>) -> Result<(), Error> {
    sqlx::query!(
        "UPDATE table_job SET state = 'running', parameters = $3, owner = $2, updated_at = now,
             owner_until = now + $4::text::interval, finished_at = NULL, error = NULL
         FROM clock_timestamp() AS now WHERE job = $1",
        claim.job,
        claim.owner,
        start.parameters,
        CLAIM
    )
    .execute(connection)
    .await?;
    Ok(())
}
