//! `rater rate`: rates a window, prints the result. Exit code 0: fine; 1: it failed; 2: it is
//! rated, and a finding is an ERROR (R9).

use std::io::{ErrorKind, Write};
use std::process::ExitCode;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::client::ClientOptions;
use super::output::{Format, csv, json_line, table};
use super::{fail, warn};
use crate::grpc::client::Failure;
use crate::grpc::client::rating::RatingClient;
use crate::grpc::convert::time::to_proto;
use crate::proto::{
    FindingCode, RateBasis, RateWindowRequest, RateWindowResponse, RatingResult, Severity, Trigger,
};

/// Rate a window of closed hours
#[derive(Debug, clap::Args)]
pub struct Rate {
    #[command(flatten)]
    client: ClientOptions,
    /// The window's start, on a UTC hour (RFC 3339); default: the trailing hours before its end
    #[arg(long, env = "RATER_SINCE", value_name = "TIME", value_parser = super::time::parse)]
    since: Option<DateTime<Utc>>,
    /// The window's end, on a UTC hour; default: the last closed hour's
    #[arg(long, env = "RATER_UNTIL", value_name = "TIME", value_parser = super::time::parse)]
    until: Option<DateTime<Utc>>,
    /// Why it runs; default: routine without --since and --until, else backfill
    #[arg(long, env = "RATER_TRIGGER", value_enum)]
    trigger: Option<TriggerArg>,
    /// Which rate billed rollups get; default: frozen for a routine run, else the pricebook's
    #[arg(long, env = "RATER_BASIS", value_enum)]
    basis: Option<BasisArg>,
    /// Run only if the loaded pricebook has this digest
    #[arg(long, env = "RATER_EXPECTED_PRICEBOOK_DIGEST", value_name = "DIGEST", default_value = "")]
    #[arg(hide_default_value = true)]
    expected_pricebook_digest: String,
    /// Your own id for this request; the same id finds the same run again
    #[arg(long, env = "RATER_REQUEST_ID", value_name = "ID")]
    request_id: Option<String>,
    /// Why you run this; kept with the run
    #[arg(long, env = "RATER_REASON", value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
    /// How long to look for the run again while the service is away
    #[arg(long, env = "RATER_RETRY_FOR", default_value = "60s", value_parser = super::duration::parse)]
    retry_for: Duration,
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
        let channel = match self.client.channel().await {
            Ok(channel) => channel,
            Err(message) => return fail(&message),
        };
        let request = self.request();
        let id = request.request_id.clone();
        let notice =
            |failure: &Failure| warn(&format!("{failure}; looking for the run again (request id {id})"));
        match RatingClient::new(channel).rate(request, self.retry_for, notice).await {
            Ok(response) => print(&response, self.client.output),
            Err(failure) => {
                let at = |key| failure.metadata.get(key);
                let left = match (at("left_start"), at("left_end")) {
                    (Some(start), Some(end)) => format!("; not rated: {start} to {end}"),
                    _ => String::new(),
                };
                fail(&format!("{failure}{}{left}", details(&failure)))
            }
        }
    }

    fn request(&self) -> RateWindowRequest {
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
        RateWindowRequest {
            since: self.since.map(to_proto),
            until: self.until.map(to_proto),
            trigger: trigger.into(),
            rate_basis: basis.into(),
            expected_pricebook_digest: self.expected_pricebook_digest.clone(),
            request_id: self.request_id.clone().unwrap_or_else(|| format!("cli-{}", uuid::Uuid::now_v7())),
            reason: self.reason.clone(),
            ..RateWindowRequest::default()
        }
    }
}

/// Violations that the message has no room for.
fn details(failure: &Failure) -> String {
    let more = failure.violations.iter().skip(1);
    more.map(|(field, what)| format!("; {field}: {what}")).collect()
}

fn print(response: &RateWindowResponse, format: Format) -> ExitCode {
    let result = response.result.clone().unwrap_or_default();
    let fields = fields(response, &result);
    let text = match format {
        Format::Json => json_line("rating.v1.RateWindowResponse", response).map(|json| json + "\n"),
        Format::Csv => {
            let (names, values): (Vec<&str>, Vec<String>) = fields.into_iter().unzip();
            csv(&names, &[values])
        }
        Format::Table => {
            let rows: Vec<Vec<String>> =
                fields.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
            let mut text = table(&["result", ""], &rows) + "\n";
            if !result.findings.is_empty() {
                let findings = table(&["severity", "finding", "what"], &findings(&result));
                text += &format!("\n{findings}\n");
            }
            Ok(text)
        }
    };
    match text.and_then(|text| write(&text)) {
        Err(message) => fail(&message),
        Ok(()) if result.severity() == Severity::Error => ExitCode::from(2),
        Ok(()) => ExitCode::SUCCESS,
    }
}

/// Nobody may read it any more: the exit code still tells.
fn write(text: &str) -> Result<(), String> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.to_string()),
        _ => Ok(()),
    }
}

fn fields(response: &RateWindowResponse, result: &RatingResult) -> Vec<(&'static str, String)> {
    let window = result.window.unwrap_or_default();
    let word = |name: &str, prefix: &str| name.trim_start_matches(prefix).to_lowercase();
    vec![
        ("run_id", response.run_id.clone()),
        ("severity", word(result.severity().as_str_name(), "SEVERITY_")),
        ("since", window.start.map(|time| time.to_string()).unwrap_or_default()),
        ("until", window.end.map(|time| time.to_string()).unwrap_or_default()),
        ("trigger", word(result.trigger().as_str_name(), "TRIGGER_")),
        ("rate_basis", word(result.rate_basis().as_str_name(), "RATE_BASIS_")),
        ("events", result.events.to_string()),
        ("rated_events", result.rated_events.to_string()),
        ("unpriced_events", result.unpriced_events.to_string()),
        ("unattributable_events", result.unattributable_events.to_string()),
        ("ambiguous_base_events", result.ambiguous_base_events.to_string()),
        ("malformed_events", result.malformed_events.to_string()),
        ("clamped_events", result.clamped_events.to_string()),
        ("rollups", result.rollups.to_string()),
        ("inserted_rollups", result.inserted_rollups.to_string()),
        ("updated_rollups", result.updated_rollups.to_string()),
        ("unchanged_rollups", result.unchanged_rollups.to_string()),
        ("reconciled_deletions", result.reconciled_deletions.to_string()),
        ("shrunk_rollups", result.shrunk_rollups.to_string()),
        ("rate_drift_rollups", result.rate_drift_rollups.to_string()),
        ("previous_cost", result.previous_cost.clone()),
        ("total_cost", result.total_cost.clone()),
        ("currency_code", result.currency_code.clone()),
        ("pricebook_digest", result.pricebook_digest.clone()),
    ]
}

fn findings(result: &RatingResult) -> Vec<Vec<String>> {
    let row = |finding: &crate::proto::Finding| {
        let code = FindingCode::try_from(finding.code).unwrap_or_default();
        vec![
            finding.severity().as_str_name().trim_start_matches("SEVERITY_").to_owned(),
            code.as_str_name().trim_start_matches("FINDING_CODE_").to_owned(),
            finding.message.clone(),
        ]
    };
    result.findings.iter().map(row).collect()
}
