//! `rater usage list`: rated usage, page by page, as it comes.

use std::path::PathBuf;
use std::process::ExitCode;

use super::cursor::CursorFile;
use super::{fields, writing};
use crate::cli::client::Connection;
use crate::cli::console::{Console, Reader};
use crate::cli::filter::FilterOptions;
use crate::cli::rows::{OutOptions, Sink};
use crate::grpc::client::rating::RatingClient;
use crate::proto::{GetRatedUsageRequest, RatedUsage};

/// Print rated usage, by hour, then identity
///
/// Changes that are made while the pages are read may be in the copy or not; `usage changes` has
/// them all from the cursor that --cursor-out keeps.
#[derive(Debug, clap::Args)]
pub struct List {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    out: OutOptions,
    #[command(flatten)]
    filter: FilterOptions,
    /// Rows in a page (at most 10,000)
    #[arg(long, env = "RATER_PAGE_SIZE", default_value_t = 1_000, value_parser = clap::value_parser!(i32).range(1..))]
    page_size: i32,
    /// Stop after this many rows
    #[arg(long, env = "RATER_LIMIT")]
    limit: Option<usize>,
    /// At the end, write to this file where `usage changes --cursor-file` goes on from this copy
    #[arg(long, env = "RATER_CURSOR_OUT", value_name = "FILE", conflicts_with = "limit")]
    cursor_out: Option<PathBuf>,
}

impl List {
    /// Reads and prints.
    pub async fn run(self, console: &mut Console<'_>) -> Result<ExitCode, String> {
        let rows = fields::rated_usage();
        let sink = Sink::pages(&rows, self.out.target()?)?;
        let cursor_out =
            self.cursor_out.clone().map(|path| CursorFile::at("--cursor-out", path)).transpose()?;
        writing(self.out.to_file(), self.read(sink, cursor_out, console)).await
    }

    async fn read(
        self,
        mut sink: Sink<'_, RatedUsage>,
        cursor_out: Option<CursorFile>,
        console: &mut Console<'_>,
    ) -> Result<ExitCode, String> {
        let mut client = RatingClient::new(self.connection.channel().await?);
        let mut request = GetRatedUsageRequest {
            filter: Some(self.filter.filter()),
            page_size: self.page_size,
            page_token: String::new(),
        };
        let mut left = self.limit.unwrap_or(usize::MAX);
        let mut begun = None;
        loop {
            let mut answer =
                client.rated_usage(request.clone()).await.map_err(|failure| failure.to_string())?;
            // The first page's: later ones may hold older rows than theirs says.
            let cursor = begun.get_or_insert(answer.change_cursor);
            answer.rated_usage.truncate(left);
            left -= answer.rated_usage.len();
            if sink.put(&answer.rated_usage, console)? == Reader::Gone {
                return Ok(ExitCode::SUCCESS);
            }
            if answer.next_page_token.is_empty() || left == 0 {
                let whole = self.limit.is_none().then_some(cursor.as_str());
                return finish(sink, whole, cursor_out, console);
            }
            request.page_token = answer.next_page_token;
        }
    }
}

/// Puts the copy in its place, and then notes where its changes begin, if it is `whole`.
fn finish(
    sink: Sink<'_, RatedUsage>,
    whole: Option<&str>,
    cursor_out: Option<CursorFile>,
    console: &mut Console<'_>,
) -> Result<ExitCode, String> {
    let written = sink.finish()?;
    if let (Some(cursor), Some(mut file)) = (whole, cursor_out) {
        file.note(cursor)?;
    }
    match (written, whole) {
        (Some(written), Some(cursor)) => console.say(&format!("{written}; its changes: --cursor {cursor}")),
        (Some(written), None) => console.say(&written.to_string()),
        (None, _) => {}
    }
    Ok(ExitCode::SUCCESS)
}
