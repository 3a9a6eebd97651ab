//! `rater runs list`: runs, newest first.

use std::process::ExitCode;

use super::fields::{severity, state, trigger};
use crate::cli::client::ClientOptions;
use crate::cli::console::{Console, Reader};
use crate::cli::output::page;
use crate::cli::words::time;
use crate::grpc::client::rating::RatingClient;
use crate::proto::{ListRunsRequest, Run, RunState, Trigger};

/// Print runs, newest first
#[derive(Debug, clap::Args)]
pub struct List {
    #[command(flatten)]
    client: ClientOptions,
    /// Only runs in this state (may be given again)
    #[arg(long = "state", env = "RATER_STATE", value_enum, value_delimiter = ',')]
    states: Vec<StateArg>,
    /// Only runs with this trigger (may be given again)
    #[arg(long = "trigger", env = "RATER_TRIGGER", value_enum, value_delimiter = ',')]
    triggers: Vec<TriggerArg>,
    /// Stop after this many runs
    #[arg(long, env = "RATER_LIMIT", default_value_t = 50)]
    limit: usize,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum StateArg {
    /// Waits for a process: the one that ran it is gone
    Pending,
    /// Is being rated
    Running,
    /// Was asked to stop; the chunk in flight goes on
    Cancelling,
    /// Its window is rated
    Succeeded,
    /// Hours are left
    Failed,
    /// Was stopped
    Cancelled,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum TriggerArg {
    /// Scheduled
    Routine,
    /// Asked for by an operator
    Backfill,
}

/// Of a page, however many runs are asked for.
const LARGEST_PAGE: usize = 200;

const HEADERS: [&str; 14] = [
    "run_id",
    "state",
    "trigger",
    "since",
    "until",
    "hours_done",
    "hours_total",
    "events",
    "total_cost",
    "currency_code",
    "severity",
    "started",
    "finished",
    "reason",
];

impl List {
    /// Reads and prints, page by page.
    pub async fn run(self, console: &mut Console<'_>) -> Result<ExitCode, String> {
        let mut client = RatingClient::new(self.client.channel().await?);
        let mut request = self.request();
        let mut left = self.limit;
        let mut first = true;
        loop {
            request.page_size = i32::try_from(left.clamp(1, LARGEST_PAGE)).unwrap_or_default();
            let mut answer = client.runs(request.clone()).await.map_err(|failure| failure.to_string())?;
            answer.runs.truncate(left);
            left -= answer.runs.len();
            let text = page(self.client.output, "rating.v1.Run", &HEADERS, &answer.runs, cells, first)?;
            let reader = console.print(&text)?;
            first = false;
            if reader == Reader::Gone || answer.next_page_token.is_empty() || left == 0 {
                return Ok(ExitCode::SUCCESS);
            }
            request.page_token = answer.next_page_token;
        }
    }

    fn request(&self) -> ListRunsRequest {
        let state = |state: &StateArg| match state {
            StateArg::Pending => RunState::Pending.into(),
            StateArg::Running => RunState::Running.into(),
            StateArg::Cancelling => RunState::Cancelling.into(),
            StateArg::Succeeded => RunState::Succeeded.into(),
            StateArg::Failed => RunState::Failed.into(),
            StateArg::Cancelled => RunState::Cancelled.into(),
        };
        let trigger = |trigger: &TriggerArg| match trigger {
            TriggerArg::Routine => Trigger::Routine.into(),
            TriggerArg::Backfill => Trigger::Backfill.into(),
        };
        ListRunsRequest {
            states: self.states.iter().map(state).collect(),
            triggers: self.triggers.iter().map(trigger).collect(),
            ..ListRunsRequest::default()
        }
    }
}

fn cells(run: &Run) -> Vec<String> {
    let window = run.window.unwrap_or_default();
    let progress = run.progress.unwrap_or_default();
    let result = run.result.clone().unwrap_or_default();
    vec![
        run.run_id.clone(),
        state(run),
        trigger(run),
        time(window.start),
        time(window.end),
        progress.hours_done.to_string(),
        progress.hours_total.to_string(),
        progress.events_done.to_string(),
        result.total_cost,
        result.currency_code,
        severity(run),
        time(run.started_at),
        time(run.finished_at),
        run.reason.clone(),
    ]
}
