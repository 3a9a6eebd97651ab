//! Reading runs: each with the sum of its committed chunks, in one snapshot.

use chrono::{DateTime, Utc};

use super::counts::{counts, money};
use super::{Db, Error};
use crate::domain::money::Money;
use crate::domain::outcome::Counts;
use crate::domain::run_state::{Progress, RunState};
use crate::domain::window::{RateBasis, Trigger, Window};

/// A run as its record and its chunks have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunRecord {
    /// The run.
    pub run_id: String,
    /// How it stands.
    pub state: RunState,
    /// What it rates.
    pub window: Window,
    /// How loud it is.
    pub trigger: Trigger,
    /// Which rates billed rollups keep.
    pub basis: RateBasis,
    /// The pricebook it keeps.
    pub pricebook_digest: String,
    /// That pricebook's currency.
    pub currency: String,
    /// The caller.
    pub requested_by: String,
    /// The caller's own id for the request.
    pub request_id: Option<String>,
    /// Why the operator runs it.
    pub reason: Option<String>,
    /// The plan that it must keep to.
    pub expected_plan_hash: Option<String>,
    /// When it was accepted.
    pub created_at: DateTime<Utc>,
    /// When it began.
    pub started_at: Option<DateTime<Utc>>,
    /// When another process took it over, the last time.
    pub resumed_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// An ErrorInfo reason, when it failed.
    pub error_reason: Option<String>,
    /// For a person, when it failed.
    pub error_message: Option<String>,
    /// Where the hours end that it did not rate, when it did not end well; they begin at the
    /// window's start.
    pub remaining_end: Option<DateTime<Utc>>,
    /// Deleted and shrunk rollups that the brake refused.
    pub refused_rollups: Option<i64>,
    /// The trace of the call that began it.
    pub traceparent: Option<String>,
    /// What its committed chunks did.
    pub counts: Counts,
    /// What their deleted and shrunk rollups lost.
    pub lost_cost: Money,
    /// How far it is.
    pub progress: Progress,
}

/// Which runs. An empty list filters nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunFilter {
    /// Any of these states.
    pub states: Vec<RunState>,
    /// Any of these triggers.
    pub triggers: Vec<Trigger>,
}

/// Where a run stands in the order of pages: newest first.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RunKey {
    /// When it was accepted.
    pub created_at: DateTime<Utc>,
    /// The run.
    pub run_id: String,
}

impl Db {
    /// A run, if there is one of this id.
    pub async fn find_run(&self, run_id: &str) -> Result<Option<RunRecord>, Error> {
        Ok(self.run_records(Some(run_id), &RunFilter::default(), None, 1).await?.pop())
    }

    /// At most `limit` runs after `after`, newest first.
    pub async fn run_page(
        &self,
        filter: &RunFilter,
        after: Option<&RunKey>,
        limit: i64,
    ) -> Result<Vec<RunRecord>, Error> {
        self.run_records(None, filter, after, limit).await
    }

    async fn run_records(
        &self,
        run_id: Option<&str>,
        filter: &RunFilter,
        after: Option<&RunKey>,
        limit: i64,
    ) -> Result<Vec<RunRecord>, Error> {
        let states: Vec<String> = filter.states.iter().map(|state| state.as_str().to_owned()).collect();
        let triggers: Vec<String> = filter.triggers.iter().map(|t| t.as_str().to_owned()).collect();
        let read = sqlx::query_file!(
            "src/store/sql/run_records.sql",
            run_id,
            &states,
            &triggers,
            after.map(|key| key.created_at),
            after.map(|key| key.run_id.as_str()),
            limit
        )
        .fetch_all(&self.pool);
        let rows = self.observed("SELECT rating_run", read).await?;
        rows.into_iter()
            .map(|r| {
                let window = Window { start: r.window_start, end: r.window_end };
                Ok(RunRecord {
                    state: RunState::parse(&r.state),
                    window,
                    trigger: Trigger::parse(&r.trigger),
                    basis: RateBasis::parse(&r.rate_basis),
                    counts: counts!(r),
                    lost_cost: money(&r.lost_cost)?,
                    progress: Progress {
                        hours_total: window.hour_count(),
                        hours_done: r.hours,
                        events_done: r.events,
                        hours_since: r.hours_since,
                        events_since: r.events_since,
                        since: r.resumed_at.or(r.started_at),
                        updated_at: r.updated_at,
                    },
                    run_id: r.run_id,
                    pricebook_digest: r.pricebook_digest,
                    currency: r.currency_code,
                    requested_by: r.requested_by,
                    request_id: r.request_id,
                    reason: r.reason,
                    expected_plan_hash: r.expected_plan_hash,
                    created_at: r.created_at,
                    started_at: r.started_at,
                    resumed_at: r.resumed_at,
                    finished_at: r.finished_at,
                    error_reason: r.error_reason,
                    error_message: r.error_message,
                    remaining_end: r.remaining_end,
                    refused_rollups: r.refused_rollups,
                    traceparent: r.traceparent,
                })
            })
            .collect()
    }
}
