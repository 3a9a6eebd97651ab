//! `rater usage list`: rated usage, page by page, as it comes.

use std::process::ExitCode;

use super::client::ClientOptions;
use super::console::{Console, Reader};
use super::fail;
use super::filter::FilterOptions;
use super::output::page;
use super::words::time;
use crate::grpc::client::rating::RatingClient;
use crate::proto::{GetRatedUsageRequest, RatedUsage};

/// Read rated usage
#[derive(Debug, clap::Args)]
pub struct Usage {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Print rated usage, by hour, then identity
    List(List),
}

#[derive(Debug, clap::Args)]
struct List {
    #[command(flatten)]
    client: ClientOptions,
    #[command(flatten)]
    filter: FilterOptions,
    /// Rows in a page (at most 10,000)
    #[arg(long, env = "RATER_PAGE_SIZE", default_value_t = 1_000, value_parser = clap::value_parser!(i32).range(1..))]
    page_size: i32,
    /// Stop after this many rows
    #[arg(long, env = "RATER_LIMIT")]
    limit: Option<usize>,
}

const HEADERS: [&str; 14] = [
    "window_start",
    "auth_id",
    "resource_id",
    "model_id",
    "events",
    "prompt_tokens",
    "cached_tokens",
    "billable_prompt_tokens",
    "completion_tokens",
    "prompt_rate",
    "cached_rate",
    "completion_rate",
    "cost",
    "currency_code",
];

impl Usage {
    /// Reads and prints.
    pub async fn run(self) -> ExitCode {
        let Command::List(list) = self.command;
        match list.print().await {
            Ok(()) => ExitCode::SUCCESS,
            Err(message) => fail(&message),
        }
    }
}

impl List {
    async fn print(self) -> Result<(), String> {
        let mut client = RatingClient::new(self.client.channel().await?);
        let mut request = GetRatedUsageRequest {
            filter: Some(self.filter.filter()),
            page_size: self.page_size,
            page_token: String::new(),
        };
        let mut left = self.limit.unwrap_or(usize::MAX);
        let mut console = Console::standard();
        let mut first = true;
        loop {
            let mut answer =
                client.rated_usage(request.clone()).await.map_err(|failure| failure.to_string())?;
            answer.rated_usage.truncate(left);
            left -= answer.rated_usage.len();
            let rows = &answer.rated_usage;
            let text = page(self.client.output, "rating.v1.RatedUsage", &HEADERS, rows, cells, first)?;
            let reader = console.print(&text)?;
            first = false;
            if reader == Reader::Gone || answer.next_page_token.is_empty() || left == 0 {
                return Ok(());
            }
            request.page_token = answer.next_page_token;
        }
    }
}

fn cells(row: &RatedUsage) -> Vec<String> {
    vec![
        time(row.window_start),
        row.auth_id.clone(),
        row.resource_id.clone(),
        row.model_id.clone(),
        row.event_count.to_string(),
        row.prompt_tokens.to_string(),
        row.cached_tokens.to_string(),
        row.billable_prompt_tokens.to_string(),
        row.completion_tokens.to_string(),
        row.applied_prompt_rate.clone(),
        row.applied_cached_rate.clone(),
        row.applied_completion_rate.clone(),
        row.cost.clone(),
        row.currency_code.clone(),
    ]
}
