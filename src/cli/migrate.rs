//! `rater migrate up|down|status`: the schema, by hand.
//!
//! What it did is printed on standard output, a line a step, and why it could not is one line
//! on standard error. The exit code is 0 or 1. A call that was cut off or refused half-way is
//! simply repeated: it goes on where that one ended.

use std::process::ExitCode;

use super::database::{DatabaseOptions, one_line};
use super::{fail, print};
use crate::service::schema::{self, MigrationError, SchemaVersion, Status, Step, VERSION};
use crate::store::Db;

/// Brings the database's schema up or down, or shows where it stands.
#[derive(Debug, clap::Args)]
pub struct Migrate {
    /// What to do.
    #[arg(value_enum)]
    pub action: Action,
    /// On which database.
    #[command(flatten)]
    pub database: DatabaseOptions,
}

/// What to do with the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Action {
    /// Bring it up to this rater's, adopting billing_event and rated_usage where they exist
    Up,
    /// Take it away, all but the rows and columns of billing_event and rated_usage
    Down,
    /// Show every step and the schema's version
    Status,
}

impl Migrate {
    /// Runs the command.
    pub async fn run(self) -> ExitCode {
        match self.report().await {
            Ok(text) => print(&text, ExitCode::SUCCESS),
            Err(line) => fail(&line),
        }
    }

    /// Does it, and gives the lines for standard output, or the one for standard error.
    pub async fn report(&self) -> Result<String, String> {
        let db = self.database.connect(2)?;
        let done = match self.action {
            Action::Up => up(&db).await,
            Action::Down => schema::down(&db).await.map(|steps| down_text(&steps)),
            Action::Status => schema::status(&db).await.map(|status| status_text(&status)),
        };
        let text = done.map_err(|error| one_line(&error))?;
        if self.action == Action::Up {
            // A newer schema is up already; whether this build may use it is another question.
            schema::check(&db).await.map_err(|error| one_line(&error))?;
        }
        Ok(text)
    }
}

async fn up(db: &Db) -> Result<String, MigrationError> {
    let steps = schema::up(db).await?;
    let status = schema::status(db).await?;
    Ok(match steps.is_empty() {
        true => format!("nothing to do: {}\n", version_text(status.version)),
        false => format!("{}{}\n", step_lines(&steps, "applied"), version_text(status.version)),
    })
}

fn down_text(steps: &[Step]) -> String {
    match steps.is_empty() {
        true => "nothing to do: no schema of rater's\n".into(),
        false => format!(
            "{}no schema of rater's any more; billing_event and rated_usage stay\n",
            step_lines(steps, "taken back")
        ),
    }
}

fn status_text(status: &Status) -> String {
    let lines: String = status
        .steps
        .iter()
        .map(|step| {
            let state = match (step.applied, step.known) {
                (true, true) => "applied",
                (false, _) => "pending",
                (true, false) => "applied by a newer rater",
            };
            step_lines(std::slice::from_ref(step), state)
        })
        .collect();
    format!("{lines}{}; this rater's is version {VERSION}\n", version_text(status.version))
}

fn step_lines(steps: &[Step], state: &str) -> String {
    steps.iter().map(|step| format!("{:04} {}: {state}\n", step.version, step.name)).collect()
}

fn version_text(version: Option<SchemaVersion>) -> String {
    match version {
        Some(schema) => {
            format!("schema version {}, compatible from {}", schema.version, schema.compatible_from)
        }
        None => "no schema version yet".into(),
    }
}
