//! Looking at the records, for gauges: what has ended, what is open, what nobody has rated. Each
//! statement reads by an index, in a session that only reads, and may take only so long: who looks
//! must never be in the way of who works.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{Postgres, Transaction};

use super::{Db, Error};
use crate::domain::outcome::Counts;
use crate::domain::rating::AnomalyKind;
use crate::domain::run_state::RunState;
use crate::domain::window::Trigger;

/// The longest that a statement may take.
const PATIENCE: &str = "5s";
/// How far back is looked: what began, or closed, before that has been known for a month.
const HOURS: i32 = 31 * 24;
const SECONDS: f64 = 31.0 * 24.0 * 3600.0;
/// Of these hours unbilled events are told apart: who was told on a Friday night sees them on Monday.
const RECENT_HOURS: i32 = 3 * 24;
/// Rows of anomalies that are added up.
const ANOMALIES: i64 = 20_000;

/// Runs that ended a short while ago, and what open ones have committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedRuns {
    /// Why they ran.
    pub trigger: Trigger,
    /// How they ended.
    pub state: RunState,
    /// How many.
    pub runs: i64,
    /// What findings are made of, added up; nothing else of it is filled in.
    pub counts: Counts,
    /// Rollups that the brake would not let them take away.
    pub refused_rollups: i64,
}

/// Runs that have not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenRuns {
    /// Why they run.
    pub trigger: Trigger,
    /// How they stand.
    pub state: RunState,
    /// How many.
    pub runs: i64,
    /// For how long one of them has committed nothing; the longest, in seconds.
    pub still_for: i64,
}

/// Leases that are there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Leases {
    /// Whose holder gave a sign of life in time.
    pub live: i64,
    /// Whose holder did not.
    pub expired: i64,
}

/// Events of a kind that the latest run of their hour could not bill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnbilledEvents {
    /// Why not.
    pub kind: AnomalyKind,
    /// Of the last 31 days.
    pub events: i64,
    /// Of the last 3 days.
    pub recent: i64,
}

impl Db {
    /// A short transaction that only looks.
    async fn look(&self) -> Result<Transaction<'static, Postgres>, Error> {
        let mut tx = self.reads.begin().await?;
        sqlx::query!("SELECT set_config('statement_timeout', $1, true)", PATIENCE)
            .fetch_one(&mut *tx)
            .await?;
        Ok(tx)
    }

    /// What ended within this time, and what open runs have committed, by trigger and state.
    pub async fn ended_runs(&self, within: Duration) -> Result<Vec<EndedRuns>, Error> {
        let rows = sqlx::query_file!("src/store/sql/seen_ended_runs.sql", within.as_secs_f64(), SECONDS)
            .fetch_all(&mut *self.look().await?)
            .await?;
        let ended = rows.into_iter().map(|r| EndedRuns {
            trigger: Trigger::parse(&r.trigger),
            state: RunState::parse(&r.state),
            runs: r.runs,
            counts: Counts {
                unpriced_events: r.unpriced_events,
                unattributable_events: r.unattributable_events,
                ambiguous_base_events: r.ambiguous_base_events,
                malformed_events: r.malformed_events,
                clamped_events: r.clamped_events,
                reconciled_deletions: r.reconciled_deletions,
                shrunk_rollups: r.shrunk_rollups,
                rate_drift_rollups: r.rate_drift_rollups,
                unexplained_rollups: r.unexplained_rollups,
                ..Counts::default()
            },
            refused_rollups: r.refused_rollups,
        });
        Ok(ended.collect())
    }

    /// What has not ended, by trigger and state.
    pub async fn open_runs(&self) -> Result<Vec<OpenRuns>, Error> {
        let rows =
            sqlx::query_file!("src/store/sql/seen_open_runs.sql").fetch_all(&mut *self.look().await?).await?;
        let open = rows.into_iter().map(|r| OpenRuns {
            trigger: Trigger::parse(&r.trigger),
            state: RunState::parse(&r.state),
            runs: r.runs,
            still_for: r.still_for,
        });
        Ok(open.collect())
    }

    /// When a run with each trigger last succeeded; one that none did is not there, and a routine run
    /// that only filled a gap is none.
    pub async fn last_successes(
        &self,
        closing_delay: Duration,
    ) -> Result<Vec<(Trigger, DateTime<Utc>)>, Error> {
        let rows =
            sqlx::query_file!("src/store/sql/seen_last_success.sql", SECONDS, closing_delay.as_secs_f64())
                .fetch_all(&mut *self.look().await?)
                .await?;
        Ok(rows.into_iter().map(|r| (Trigger::parse(&r.trigger), r.at)).collect())
    }

    /// Leases that are there.
    pub async fn leases(&self) -> Result<Leases, Error> {
        Ok(sqlx::query_as!(
            Leases,
            r#"SELECT count(*) FILTER (WHERE expires_at > clock_timestamp()) AS "live!",
                count(*) FILTER (WHERE expires_at <= clock_timestamp()) AS "expired!"
            FROM rating_lease"#
        )
        .fetch_one(&mut *self.look().await?)
        .await?)
    }

    /// How long ago the oldest hour closed, in seconds, that has events and that nobody has rated.
    pub async fn oldest_unrated_hour(&self, closing_delay: Duration) -> Result<Option<i64>, Error> {
        Ok(sqlx::query_file_scalar!(
            "src/store/sql/seen_unrated_hour.sql",
            closing_delay.as_secs_f64(),
            HOURS
        )
        .fetch_optional(&mut *self.look().await?)
        .await?)
    }

    /// Events that could not be billed, by kind; a kind without any is not there.
    pub async fn unbilled_events(&self) -> Result<Vec<UnbilledEvents>, Error> {
        let rows = sqlx::query_file!("src/store/sql/seen_unbilled.sql", HOURS, ANOMALIES, RECENT_HOURS)
            .fetch_all(&mut *self.look().await?)
            .await?;
        let unbilled = rows.into_iter().map(|r| UnbilledEvents {
            kind: AnomalyKind::parse(&r.kind),
            events: r.events,
            recent: r.recent,
        });
        Ok(unbilled.collect())
    }
}
