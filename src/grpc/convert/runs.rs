//! The messages of GetRun, ListRuns and WatchRun.

use super::enums::distinct;
use super::{rating, time};
use crate::domain::run_state::RunState;
use crate::domain::window::Trigger;
use crate::proto;
use crate::service::Error;
use crate::service::runs::{Run, RunError, RunFilter, RunPage, RunRecord};

/// Which runs; empty lists filter nothing.
pub fn run_filter(states: Vec<i32>, triggers: Vec<i32>) -> Result<RunFilter, Error> {
    let mut wrong = Vec::new();
    let filter = RunFilter {
        states: distinct("states", states, state, &mut wrong),
        triggers: distinct("triggers", triggers, trigger, &mut wrong),
    };
    if wrong.is_empty() { Ok(filter) } else { Err(Error::Invalid(wrong)) }
}

fn state(state: proto::RunState) -> Option<RunState> {
    match state {
        proto::RunState::Unspecified => None,
        proto::RunState::Pending => Some(RunState::Pending),
        proto::RunState::Running => Some(RunState::Running),
        proto::RunState::Succeeded => Some(RunState::Succeeded),
        proto::RunState::Failed => Some(RunState::Failed),
        proto::RunState::Cancelled => Some(RunState::Cancelled),
        proto::RunState::Cancelling => Some(RunState::Cancelling),
    }
}

fn trigger(trigger: proto::Trigger) -> Option<Trigger> {
    match trigger {
        proto::Trigger::Unspecified => None,
        proto::Trigger::Routine => Some(Trigger::Routine),
        proto::Trigger::Backfill => Some(Trigger::Backfill),
    }
}

/// A page.
pub fn list_runs_response(page: RunPage) -> proto::ListRunsResponse {
    proto::ListRunsResponse {
        runs: page.runs.into_iter().map(run).collect(),
        next_page_token: page.next_page_token,
    }
}

/// A run, as every call tells it.
pub fn run(run: Run) -> proto::Run {
    let error = run.error().map(run_error);
    let Run { record, report } = run;
    proto::Run {
        window: Some(rating::window(record.window)),
        trigger: rating::trigger_out(record.trigger).into(),
        state: rating::state(record.state).into(),
        progress: Some(progress(&record)),
        result: Some(rating::result(report)),
        error,
        created_at: Some(time::to_proto(record.created_at)),
        started_at: record.started_at.map(time::to_proto),
        finished_at: record.finished_at.map(time::to_proto),
        run_id: record.run_id,
        requested_by: record.requested_by,
        reason: record.reason.unwrap_or_default(),
        request_id: record.request_id.unwrap_or_default(),
    }
}

fn progress(record: &RunRecord) -> proto::RunProgress {
    let progress = &record.progress;
    let eta = progress.eta().filter(|_| !record.state.is_finished());
    proto::RunProgress {
        hours_total: progress.hours_total,
        hours_done: progress.hours_done,
        events_done: progress.events_done,
        updated_at: progress.updated_at.map(time::to_proto),
        eta: eta.map(time::duration),
        events_per_second: progress.events_per_second(),
    }
}

fn run_error(error: RunError) -> proto::RunError {
    proto::RunError {
        reason: error.reason,
        message: error.message,
        remaining: error.remaining.map(rating::window),
    }
}
