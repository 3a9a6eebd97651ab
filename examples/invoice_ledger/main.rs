//! An invoice ledger: a consumer of rated usage that bills every change exactly once, and survives
//! being killed anywhere. README.md beside this file says how, and what to change for an API of
//! your own.
//!
//! ```text
//! rater ──feed──> follow ──line──> ledger (its own PostgreSQL) ──meter──> deliver ──> the API
//! ```

mod deliver;
mod feed;
mod follow;
mod ledger;
mod line;
mod meter;
mod outbox;
mod report;
mod trouble;

use std::process::ExitCode;

use chrono::{DateTime, Utc};
use clap::{Parser, Subcommand};

use ledger::Ledger;
use trouble::Trouble;

/// Keeps an invoice ledger from rater's change stream
#[derive(Debug, Parser)]
#[command(name = "invoice_ledger")]
struct Cli {
    /// The ledger's own database: postgres://USER@HOST/NAME
    #[arg(long, env = "LEDGER_DATABASE_URL", value_name = "URL", hide_env_values = true)]
    ledger_url: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Follow(follow::Follow),
    /// Begin another first copy, after rater's database was restored: see README.md
    CopyAgain,
    Customer(Customer),
    Deliver(deliver::Deliver),
    Settle(deliver::Settle),
    Lines(report::Lines),
    Totals(report::Totals),
    /// Print where the ledger stands, and what waits for whom
    Status,
    /// Hold every rollup against its lines
    Check,
}

/// Say who a customer is to the invoicing API
#[derive(Debug, clap::Args)]
struct Customer {
    /// As rater knows it
    auth_id: String,
    /// As the API knows it: cus_…
    customer_id: String,
    /// Hours before this are on a final invoice: what changes in them is an invoice item
    #[arg(long, env = "LEDGER_BILLED_UNTIL", value_name = "TIME")]
    billed_until: Option<DateTime<Utc>>,
}

impl Customer {
    /// A time that was given stays until a later one is.
    async fn run(&self, ledger: &Ledger) -> Result<(), Trouble> {
        let sql = "INSERT INTO customer (auth_id, customer_id, billed_until) VALUES ($1, $2, $3)
            ON CONFLICT (auth_id) DO UPDATE SET customer_id = excluded.customer_id,
                billed_until = greatest(customer.billed_until, excluded.billed_until)";
        let query = sqlx::query(sql).bind(&self.auth_id).bind(&self.customer_id).bind(self.billed_until);
        query.execute(ledger.pool()).await?;
        Ok(())
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(trouble) => {
            eprintln!("{trouble}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: &Cli) -> Result<(), Trouble> {
    // It opens the ledger itself, again and again if need be.
    if let Command::Follow(follow) = &cli.command {
        return follow.run(&cli.ledger_url).await;
    }
    let ledger = Ledger::open(&cli.ledger_url).await?;
    match &cli.command {
        Command::Follow(_) => Ok(()),
        Command::CopyAgain => {
            let place = ledger.place().await?;
            ledger.copy_again(&place).await.map(drop)
        }
        Command::Customer(customer) => customer.run(&ledger).await,
        Command::Deliver(deliver) => deliver.run(&ledger).await,
        Command::Settle(settle) => settle.run(&ledger).await,
        Command::Lines(lines) => lines.run(&ledger).await,
        Command::Totals(totals) => totals.run(&ledger).await,
        Command::Status => report::status(&ledger).await,
        Command::Check => report::check(&ledger).await,
    }
}
