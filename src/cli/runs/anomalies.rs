//! `rater runs anomalies`: what the latest run of each hour could not bill, grouped so that it
//! can be mended.

use std::process::ExitCode;

use crate::cli::client::ClientOptions;
use crate::cli::console::{Console, Reader};
use crate::cli::filter::{FilterOptions, GroupArg};
use crate::cli::output::page;
use crate::cli::words::{time, word};
use crate::grpc::client::rating::RatingClient;
use crate::proto::{Anomaly, AnomalyKind, ListAnomaliesRequest};

/// Print what the latest run of each hour could not bill
#[derive(Debug, clap::Args)]
pub struct Anomalies {
    #[command(flatten)]
    client: ClientOptions,
    #[command(flatten)]
    filter: FilterOptions,
    /// Only this kind (may be given again)
    #[arg(long = "kind", env = "RATER_KIND", value_enum, value_delimiter = ',')]
    kinds: Vec<KindArg>,
    /// A line for each of these, beside the kind (may be given again); default: model-id
    #[arg(long, env = "RATER_GROUP_BY", value_enum, value_delimiter = ',')]
    group_by: Vec<GroupArg>,
    /// Stop after this many lines
    #[arg(long, env = "RATER_LIMIT")]
    limit: Option<usize>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum KindArg {
    /// No rate resolves
    Unpriced,
    /// No auth_id, resource_id or model
    Unattributable,
    /// One fine-tune, two base models in one rollup
    AmbiguousBase,
    /// A negative or missing token count
    Malformed,
}

impl Anomalies {
    /// Reads and prints, page by page.
    pub async fn run(self, console: &mut Console<'_>) -> Result<ExitCode, String> {
        let mut client = RatingClient::new(self.client.channel().await?);
        let columns = self.columns();
        let headers = headers(&columns);
        let mut left = self.limit.unwrap_or(usize::MAX);
        let format = self.client.output;
        let mut request = self.request();
        let mut first = true;
        loop {
            let mut answer =
                client.anomalies(request.clone()).await.map_err(|failure| failure.to_string())?;
            answer.anomalies.truncate(left);
            left -= answer.anomalies.len();
            let rows = &answer.anomalies;
            let row = |anomaly: &Anomaly| cells(anomaly, &columns);
            let text = page(format, "rating.v1.Anomaly", &headers, rows, row, first)?;
            let reader = console.print(&text)?;
            first = false;
            if reader == Reader::Gone || answer.next_page_token.is_empty() || left == 0 {
                return Ok(ExitCode::SUCCESS);
            }
            request.page_token = answer.next_page_token;
        }
    }

    fn request(self) -> ListAnomaliesRequest {
        let kind = |kind: &KindArg| match kind {
            KindArg::Unpriced => AnomalyKind::Unpriced.into(),
            KindArg::Unattributable => AnomalyKind::Unattributable.into(),
            KindArg::AmbiguousBase => AnomalyKind::AmbiguousBase.into(),
            KindArg::Malformed => AnomalyKind::Malformed.into(),
        };
        ListAnomaliesRequest {
            kinds: self.kinds.iter().map(kind).collect(),
            group_by: self.group_by.iter().map(|group| group.dimension().into()).collect(),
            page_size: self.limit.map_or(0, |limit| i32::try_from(limit.max(1)).unwrap_or(i32::MAX)),
            page_token: String::new(),
            filter: Some(self.filter.filter()),
        }
    }

    /// The dimensions that are grouped by. A time has no column: the first and the last hour
    /// tell it.
    fn columns(&self) -> Vec<&'static Column> {
        let by = |group| match self.group_by.as_slice() {
            [] => group == GroupArg::ModelId,
            given => given.contains(&group),
        };
        COLUMNS.iter().filter(|column| by(column.group)).collect()
    }
}

/// A dimension's column.
struct Column {
    group: GroupArg,
    header: &'static str,
    value: fn(&Anomaly) -> &String,
}

const COLUMNS: [Column; 3] = [
    Column { group: GroupArg::AuthId, header: "auth_id", value: |anomaly| &anomaly.auth_id },
    Column { group: GroupArg::ResourceId, header: "resource_id", value: |anomaly| &anomaly.resource_id },
    Column { group: GroupArg::ModelId, header: "model_id", value: |anomaly| &anomaly.model_id },
];

fn headers(columns: &[&Column]) -> Vec<&'static str> {
    let rest = [
        "since",
        "last",
        "events",
        "prompt_tokens",
        "cached_tokens",
        "completion_tokens",
        "base_models",
        "sample_request_id",
    ];
    ["kind"].into_iter().chain(columns.iter().map(|column| column.header)).chain(rest).collect()
}

fn cells(anomaly: &Anomaly, columns: &[&Column]) -> Vec<String> {
    let rest = [
        time(anomaly.first_window_start),
        time(anomaly.last_window_start),
        anomaly.events.to_string(),
        anomaly.prompt_tokens.to_string(),
        anomaly.cached_tokens.to_string(),
        anomaly.completion_tokens.to_string(),
        anomaly.base_models.join(" "),
        anomaly.sample_request_id.clone(),
    ];
    let kind = word(anomaly.kind().as_str_name(), "ANOMALY_KIND_");
    let dimensions = columns.iter().map(|column| (column.value)(anomaly).clone());
    [kind].into_iter().chain(dimensions).chain(rest).collect()
}
