//! `rater rate`: rates a window, prints the result. Exit code 0: fine; 1: it failed; 2: it is
//! rated, and a finding is an ERROR (R9); 130: left by Ctrl-C, and the run goes on.
//!
//! [`wait`] follows the run, [`plan`] prints what a dry run would change.

use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;

use chrono::{DateTime, Utc};

use self::plan::Apply;
use self::wait::Ended;
use super::client::ClientOptions;
use super::console::Console;
use super::fail;
use super::follow::FollowOptions;
use super::output::{Format, record};
use super::words::word;
use crate::grpc::client::Failure;
use crate::grpc::client::rating::RatingClient;
use crate::grpc::convert::time::to_proto;
use crate::proto::{RateBasis, RateWindowRequest, RateWindowResponse, Severity, Trigger};

mod candidate;
mod failure;
mod plan;
pub(super) mod result;
mod wait;

/// Rate a window of closed hours
#[derive(Debug, clap::Args)]
pub struct Rate {
    #[command(flatten)]
    client: ClientOptions,
    /// The window's start, on a UTC hour (RFC 3339); default: the trailing hours before its end.
    /// Setting it, also as RATER_SINCE, makes the run a backfill unless --trigger says routine
    #[arg(long, env = "RATER_SINCE", value_name = "TIME", value_parser = super::time::parse)]
    since: Option<DateTime<Utc>>,
    /// The window's end, on a UTC hour; default: the last closed hour's. Setting it
    /// makes the run a backfill like --since
    #[arg(long, env = "RATER_UNTIL", value_name = "TIME", value_parser = super::time::parse)]
    until: Option<DateTime<Utc>>,
    /// Why it runs; default: routine without --since and --until, else backfill
    #[arg(long, env = "RATER_TRIGGER", value_enum)]
    trigger: Option<TriggerArg>,
    /// Which rate billed rollups get; default: frozen for a routine run, else the pricebook's
    #[arg(long, env = "RATER_BASIS", value_enum)]
    basis: Option<BasisArg>,
    /// Print what a run would change, and write nothing
    #[arg(long, env = "RATER_DRY_RUN", value_parser = crate::cli::switch::Switch)]
    dry_run: bool,
    // Not RATER_PRICEBOOK: that is the service's own, and on its machine every dry run would
    // take it for a candidate.
    /// A candidate to rate with instead of the loaded pricebook; only with --dry-run
    #[arg(long, env = "RATER_CANDIDATE_PRICEBOOK", value_name = "FILE")]
    pricebook: Option<PathBuf>,
    /// Run only if the changes are still those of the dry run that printed this hash
    #[arg(long, env = "RATER_APPLY", value_name = "PLAN_HASH", default_value = "")]
    #[arg(hide_default_value = true)]
    apply: String,
    /// Start the run, print its id and state, and leave
    #[arg(long, env = "RATER_DETACH", value_parser = crate::cli::switch::Switch)]
    detach: bool,
    /// Run only if the loaded pricebook has this digest
    #[arg(long, env = "RATER_EXPECTED_PRICEBOOK_DIGEST", value_name = "DIGEST", default_value = "")]
    #[arg(hide_default_value = true)]
    expected_pricebook_digest: String,
    /// Your own id for this request; the same id finds the same run again
    #[arg(long, env = "RATER_REQUEST_ID", value_name = "ID")]
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    request_id: Option<String>,
    /// Why you run this; kept with the run
    #[arg(long, env = "RATER_REASON", value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
    #[command(flatten)]
    follow: FollowOptions,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum TriggerArg {
    /// Loud: losing billed usage is an error
    Routine,
    /// Quiet: it is what was asked for
    Backfill,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum BasisArg {
    /// The rate frozen on the row
    Frozen,
    /// The pricebook's rate
    Pricebook,
}

impl Rate {
    /// Rates.
    pub async fn run(self) -> ExitCode {
        let mut console = Console::standard();
        let interrupt = async {
            // Without a handler Ctrl-C ends the process by itself.
            if tokio::signal::ctrl_c().await.is_err() {
                std::future::pending().await
            }
        };
        self.rate(&mut console, interrupt).await.unwrap_or_else(|message| fail(&message))
    }

    async fn rate(
        &self,
        console: &mut Console<'_>,
        interrupt: impl Future<Output = ()>,
    ) -> Result<ExitCode, String> {
        self.check()?;
        let request = self.request()?;
        let client = RatingClient::new(self.client.channel().await?);
        if self.dry_run {
            return self.dry_run(client, request, console).await;
        }
        if self.detach {
            return self.detach(client, request, console).await;
        }
        let id = request.request_id.clone();
        match wait::wait(client, request, &self.follow, interrupt, console).await {
            Ended::Answered(response) => self.print(&response, console),
            Ended::Failed { failure, run } => Err(failure::explain(&failure, run.as_deref())),
            Ended::Left { run } => {
                console.say(&failure::left(run.as_deref(), &id));
                Ok(ExitCode::from(130))
            }
        }
    }

    /// What doesn't go together. Not clap's to say: to clap a variable that is set to `false`
    /// is there like an option.
    fn check(&self) -> Result<(), String> {
        let wrong = match self {
            Rate { dry_run: false, pricebook: Some(_), .. } => {
                "--pricebook is for --dry-run alone: a run takes the pricebook that the service has loaded"
            }
            Rate { dry_run: true, apply, .. } if !apply.is_empty() => {
                "--apply commits a plan and --dry-run only looks at one: give one of them"
            }
            Rate { dry_run: true, detach: true, .. } => {
                "--dry-run begins no run that --detach could leave: give one of them"
            }
            Rate { dry_run: true, request_id: Some(_), .. } => {
                "--dry-run begins no run that --request-id could find again: leave it out"
            }
            _ => return Ok(()),
        };
        Err(wrong.into())
    }

    fn request(&self) -> Result<RateWindowRequest, String> {
        let trigger = match self.trigger {
            None => Trigger::Unspecified,
            Some(TriggerArg::Routine) => Trigger::Routine,
            Some(TriggerArg::Backfill) => Trigger::Backfill,
        };
        let basis = match self.basis {
            None => RateBasis::Unspecified,
            Some(BasisArg::Frozen) => RateBasis::Frozen,
            Some(BasisArg::Pricebook) => RateBasis::Pricebook,
        };
        let request_id = match &self.request_id {
            _ if self.dry_run => String::new(),
            Some(id) => id.clone(),
            None => format!("cli-{}", uuid::Uuid::now_v7()),
        };
        Ok(RateWindowRequest {
            since: self.since.map(to_proto),
            until: self.until.map(to_proto),
            trigger: trigger.into(),
            rate_basis: basis.into(),
            dry_run: self.dry_run,
            pricebook_yaml: self.pricebook.as_deref().map(candidate::read).transpose()?.unwrap_or_default(),
            expected_pricebook_digest: self.expected_pricebook_digest.clone(),
            expected_plan_hash: self.apply.clone(),
            request_id,
            reason: self.reason.clone(),
            detach: false,
        })
    }

    /// Begins no run, so that Ctrl-C has nothing to say.
    async fn dry_run(
        &self,
        mut client: RatingClient,
        request: RateWindowRequest,
        console: &mut Console<'_>,
    ) -> Result<ExitCode, String> {
        let notice = |failure: &Failure| console.say(&format!("{failure}; trying again"));
        let failure = match client.rate(request, self.follow.retry_for, notice).await {
            Ok(response) => return self.print(&response, console),
            Err(failure) => failure,
        };
        let file = self.pricebook.as_deref();
        match file.and_then(|file| candidate::diagnostics(file, &failure)) {
            Some(lines) => {
                lines.iter().for_each(|line| console.say_plain(line));
                Ok(ExitCode::FAILURE)
            }
            None => Err(failure::explain(&failure, None)),
        }
    }

    async fn detach(
        &self,
        mut client: RatingClient,
        request: RateWindowRequest,
        console: &mut Console<'_>,
    ) -> Result<ExitCode, String> {
        let id = request.request_id.clone();
        let request = RateWindowRequest { detach: true, ..request };
        let notice = |failure: &Failure| console.say(&wait::looking(failure, &id));
        let rated = client.rate(request, self.follow.retry_for, notice).await;
        let response = rated.map_err(|failure| failure::explain(&failure, None))?;
        let state = word(response.state().as_str_name(), "RUN_STATE_");
        let fields = vec![("run_id", response.run_id.clone()), ("state", state)];
        let format = self.client.output;
        console.print(&record(format, "rating.v1.RateWindowResponse", &response, "run", fields)?)?;
        Ok(ExitCode::SUCCESS)
    }

    fn print(&self, response: &RateWindowResponse, console: &mut Console<'_>) -> Result<ExitCode, String> {
        let result = response.result.clone().unwrap_or_default();
        let fields = result::fields(response, &result);
        let format = self.client.output;
        let mut text = record(format, "rating.v1.RateWindowResponse", response, "result", fields)?;
        if format == Format::Table {
            if self.dry_run {
                text += &plan::tables(&result);
            }
            text += &result::findings(&result);
            if self.dry_run {
                let basis = self.basis.is_some();
                let trigger = self.trigger.is_some();
                text += &plan::how(&result, &Apply { trigger, basis, candidate: self.pricebook.as_deref() });
            }
        }
        console.print(&text)?;
        Ok(match result.severity() {
            Severity::Error => ExitCode::from(2),
            _ => ExitCode::SUCCESS,
        })
    }
}

#[cfg(test)]
mod tests;
