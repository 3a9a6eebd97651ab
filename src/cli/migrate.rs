//! `rater migrate`: the schema.

use std::process::ExitCode;

use super::database::DatabaseOptions;
use super::fail;
use crate::service::schema;

/// Bring the schema up, down, or say where it stands
#[derive(Debug, clap::Args)]
pub struct Migrate {
    #[command(flatten)]
    database: DatabaseOptions,
    #[arg(value_enum)]
    direction: Direction,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Direction {
    Up,
    Down,
    Status,
}

impl Migrate {
    /// Migrates.
    pub async fn run(self) -> ExitCode {
        let db = match self.database.connect() {
            Ok(db) => db,
            Err(message) => return fail(&message),
        };
        let done = match self.direction {
            Direction::Up => schema::up(&db).await,
            Direction::Down => schema::down(&db).await,
            Direction::Status => schema::status(&db).await.map(|steps| {
                for step in steps {
                    println!(
                        "{:04} {} {}",
                        step.version,
                        if step.applied { "applied" } else { "pending" },
                        step.name
                    );
                }
            }),
        };
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error.to_string()),
        }
    }
}
