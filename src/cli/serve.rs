//! `rater serve`: the service. Everything is checked before anything listens; SIGTERM drains:
//! no new calls, the chunk in flight commits, then out, within a limit.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::database::{self, DatabaseOptions};
use super::duration;
use super::fail;
use crate::admin::{self, AdminState};
use crate::domain::money::Rate;
use crate::domain::outcome::possible_findings;
use crate::domain::window::Trigger;
use crate::embedded_postgres::{self, EmbeddedPostgres};
use crate::grpc;
use crate::metrics::Metrics;
use crate::service::change_retention::retire_changes;
use crate::service::pricebooks::Pricebooks;
use crate::service::rate_window::{Rater, RatingConfig};
use crate::service::readiness::{self, Readiness, Timing};
use crate::service::record_events::{DEFAULT_MAX_BATCHES, EventIntake};
use crate::service::scans::Scans;
use crate::service::schema;
use crate::store::{DbOptions, Duties};
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
    #[arg(long, env = "RATER_MIGRATE")]
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
    /// How long a stop waits for calls and chunks in flight
    #[arg(long, env = "RATER_DRAIN_LIMIT", value_name = "DURATION", default_value = "30s")]
    #[arg(value_parser = duration::parse)]
    drain_limit: Duration,
    /// Connections to the database for work; reads have half as many beside them
    #[arg(long, env = "RATER_DATABASE_CONNECTIONS", value_name = "COUNT", default_value_t = 16)]
    #[arg(value_parser = clap::value_parser!(u32).range(4..=1000))]
    database_connections: u32,
    /// Batches of events that are taken in at once; more are told to come again
    #[arg(long, env = "RATER_MAX_BATCHES", value_name = "COUNT", default_value_t = DEFAULT_MAX_BATCHES as u32)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    max_batches: u32,
    /// What is logged, as in RUST_LOG
    #[arg(long, env = "RATER_LOG", value_name = "FILTER", default_value = DEFAULT_FILTER)]
    log: String,
    /// How it is logged
    #[arg(long, env = "RATER_LOG_FORMAT", value_enum, default_value_t = LogFormat::Json)]
    log_format: LogFormat,
}

/// RateWindow calls in flight, most of which wait.
const MAX_RATE_CALLS: usize = 1_000;

/// A shorter lease than this would be lost to a busy machine.
fn lease_ttl(text: &str) -> Result<Duration, String> {
    match duration::parse(text)? {
        ttl if ttl < Duration::from_secs(1) => Err("must be at least 1s".into()),
        ttl => Ok(ttl),
    }
}

/// A shorter one would expire a first copy that is being read, and a longer one is none.
fn change_retention(text: &str) -> Result<Duration, String> {
    const DAY: u64 = 24 * 3600;
    match duration::parse(text)? {
        kept if kept < Duration::from_secs(60) => Err("must be at least 1m".into()),
        kept if kept > Duration::from_secs(36_500 * DAY) => Err("must be at most 36500d".into()),
        kept => Ok(kept),
    }
}

fn parallel(text: &str) -> Result<NonZeroUsize, String> {
    let count = text.parse().ok().filter(|count: &NonZeroUsize| count.get() <= 64);
    count.ok_or_else(|| "must be a number from 1 to 64".into())
}

/// A share of money is a decimal like money, from 0% to 100%.
fn percent(text: &str) -> Result<Rate, String> {
    let whole = Rate::parse("100").ok();
    let share = text.strip_suffix('%').and_then(|number| Rate::parse(number).ok());
    share
        .filter(|share| Some(*share) <= whole && share.scale() <= 2)
        .ok_or_else(|| "must be from 0% to 100%, such as 20% or 12.5%".into())
}

/// What listens and what it stands on.
struct Parts {
    db_options: DbOptions,
    rater: Arc<Rater>,
    duties: Duties,
    listener: TcpListener,
    admin_listener: TcpListener,
}

impl Serve {
    /// Serves until it is told to stop.
    pub async fn run(self) -> ExitCode {
        if let Err(error) = telemetry::init(self.log_format, &self.log) {
            return fail(&error.to_string());
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

    /// Connects, checks the schema, binds.
    async fn prepare(
        &self,
        pricebooks: Arc<Pricebooks>,
        postgres: Option<&EmbeddedPostgres>,
    ) -> Result<Parts, String> {
        let url = match postgres {
            Some(postgres) => postgres.url(),
            None => self.database.url()?,
        };
        let db_options = DbOptions {
            url,
            max_connections: self.database_connections,
            acquire_timeout: database::ACQUIRE_TIMEOUT,
        };
        let db = database::open(&db_options.url, db_options.max_connections)?;
        if self.migrate {
            schema::up(&db).await.map_err(|error| error.to_string())?;
        }
        schema::check(&db).await.map_err(|error| error.to_string())?;
        let duties = db.duties().await.map_err(|error| error.to_string())?;
        let bind = async |what: &str, address: SocketAddr| {
            TcpListener::bind(address)
                .await
                .map_err(|error| format!("can't listen on {what} {address}: {error}"))
        };
        let listener = bind("--listen", self.listen).await?;
        let admin_listener = bind("--admin-listen", self.admin_listen).await?;
        let metrics = Arc::new(Metrics::new());
        pricebooks.publish(&metrics);
        for trigger in [Trigger::Routine, Trigger::Backfill] {
            for finding in possible_findings(trigger) {
                metrics.finding(finding.code.as_str(), finding.severity.as_str(), trigger.as_str(), 0);
            }
        }
        let rater = Arc::new(Rater {
            scans: Scans::of(&db),
            db,
            pricebooks,
            config: RatingConfig {
                trailing_hours: self.trailing_hours,
                closing_delay: self.closing_delay,
                chunk_hours: self.chunk_hours,
                lease_ttl: self.lease_ttl,
                chunk_timeout: self.chunk_timeout,
                parallel: self.parallel,
                max_routine_decrease: self.max_routine_decrease,
            },
            metrics,
            stop: CancellationToken::new(),
            runs: TaskTracker::new(),
            admission: Arc::new(Semaphore::new(MAX_RATE_CALLS)),
            // Half of the connections are for everybody else: ingest and reads go on.
            chunks: Semaphore::new((self.database_connections / 2) as usize),
            plans: Semaphore::new((self.database_connections / 8).max(1) as usize),
        });
        Ok(Parts { db_options, rater, duties, listener, admin_listener })
    }

    async fn serve(&self, parts: Parts) -> Result<(), String> {
        let Parts { db_options, rater, duties, listener, admin_listener } = parts;
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        let admin_address = admin_listener.local_addr().map_err(|error| error.to_string())?;
        let stop = rater.stop.clone();
        let background = TaskTracker::new();
        let (published, ready) = watch::channel(Readiness::unknown());
        let mut first_look = ready.clone();
        background.spawn(readiness::watch(db_options, Timing::default(), published, stop.clone()));
        // Checked a moment ago: the first health check must not meet "unknown".
        let _ = tokio::time::timeout(Duration::from_secs(5), first_look.wait_for(Readiness::is_ready)).await;
        let metrics = rater.metrics.clone();
        let changed = move |books: &Pricebooks| books.publish(&metrics);
        background.spawn(rater.pricebooks.clone().watch(stop.clone(), changed));
        tell_duties(duties);
        if duties.rating {
            background.spawn(rater.clone().sweep());
        }
        if let Some(kept) = self.change_retention.filter(|_| duties.retention) {
            background.spawn(retire_changes(rater.db.clone(), kept, stop.clone()));
        }
        let state = AdminState {
            metrics: rater.metrics.clone(),
            readiness: ready.clone(),
            pricebooks: rater.pricebooks.clone(),
        };
        // The page outlives the drain, which is worth watching.
        let drained = CancellationToken::new();
        background.spawn(admin::serve(admin_listener, state, drained.clone()));
        let intake = EventIntake::new(rater.db.clone(), self.max_batches as usize, rater.metrics.clone());
        tracing::info!(
            %address,
            %admin_address,
            pricebook_digest = rater.pricebooks.current().book.digest(),
            "listening"
        );
        let stopping = stop.clone();
        let server = grpc::server::serve(listener, rater.clone(), intake, ready, async move {
            told_to_stop().await;
            tracing::info!("stopping: no new calls, what is in flight ends");
            stopping.cancel();
        });
        let result = self.drain(server, &rater).await;
        drained.cancel();
        background.close();
        let _ = tokio::time::timeout(Duration::from_secs(5), background.wait()).await;
        tracing::info!("stopped");
        result
    }

    /// Lets the server end by itself, and everything that is in flight when it is told to stop
    /// only for so long: a client that says nothing would hold it for ever.
    async fn drain(
        &self,
        server: impl Future<Output = Result<(), Box<dyn std::error::Error + Send + Sync>>>,
        rater: &Rater,
    ) -> Result<(), String> {
        let too_long = async {
            rater.stop.cancelled().await;
            tokio::time::sleep(self.drain_limit).await;
        };
        let in_flight = async {
            let served = server.await.map_err(|error| format!("the server failed: {error}"));
            // A failed server leaves runs that still want to end well.
            rater.stop.cancel();
            rater.runs.close();
            rater.runs.wait().await;
            served
        };
        tokio::select! {
            result = in_flight => result,
            () = too_long => {
                let runs = rater.runs.len();
                tracing::warn!(runs, "the drain limit is over; leaving with calls or runs in flight");
                Ok(())
            }
        }
    }
}

/// What the role may not do is not even tried, and said once.
fn tell_duties(duties: Duties) {
    let Duties { rating, retention } = duties;
    if !(rating && retention) {
        tracing::info!(
            rating,
            retention,
            "the database role may not do all of this: runs without a process and old changes are left to a \
             service whose role may"
        );
    }
}

/// The service's own errors go to its log, which is what is read.
fn refuse(message: &str) -> ExitCode {
    for line in message.lines() {
        tracing::error!("{line}");
    }
    ExitCode::FAILURE
}

async fn told_to_stop() {
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (Ok(mut terminate), Ok(mut interrupt)) = signals else {
        tracing::error!("signals can't be watched; the service must be killed to stop it");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
