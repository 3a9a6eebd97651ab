//! `rater usage changes`: every change of rated usage once, a line a change, from a cursor on.

use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::cursor::CursorFile;
use super::{fields, writing};
use crate::cli::client::Connection;
use crate::cli::console::{Console, Reader};
use crate::cli::filter::FilterOptions;
use crate::cli::rows::{OutOptions, Sink};
use crate::cli::signals;
use crate::grpc::client::rating::RatingClient;
use crate::grpc::client::usage::Next;
use crate::grpc::client::{Failure, usage};
use crate::proto::{RatedUsageChange, StreamRatedUsageChangesRequest};

/// Print every change of rated usage once, in an order that can be applied
///
/// A line a change; deletions are told, too. At the end the cursor to go on from is said on
/// standard error.
#[derive(Debug, clap::Args)]
pub struct Changes {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    out: OutOptions,
    #[command(flatten)]
    filter: FilterOptions,
    /// Begin after this cursor, which was given with the same filter; default: at the first change
    #[arg(long, env = "RATER_CURSOR")]
    cursor: Option<String>,
    /// Wait for more at the end, until Ctrl-C
    #[arg(short, long, env = "RATER_FOLLOW", value_parser = crate::cli::switch::Switch)]
    follow: bool,
    /// Go on from the cursor in this file, where it is there, and keep it up to date: it stands
    /// after changes that were printed. Whoever was killed in between gets some of them again
    #[arg(long, env = "RATER_CURSOR_FILE", value_name = "FILE")]
    cursor_file: Option<PathBuf>,
    /// How long to ask again while the service is away
    #[arg(long, env = "RATER_RETRY_FOR", value_name = "TIME", default_value = "60s")]
    #[arg(value_parser = crate::cli::duration::parse)]
    retry_for: Duration,
}

impl Changes {
    /// Reads and prints.
    pub async fn run(self, console: &mut Console<'_>) -> Result<ExitCode, String> {
        let (follow, to_file) = (self.follow, self.out.to_file());
        let stop = async {
            match follow {
                true => signals::stop().await,
                false => std::future::pending().await,
            }
        };
        writing(to_file, self.read(stop, console)).await
    }

    /// The same, until `stop` or the end.
    pub(super) async fn read(
        self,
        stop: impl Future<Output = ()>,
        console: &mut Console<'_>,
    ) -> Result<ExitCode, String> {
        if self.follow && self.out.to_file() {
            return Err(
                "--follow has no end, and --out writes a file that is there at the end; leave one out".into(),
            );
        }
        let rows = fields::changes();
        let sink = Sink::lines(&rows, self.out.target()?)?;
        let file = self.cursor_file.map(|path| CursorFile::at("--cursor-file", path)).transpose()?;
        let mut reading = Reading { sink, file, noted_at_end: self.out.to_file(), console };
        let kept = reading.file.as_mut().map(CursorFile::read).transpose()?.flatten();
        let request = StreamRatedUsageChangesRequest {
            cursor: kept.or(self.cursor).unwrap_or_default(),
            follow: self.follow,
            filter: Some(self.filter.filter()),
        };
        let began = request.cursor.clone();
        let client = RatingClient::new(self.connection.channel().await?);
        let mut changes = client.changes(request, self.retry_for);
        let ended = reading.until_end(&mut changes, stop).await;
        let cursor = changes.cursor();
        match ended {
            Ok(Reader::Gone) => Ok(ExitCode::SUCCESS),
            Ok(Reader::There) => reading.finish(cursor),
            // What did not become a file is in no one's hands.
            Err(Ended::Failed(failure))
                if !failure.reason.starts_with("CURSOR_") && cursor != began && !reading.noted_at_end =>
            {
                Err(format!("{failure}; to go on: --cursor {cursor}"))
            }
            Err(Ended::Failed(failure)) => Err(failure.to_string()),
            Err(Ended::Unwritten(message)) => Err(message),
        }
    }
}

/// Why reading ended too early.
enum Ended {
    Failed(Failure),
    Unwritten(String),
}

struct Reading<'a, 'c, 'r> {
    sink: Sink<'r, RatedUsageChange>,
    file: Option<CursorFile>,
    /// A file of rows is there only at the end: no cursor stands after what is in it before that.
    noted_at_end: bool,
    console: &'a mut Console<'c>,
}

impl Reading<'_, '_, '_> {
    async fn until_end(
        &mut self,
        changes: &mut usage::Changes,
        stop: impl Future<Output = ()>,
    ) -> Result<Reader, Ended> {
        tokio::pin!(stop);
        let mut reader = Reader::There;
        while reader == Reader::There {
            // What has come is printed whole and noted before it stops.
            let next = tokio::select! {
                next = changes.next() => next.map_err(Ended::Failed)?,
                () = &mut stop => break,
            };
            match next {
                // The headers, also where nothing changed.
                Next::End => return self.sink.put(&[], self.console).map_err(Ended::Unwritten),
                Next::Away(failure) => {
                    self.console.say(&format!("{failure}; asking again for the changes after the last one"));
                }
                Next::Changes(message) => {
                    reader = self.take(&message.changes, &message.cursor).map_err(Ended::Unwritten)?;
                }
            }
        }
        Ok(reader)
    }

    /// Prints changes, and only then notes the cursor after them.
    fn take(&mut self, changes: &[RatedUsageChange], cursor: &str) -> Result<Reader, String> {
        let reader = match changes {
            [] => Reader::There,
            changes => self.sink.put(changes, self.console)?,
        };
        if reader == Reader::There && !self.noted_at_end {
            self.note(cursor)?;
        }
        Ok(reader)
    }

    fn note(&mut self, cursor: &str) -> Result<(), String> {
        self.file.as_mut().map_or(Ok(()), |file| file.note(cursor))
    }

    /// A file of rows is put in its place before the cursor after them is noted.
    fn finish(self, cursor: &str) -> Result<ExitCode, String> {
        let Reading { sink, file, console, .. } = self;
        let written = sink.finish()?;
        file.map_or(Ok(()), |mut file| file.note(cursor))?;
        let on = (!cursor.is_empty()).then(|| format!("to go on: --cursor {cursor}"));
        let said: Vec<String> = written.map(|written| written.to_string()).into_iter().chain(on).collect();
        if !said.is_empty() {
            console.say(&said.join("; "));
        }
        Ok(ExitCode::SUCCESS)
    }
}
