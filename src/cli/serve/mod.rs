//! `rater serve`: the service. Everything is checked before anything listens; SIGTERM drains:
//! not ready at once, no new calls, what is in flight ends, then out, within a grace.

mod access;
mod limits;
mod process;
mod stopping;
mod values;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use self::access::AccessOptions;
use self::limits::LimitOptions;
pub(super) use self::values::change_retention;
use self::values::{lease_ttl, parallel, percent};
use super::database::DatabaseOptions;
use super::duration;
use super::fail;
use crate::domain::money::Rate;
use crate::embedded_postgres::{self, EmbeddedPostgres};
use crate::service::pricebooks::Pricebooks;
use crate::service::record_events::DEFAULT_MAX_BATCHES;
use crate::telemetry::{self, DEFAULT_FILTER, LogFormat};

/// Run the service
#[derive(Debug, clap::Args)]
pub struct Serve {
    #[command(flatten)]
    database: DatabaseOptions,
    /// Start a private PostgreSQL in this folder, for a laptop or a demo
    #[arg(long, env = "RATER_EMBEDDED_POSTGRES", value_name = "DIR", conflicts_with = "database_url")]
    embedded_postgres: Option<PathBuf>,
    /// Bring the schema up first
    #[arg(long, env = "RATER_MIGRATE", value_parser = crate::cli::switch::Switch)]
    migrate: bool,
    /// The pricebook, a YAML file; followed when it changes
    #[arg(long, env = "RATER_PRICEBOOK", value_name = "FILE")]
    pricebook: PathBuf,
    /// Where the service listens
    #[arg(long, env = "RATER_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:50051")]
    listen: SocketAddr,
    /// Where /metrics, /healthz and /readyz are
    #[arg(long, env = "RATER_ADMIN_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:9464")]
    admin_listen: SocketAddr,
    #[command(flatten)]
    access: AccessOptions,
    /// The window of a routine run
    #[arg(long, env = "RATER_TRAILING_HOURS", value_name = "HOURS", default_value_t = 24)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=8784))]
    trailing_hours: u32,
    /// How long an hour stays open after its end, for events that are on their way
    #[arg(long, env = "RATER_CLOSING_DELAY", value_name = "DURATION", default_value = "0s")]
    #[arg(value_parser = duration::parse)]
    closing_delay: Duration,
    /// Hours in one transaction
    #[arg(long, env = "RATER_CHUNK_HOURS", value_name = "HOURS", default_value_t = 24)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=744))]
    chunk_hours: u32,
    /// How long a run's lease lives without a sign of life
    #[arg(long, env = "RATER_LEASE_TTL", value_name = "DURATION", default_value = "30s", value_parser = lease_ttl)]
    lease_ttl: Duration,
    /// The longest that a chunk's statement may take
    #[arg(long, env = "RATER_CHUNK_TIMEOUT", value_name = "DURATION", default_value = "15m")]
    #[arg(value_parser = duration::parse)]
    chunk_timeout: Duration,
    /// Chunks of one run that go on side by side
    #[arg(long, env = "RATER_PARALLEL", value_name = "COUNT", default_value = "1", value_parser = parallel)]
    parallel: NonZeroUsize,
    /// The brake: refuse a routine run that would take away more than this share of its window's
    /// billed cost, such as 20%; without it there is none
    #[arg(long, env = "RATER_MAX_ROUTINE_DECREASE", value_name = "PERCENT", value_parser = percent)]
    max_routine_decrease: Option<Rate>,
    /// How long change records are kept for consumers, such as 90d; without it for ever
    #[arg(long, env = "RATER_CHANGE_RETENTION", value_name = "DURATION", value_parser = change_retention)]
    change_retention: Option<Duration>,
    /// Connections to the database for work; reads have half as many beside them
    #[arg(long, env = "RATER_DATABASE_CONNECTIONS", value_name = "COUNT", default_value_t = 16)]
    #[arg(value_parser = clap::value_parser!(u32).range(4..=1000))]
    database_connections: u32,
    /// Batches of events that are taken in at once; more are told to come again
    #[arg(long, env = "RATER_MAX_BATCHES", value_name = "COUNT", default_value_t = DEFAULT_MAX_BATCHES as u32)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    max_batches: u32,
    #[command(flatten)]
    limits: LimitOptions,
    /// What is logged, as in RUST_LOG
    #[arg(long, env = "RATER_LOG", value_name = "FILTER", default_value = DEFAULT_FILTER)]
    log: String,
    /// How it is logged
    #[arg(long, env = "RATER_LOG_FORMAT", value_enum, default_value_t = LogFormat::Json)]
    log_format: LogFormat,
}

impl Serve {
    /// Serves until it is told to stop.
    pub async fn run(self) -> ExitCode {
        if let Err(error) = telemetry::init(self.log_format, &self.log) {
            return fail(&error.to_string());
        }
        if let Err(message) = self.access.check(self.listen) {
            return refuse(&message);
        }
        let pricebooks = match Pricebooks::load(&self.pricebook) {
            Ok(pricebooks) => Arc::new(pricebooks),
            Err(error) => return refuse(&error.to_string()),
        };
        let postgres = match self.start_postgres().await {
            Ok(postgres) => postgres,
            Err(message) => return refuse(&message),
        };
        let served = match self.prepare(pricebooks, postgres.as_ref()).await {
            Ok(parts) => self.serve(parts).await,
            Err(message) => Err(message),
        };
        if let Some(postgres) = postgres {
            // It waits for the server's end, which must not keep a worker thread.
            let _ = tokio::task::spawn_blocking(move || postgres.stop()).await;
        }
        match served {
            Ok(()) => ExitCode::SUCCESS,
            Err(message) => refuse(&message),
        }
    }

    async fn start_postgres(&self) -> Result<Option<EmbeddedPostgres>, String> {
        let Some(dir) = self.embedded_postgres.clone() else { return Ok(None) };
        let options = embedded_postgres::Options { dir, durable: true, settings: Vec::new() };
        let started = tokio::task::spawn_blocking(move || EmbeddedPostgres::start(options)).await;
        started.map_err(|error| error.to_string())?.map(Some).map_err(|error| error.to_string())
    }
}

/// The service's own errors go to its log, which is what is read.
fn refuse(message: &str) -> ExitCode {
    for line in message.lines() {
        tracing::error!("{line}");
    }
    ExitCode::FAILURE
}
