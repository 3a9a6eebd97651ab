//! `rater audit`: holds what is rated against itself, and against its events; on the database, like
//! `rater migrate`. It changes no row of rated usage, and the same command goes on with an audit
//! that was cut off.
//!
//! Exit codes: 0 all agrees, 2 something does not, 1 it failed or is not done.

mod printing;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use chrono::{DateTime, Datelike, Utc};
use tokio_util::sync::CancellationToken;

use super::console::Console;
use super::database::DatabaseOptions;
use super::group::Group;
use super::job::{cancel, explain, working};
use super::output::Format;
use super::validate;
use crate::domain::pricebook::{self, Pricebook};
use crate::service::audit::{self, AuditRequest, Audited, JOB, LISTED};
use crate::service::schema;
use crate::store::Db;

/// Check every rated row against what it says itself, and against its events
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Audit {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: Run,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Status(Status),
    List(List),
    Cancel(Cancel),
}

#[derive(Debug, clap::Args)]
struct Run {
    #[command(flatten)]
    database: DatabaseOptions,
    /// Rate the events of each closed hour anew and compare; needs --pricebook
    #[arg(long, env = "RATER_FROM_EVENTS", value_parser = crate::cli::switch::Switch)]
    from_events: bool,
    /// What prices events whose rollups are missing
    #[arg(long, env = "RATER_PRICEBOOK", value_name = "FILE")]
    pricebook: Option<PathBuf>,
    /// Only hours from here on (RFC 3339)
    #[arg(long, env = "RATER_SINCE", value_name = "TIME", value_parser = hour)]
    since: Option<DateTime<Utc>>,
    /// Only hours before this (RFC 3339)
    #[arg(long, env = "RATER_UNTIL", value_name = "TIME", value_parser = hour)]
    until: Option<DateTime<Utc>>,
    /// With --from-events: leave out hours that ended less than this ago, which no run may have rated yet
    #[arg(long, env = "RATER_RATED_WITHIN", value_name = "DURATION", default_value = "2h", value_parser = rated_within)]
    rated_within: Duration,
    /// Begin anew instead of going on with an audit that was cut off
    #[arg(long, env = "RATER_RESTART", value_parser = crate::cli::switch::Switch)]
    restart: bool,
    /// How to print the result
    #[arg(short, long, env = "RATER_OUTPUT", value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// Print how far the latest audit is, and what it found so far, in money
#[derive(Debug, clap::Args)]
struct Status {
    #[command(flatten)]
    database: DatabaseOptions,
    /// How to print it
    #[arg(short, long, env = "RATER_OUTPUT", value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// Give up an audit that nobody is at; what it found stays until the next one begins
#[derive(Debug, clap::Args)]
struct Cancel {
    #[command(flatten)]
    database: DatabaseOptions,
}

/// Print the first rows that the latest audit found not to agree
#[derive(Debug, clap::Args)]
struct List {
    #[command(flatten)]
    database: DatabaseOptions,
    /// Stop after this many rows; the audit keeps 10,000
    #[arg(long, env = "RATER_LIMIT", default_value_t = 100)]
    #[arg(value_parser = clap::value_parser!(i64).range(1..=LISTED))]
    limit: i64,
    /// How to print them
    #[arg(short, long, env = "RATER_OUTPUT", value_enum, default_value_t = Format::Table)]
    output: Format,
}

impl Audit {
    /// Runs the command.
    pub async fn run(self) -> ExitCode {
        self.run_here().await
    }
}

impl Group for Audit {
    async fn run(self, console: &mut Console<'_>) -> Result<ExitCode, String> {
        match self.command {
            None => self.run.run(console).await,
            Some(Command::Status(status)) => status.run(console).await,
            Some(Command::List(list)) => list.run(console).await,
            Some(Command::Cancel(Cancel { database })) => cancel(&open(&database).await?, JOB, console).await,
        }
    }
}

impl Run {
    async fn run(self, console: &mut Console<'_>) -> Result<ExitCode, String> {
        let request = self.request()?;
        let db = open(&self.database).await?;
        let stop = CancellationToken::new();
        let work = audit::audit(&db, &request, &stop);
        match working(&db, JOB, &stop, console, work).await.map_err(explain)? {
            Audited::Done => {}
            Audited::Stopped => return Err("stopped half-way; the same command goes on from there".into()),
            Audited::Busy => {
                return Err(
                    "another process is at an audit, or was a moment ago: try again in a few seconds; \
                     `rater audit status` says how far it is"
                        .into(),
                );
            }
            Audited::Other => {
                return Err("an audit with other options is not done: give those to go on with it, or \
                     --restart to begin anew"
                    .into());
            }
        }
        show(&db, self.output, console).await
    }

    fn request(&self) -> Result<AuditRequest, String> {
        if let (Some(since), Some(until)) = (self.since, self.until)
            && since >= until
        {
            return Err("--until must lie after --since".into());
        }
        let book = match (self.from_events, &self.pricebook) {
            (false, _) => None,
            (true, None) => return Err("--from-events needs --pricebook FILE (RATER_PRICEBOOK)".into()),
            (true, Some(file)) => Some(book(file)?),
        };
        let Run { since, until, rated_within, restart: anew, .. } = *self;
        Ok(AuditRequest { since, until, book, rated_within, anew })
    }
}

impl Status {
    async fn run(self, console: &mut Console<'_>) -> Result<ExitCode, String> {
        show(&open(&self.database).await?, self.output, console).await
    }
}

impl List {
    async fn run(self, console: &mut Console<'_>) -> Result<ExitCode, String> {
        let rows = open(&self.database).await?.disagreements(self.limit).await.map_err(explain)?;
        console.print(&printing::disagreements(self.output, &rows)?)?;
        Ok(ExitCode::SUCCESS)
    }
}

async fn show(db: &Db, format: Format, console: &mut Console<'_>) -> Result<ExitCode, String> {
    let status = audit::status(db).await.map_err(explain)?;
    console.print(&printing::status(format, &status)?)?;
    Ok(match (status.job.state, status.agrees()) {
        ("succeeded", Some(true)) => ExitCode::SUCCESS,
        ("succeeded", _) => ExitCode::from(2),
        _ => ExitCode::FAILURE,
    })
}

/// The database, with a schema that this build works with.
async fn open(database: &DatabaseOptions) -> Result<Db, String> {
    let db = database.connect(2)?;
    schema::check(&db).await.map_err(|error| super::database::one_line(&error))?;
    Ok(db)
}

fn book(file: &Path) -> Result<Pricebook, String> {
    let name = file.display();
    let bytes = validate::read(file).map_err(|error| format!("--pricebook {name}: {error}"))?;
    pricebook::parse_bytes(&bytes)
        .book
        .ok_or_else(|| format!("--pricebook {name} is refused; `rater validate {name}` says why"))
}

fn rated_within(text: &str) -> Result<Duration, String> {
    let within = super::duration::parse(text)?;
    let year = Duration::from_secs(366 * 24 * 3600);
    Some(within).filter(|within| *within <= year).ok_or_else(|| "must be at most 366d".into())
}

/// Hours are rated whole.
fn hour(text: &str) -> Result<DateTime<Utc>, String> {
    let time = super::time::parse(text)?;
    match time.timestamp() % 3600 == 0 && time.timestamp_subsec_nanos() == 0 {
        _ if !(1900..=9999).contains(&time.year()) => Err("must lie within the years 1900 to 9999".into()),
        false => Err("must lie on a full UTC hour, such as 2026-06-01T14:00:00Z".into()),
        true => Ok(time),
    }
}
