//! `rater usage summary`: totals of rated usage along chosen dimensions.

use std::process::ExitCode;

use super::{fields, writing};
use crate::cli::client::Connection;
use crate::cli::console::{Console, Reader};
use crate::cli::filter::{FilterOptions, GroupArg};
use crate::cli::rows::{OutOptions, Sink};
use crate::grpc::client::rating::RatingClient;
use crate::proto::{SummarizeRatedUsageRequest, UsageSummary};

/// Print totals of rated usage
#[derive(Debug, clap::Args)]
pub struct Summary {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    out: OutOptions,
    #[command(flatten)]
    filter: FilterOptions,
    /// A line for each of these (may be given again); default: one total
    #[arg(long, env = "RATER_BY", value_enum, value_delimiter = ',')]
    by: Vec<GroupArg>,
    /// Only the dearest this many, dearest first
    #[arg(long, env = "RATER_TOP", value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    top: Option<i32>,
    /// Stop after this many lines
    #[arg(long, env = "RATER_LIMIT")]
    limit: Option<usize>,
}

/// Of a page, however many lines are asked for.
const LARGEST_PAGE: usize = 1_000;

impl Summary {
    /// Reads and prints, page by page.
    pub async fn run(self, console: &mut Console<'_>) -> Result<ExitCode, String> {
        let rows = fields::summaries(&self.by);
        let sink = Sink::pages(&rows, self.out.target()?)?;
        writing(self.out.to_file(), self.read(sink, console)).await
    }

    async fn read(
        self,
        mut sink: Sink<'_, UsageSummary>,
        console: &mut Console<'_>,
    ) -> Result<ExitCode, String> {
        let mut client = RatingClient::new(self.connection.channel().await?);
        let mut left = self.limit.unwrap_or(usize::MAX);
        let mut request = self.request();
        loop {
            let mut answer = client.summary(request.clone()).await.map_err(|failure| failure.to_string())?;
            answer.summaries.truncate(left);
            left -= answer.summaries.len();
            if sink.put(&answer.summaries, console)? == Reader::Gone {
                return Ok(ExitCode::SUCCESS);
            }
            if answer.next_page_token.is_empty() || left == 0 {
                break;
            }
            request.page_token = answer.next_page_token;
        }
        if let Some(written) = sink.finish()? {
            console.say(&written.to_string());
        }
        Ok(ExitCode::SUCCESS)
    }

    fn request(self) -> SummarizeRatedUsageRequest {
        // The dearest come without pages.
        let page = self.limit.filter(|_| self.top.is_none());
        let page_size = page.map_or(0, |limit| limit.clamp(1, LARGEST_PAGE));
        SummarizeRatedUsageRequest {
            filter: Some(self.filter.filter()),
            group_by: self.by.iter().map(|group| group.dimension().into()).collect(),
            page_size: i32::try_from(page_size).unwrap_or_default(),
            page_token: String::new(),
            top: self.top.unwrap_or_default(),
        }
    }
}
