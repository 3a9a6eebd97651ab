//! How runs end, or leave their process, and who tells it.

use super::lease::Lease;
use super::run::GATE;
use super::{Db, Error, error};
use crate::domain::run_state::RunState;

/// How a run leaves the process that ran it, short of its end.
#[derive(Debug, Clone, Copy)]
pub enum Leaves<'a> {
    /// It could not go on.
    Failed(Failure<'a>),
    /// Someone asked it to stop.
    Cancelled,
    /// It waits for another process, or for this one. `fruitless`: because something got in its
    /// way, which must not happen for ever.
    Waiting {
        /// Whether it counts as a takeover that led to nothing.
        fruitless: bool,
    },
}

/// Why a run could not go on.
#[derive(Debug, Clone, Copy)]
pub struct Failure<'a> {
    /// An ErrorInfo reason.
    pub reason: &'a str,
    /// For a person.
    pub message: &'a str,
    /// Deleted and shrunk rollups that the brake refused.
    pub refused_rollups: Option<i64>,
}

impl Db {
    /// Writes down how a run leaves its process, and gives its lease back: nobody has to wait.
    /// What it leaves is what its lease still covers: that knows of a chunk whose COMMIT was done
    /// and not answered. False: the lease is another's by now, or nobody's, and so is the record.
    pub async fn leave_run(&self, lease: &Lease, leaves: &Leaves<'_>) -> Result<bool, Error> {
        self.observed("UPDATE rating_run", self.leave(lease, leaves)).await
    }

    async fn leave(&self, lease: &Lease, leaves: &Leaves<'_>) -> Result<bool, Error> {
        let (state, failure, fruitless) = match leaves {
            Leaves::Failed(failure) => (RunState::Failed, Some(failure), false),
            Leaves::Cancelled => (RunState::Cancelled, None, false),
            Leaves::Waiting { fruitless } => (RunState::Pending, None, *fruitless),
        };
        let mut tx = self.begin_control().await?;
        // The lease first, in the order of a takeover: the other way round the two deadlock.
        let remaining_end = sqlx::query_scalar!(
            r#"DELETE FROM rating_lease WHERE run_id = $1 AND fence = $2 RETURNING upper(during) AS "end!""#,
            lease.run_id,
            lease.fence
        )
        .fetch_optional(&mut *tx)
        .await?;
        let Some(remaining_end) = remaining_end else { return Ok(false) };
        sqlx::query!(
            "UPDATE rating_run r SET
                 state = CASE WHEN $2 = 'pending' AND state = 'cancelling' THEN state ELSE $2 END,
                 error_reason = $3, error_message = $4, refused_rollups = $5, remaining_end = $6,
                 fruitless_takeovers = CASE WHEN EXISTS (SELECT FROM rating_run_chunk c
                         WHERE c.run_id = r.run_id AND c.committed_at >= coalesce(r.resumed_at, r.started_at))
                     THEN 0 ELSE fruitless_takeovers + $7::boolean::integer END,
                 finished_at = CASE WHEN $2 <> 'pending' THEN clock_timestamp() END
             WHERE run_id = $1 AND finished_at IS NULL",
            lease.run_id,
            state.as_str(),
            failure.map(|failure| failure.reason),
            failure.map(|failure| failure.message),
            failure.and_then(|failure| failure.refused_rollups),
            remaining_end,
            fruitless
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await.map_err(error::at_commit)?;
        Ok(true)
    }

    /// Ends a run of which nothing is left to do: its last chunk was committed, and nobody was there
    /// any more to say so.
    pub async fn complete_run(&self, lease: &Lease) -> Result<(), Error> {
        self.observed("UPDATE rating_run", self.complete(lease)).await
    }

    async fn complete(&self, lease: &Lease) -> Result<(), Error> {
        let mut tx = self.begin_control().await?;
        let given_back = sqlx::query!(
            "DELETE FROM rating_lease WHERE run_id = $1 AND fence = $2",
            lease.run_id,
            lease.fence
        )
        .execute(&mut *tx)
        .await?;
        if given_back.rows_affected() == 0 {
            return Err(Error::LeaseLost);
        }
        sqlx::query!(
            "UPDATE rating_run SET state = 'succeeded', finished_at = clock_timestamp()
             WHERE run_id = $1 AND finished_at IS NULL",
            lease.run_id
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await.map_err(error::at_commit)
    }

    /// Asks a run to stop: it ends after the chunk in flight, or at once where no process runs
    /// it. The state that this gave it; none where it had ended, or was asked before.
    pub async fn cancel_run(&self, run_id: &str) -> Result<Option<RunState>, Error> {
        self.observed("UPDATE rating_run", self.cancel(run_id)).await
    }

    async fn cancel(&self, run_id: &str) -> Result<Option<RunState>, Error> {
        // Not at the gate: its row may be locked by its last chunk, which is about to commit.
        let asked = sqlx::query!(
            "UPDATE rating_run SET state = 'cancelling'
             WHERE run_id = $1 AND state IN ('pending', 'running')
                 AND EXISTS (SELECT FROM rating_lease WHERE run_id = $1)",
            run_id
        )
        .execute(&self.control)
        .await?;
        if asked.rows_affected() == 1 {
            return Ok(Some(RunState::Cancelling));
        }
        let mut tx = self.begin_control().await?;
        // A takeover decides under the gate, too.
        sqlx::query!("SELECT pg_advisory_xact_lock($1)", GATE).execute(&mut *tx).await?;
        let ended = sqlx::query!(
            "UPDATE rating_run SET state = 'cancelled', remaining_end = coalesce(remaining_end, window_end),
                 finished_at = clock_timestamp()
             WHERE run_id = $1 AND finished_at IS NULL
                 AND NOT EXISTS (SELECT FROM rating_lease WHERE run_id = $1)",
            run_id
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await.map_err(error::at_commit)?;
        Ok((ended.rows_affected() == 1).then_some(RunState::Cancelled))
    }

    /// Whether a run has ended; `None`: there is none.
    pub async fn run_has_ended(&self, run_id: &str) -> Result<Option<bool>, Error> {
        Ok(sqlx::query_scalar!(
            r#"SELECT finished_at IS NOT NULL AS "ended!" FROM rating_run WHERE run_id = $1"#,
            run_id
        )
        .fetch_optional(&self.pool)
        .await?)
    }

    /// Takes the telling of a run that has ended. True for one caller only, in all processes.
    pub async fn claim_telling(&self, run_id: &str) -> Result<bool, Error> {
        let claimed = sqlx::query!(
            "UPDATE rating_run SET told = true WHERE run_id = $1 AND finished_at IS NOT NULL AND NOT told",
            run_id
        )
        .execute(&self.control)
        .await?;
        Ok(claimed.rows_affected() == 1)
    }

    /// Runs that have ended a while ago, and nobody has told it: whoever ended them did not live to,
    /// or never heard of it.
    pub async fn untold_runs(&self) -> Result<Vec<String>, Error> {
        Ok(sqlx::query_scalar!(
            "SELECT run_id FROM rating_run
             WHERE NOT told AND finished_at < clock_timestamp() - interval '5 seconds' LIMIT 100"
        )
        .fetch_all(&self.control)
        .await?)
    }
}
