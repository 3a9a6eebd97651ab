//! `rater retention run|status`: retiring old change records by hand, on the database, like
//! `rater migrate`; `serve --change-retention` does the same by itself. The exit code is 0, or 1
//! where it failed or is not done.

use std::process::ExitCode;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::console::Console;
use super::database::{DatabaseOptions, one_line};
use super::group::Group;
use super::job::{cancel, exit_code, explain, record, working};
use super::output::Format;
use super::serve::change_retention;
use crate::service::change_retention::{JOB, Retired, retire};
use crate::service::schema;
use crate::store::Db;

/// Retire old change records, or see how far that is
#[derive(Debug, clap::Args)]
pub struct Retention {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Run(Run),
    Status(Status),
    Cancel(Cancel),
}

/// Retire the change records that are older, or go on with that
#[derive(Debug, clap::Args)]
struct Run {
    #[command(flatten)]
    database: DatabaseOptions,
    /// How long change records are kept for consumers, such as 90d
    #[arg(long, env = "RATER_CHANGE_RETENTION", value_name = "DURATION", value_parser = change_retention)]
    change_retention: Duration,
    /// How to print the result
    #[arg(short, long, env = "RATER_OUTPUT", value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// Print how far it is, or how it ended
#[derive(Debug, clap::Args)]
struct Status {
    #[command(flatten)]
    database: DatabaseOptions,
    /// How to print it
    #[arg(short, long, env = "RATER_OUTPUT", value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// Give it up where it stands, if nobody is at it
#[derive(Debug, clap::Args)]
struct Cancel {
    #[command(flatten)]
    database: DatabaseOptions,
}

impl Retention {
    /// Runs the command.
    pub async fn run(self) -> ExitCode {
        self.command.run_here().await
    }
}

impl Group for Command {
    async fn run(self, console: &mut Console<'_>) -> Result<ExitCode, String> {
        match self {
            Command::Run(run) => run.run(console).await,
            Command::Cancel(Cancel { database }) => cancel(&open(&database).await?, JOB, console).await,
            Command::Status(status) => show(&open(&status.database).await?, status.output, console).await,
        }
    }
}

impl Run {
    async fn run(self, console: &mut Console<'_>) -> Result<ExitCode, String> {
        let db = open(&self.database).await?;
        let stop = CancellationToken::new();
        let work = retire(&db, self.change_retention, &stop);
        match working(&db, JOB, &stop, console, work).await.map_err(explain)? {
            Retired::Done | Retired::Nothing => show(&db, self.output, console).await,
            Retired::Stopped => Err("stopped half-way; the same command goes on from there".into()),
            Retired::Busy => {
                Err("another process is at it, or was a moment ago: try again in a few seconds; \
                     `rater retention status` says how far it is"
                    .into())
            }
        }
    }
}

async fn show(db: &Db, format: Format, console: &mut Console<'_>) -> Result<ExitCode, String> {
    let jobs = db.jobs().await.map_err(explain)?;
    let job = jobs.into_iter().find(|job| job.job == JOB).ok_or("table_job has no row for it")?.into();
    console.print(&record(format, &job)?)?;
    Ok(exit_code(&job))
}

async fn open(database: &DatabaseOptions) -> Result<Db, String> {
    let db = database.connect(2)?;
    schema::check(&db).await.map_err(|error| one_line(&error))?;
    Ok(db)
}
