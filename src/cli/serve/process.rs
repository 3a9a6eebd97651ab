//! The service's process: what it stands on, what it starts, and how all of it ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Serve;
use super::access::Guarded;
use super::stopping::told_to_stop;
use crate::admin::{self, AdminState};
use crate::cli::database;
use crate::domain::outcome::possible_findings;
use crate::domain::window::Trigger;
use crate::embedded_postgres::EmbeddedPostgres;
use crate::grpc;
use crate::grpc::server::Serving;
use crate::metrics::Metrics;
use crate::service::change_retention::retire_changes;
use crate::service::observe::observe;
use crate::service::pricebooks::Pricebooks;
use crate::service::rate_window::{Rater, RatingConfig};
use crate::service::readiness::{self, Readiness, Timing};
use crate::service::record_events::EventIntake;
use crate::service::scans::Scans;
use crate::service::{schema, table_jobs};
use crate::store::{DbOptions, Duties};
use crate::telemetry;

/// RateWindow calls in flight, most of which wait.
const MAX_RATE_CALLS: usize = 1_000;

/// What listens and what it stands on.
pub(super) struct Parts {
    db_options: DbOptions,
    rater: Arc<Rater>,
    duties: Duties,
    listener: TcpListener,
    admin_listener: TcpListener,
    guarded: Guarded,
}

impl Serve {
    /// Connects, checks the schema, binds.
    pub(super) async fn prepare(
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
        let metrics = Arc::new(Metrics::new());
        let guarded = self.access.load(&metrics)?;
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
        pricebooks.publish(&metrics);
        for trigger in [Trigger::Routine, Trigger::Backfill] {
            for finding in possible_findings(trigger) {
                metrics.finding(finding.code.as_str(), finding.severity.as_str(), trigger.as_str(), 0);
            }
        }
        let shown = metrics.clone();
        telemetry::export_metrics(move || shown.encode());
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
        Ok(Parts { db_options, rater, duties, listener, admin_listener, guarded })
    }

    pub(super) async fn serve(&self, parts: Parts) -> Result<(), String> {
        let Parts { db_options, rater, duties, listener, admin_listener, guarded } = parts;
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        let admin_address = admin_listener.local_addr().map_err(|error| error.to_string())?;
        let stop = rater.stop.clone();
        let background = TaskTracker::new();
        let (published, ready) = watch::channel(Readiness::unknown());
        let (mut first_look, unready) = (ready.clone(), published.clone());
        background.spawn(readiness::watch(db_options.clone(), Timing::default(), published, stop.clone()));
        // Checked a moment ago: the first health check must not meet "unknown".
        let _ = tokio::time::timeout(Duration::from_secs(5), first_look.wait_for(Readiness::is_ready)).await;
        let metrics = rater.metrics.clone();
        let (records, closing_delay, stopped) = (metrics.clone(), self.closing_delay, stop.clone());
        let seen = ready.clone();
        background.spawn(async move { observe(db_options, closing_delay, &records, seen, stopped).await });
        let changed = move |books: &Pricebooks| books.publish(&metrics);
        background.spawn(rater.pricebooks.clone().watch(stop.clone(), changed));
        guarded.watch(&background, &stop);
        guarded.tell(self.listen);
        tell_duties(duties);
        if duties.rating {
            background.spawn(rater.clone().sweep());
        }
        if let Some(kept) = self.change_retention.filter(|_| duties.retention) {
            background.spawn(retire_changes(rater.db.clone(), kept, stop.clone()));
        }
        let (seen, jobs) = watch::channel(Vec::new());
        background.spawn(table_jobs::watch(rater.db.clone(), rater.metrics.clone(), seen, stop.clone()));
        let state = AdminState {
            metrics: rater.metrics.clone(),
            readiness: ready.clone(),
            pricebooks: rater.pricebooks.clone(),
            jobs,
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
        let left = rater.clone();
        let serving = Serving {
            listener,
            rater: rater.clone(),
            intake,
            readiness: ready,
            access: guarded.layer(),
            open: guarded.open,
            tls: guarded.tls,
            limits: self.limits.limits(),
        };
        let told = told_to_stop(self.limits.shutdown_grace, move || left.runs.len());
        let server = grpc::server::serve(serving, async move {
            told.await;
            // First of all, and before anything that takes time.
            unready.send_modify(|readiness| readiness.stopping = true);
            tracing::info!("stopping: no new calls, what is in flight ends");
        });
        let result = drain(server, &rater).await;
        drained.cancel();
        background.close();
        let _ = tokio::time::timeout(Duration::from_secs(5), background.wait()).await;
        tracing::info!("stopped");
        result
    }
}

/// Lets the server end by itself, and with it the runs in flight. A client that says nothing would
/// hold it for ever: the grace ends that.
async fn drain(
    server: impl Future<Output = Result<(), Box<dyn std::error::Error + Send + Sync>>>,
    rater: &Rater,
) -> Result<(), String> {
    let served = server.await.map_err(|error| format!("the server failed: {error}"));
    // A failed server leaves runs that still want to end well.
    rater.stop.cancel();
    rater.runs.close();
    rater.runs.wait().await;
    served
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
