//! RateWindow: from a request to a run and its result.
//!
//! The flow: check the request; find its id known, or decide the window, the trigger and the
//! basis; begin the run together with its lease; execute it ([`super::run`]); answer. All of it
//! happens in a task of its own, so that a caller who goes away stops nothing: a run is durable.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use sha2::{Digest, Sha256};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::error::Error;
use super::pricebooks::Pricebooks;
use super::report::Report;
use super::run::{self, Execution};
use super::stored_text;
use crate::domain::violation::Violation;
use crate::domain::window::{Asked, RateBasis, Refused, Trigger, closing_limit, decide};
use crate::metrics::Metrics;
use crate::store::{Begun, Db, Known, NewRun};

/// The longest request id, in characters.
const REQUEST_ID_LIMIT: usize = 128;
/// What is kept of a reason, in bytes.
const REASON_LIMIT: usize = 1_000;
/// How often a repeated request looks whether its run has ended.
const FOLLOW_EVERY: Duration = Duration::from_millis(200);

/// How windows are rated.
#[derive(Debug, Clone, Copy)]
pub struct RatingConfig {
    /// The window of a routine run, in hours.
    pub trailing_hours: u32,
    /// How long an hour stays open after its end.
    pub closing_delay: Duration,
    /// Hours in one transaction.
    pub chunk_hours: u32,
    /// How long a lease lives without a heartbeat.
    pub lease_ttl: Duration,
    /// The longest that a chunk's statement may take.
    pub chunk_timeout: Duration,
}

/// What the caller asked for.
#[derive(Debug, Clone, Default)]
pub struct RateRequest {
    /// Window, trigger and basis.
    pub asked: Asked,
    /// Empty: any.
    pub expected_pricebook_digest: String,
    /// Empty: none.
    pub request_id: String,
    /// Empty: none.
    pub reason: String,
    /// The caller's authenticated name; empty without authentication.
    pub requested_by: String,
}

/// A request on its way.
pub struct Ticket {
    run_id: watch::Receiver<Option<String>>,
    task: JoinHandle<Result<Report, Error>>,
}

impl Ticket {
    /// The run, once it has begun.
    pub fn run_id(&self) -> Option<String> {
        self.run_id.borrow().clone()
    }

    /// Waits for the end. Dropping the future, or the ticket, stops nothing.
    pub async fn wait(&mut self) -> Result<Report, Error> {
        match (&mut self.task).await {
            Ok(result) => result,
            Err(panic) => {
                tracing::error!(%panic, "a run's task panicked");
                Err(Error::Internal)
            }
        }
    }
}

/// Rates windows.
pub struct Rater {
    /// The database.
    pub db: Db,
    /// The pricebook in force.
    pub pricebooks: Arc<Pricebooks>,
    /// How.
    pub config: RatingConfig,
    /// What can be counted from outside.
    pub metrics: Arc<Metrics>,
    /// Cancelled when the service stops: the chunk in flight commits, and the run ends.
    pub stop: CancellationToken,
    /// The runs in flight, which a drain waits for.
    pub runs: TaskTracker,
    /// Requests in flight are bounded; past that a caller is told to come again.
    pub admission: Arc<Semaphore>,
    /// Chunks in flight are bounded, so that ingest and reads always find a connection.
    pub chunks: Semaphore,
}

impl Rater {
    /// Begins; the answer comes through the ticket.
    pub fn rate_window(self: &Arc<Self>, request: RateRequest) -> Result<Ticket, Error> {
        let admitted = self.admission.clone().try_acquire_owned().map_err(|_| Error::Overloaded)?;
        let (accepted, run_id) = watch::channel(None);
        let rater = self.clone();
        let task = self.runs.spawn(async move {
            let _admitted = admitted;
            rater.rate(request, accepted).await
        });
        Ok(Ticket { run_id, task })
    }

    async fn rate(
        &self,
        request: RateRequest,
        accepted: watch::Sender<Option<String>>,
    ) -> Result<Report, Error> {
        check(&request)?;
        if self.stop.is_cancelled() {
            return Err(Error::ShuttingDown);
        }
        if !request.request_id.is_empty()
            && let Some(known) = self.db.known_request(&request.requested_by, &request.request_id).await?
        {
            return self.follow(known, &hash(&request), &accepted).await;
        }
        let pricebook = self.pricebooks.current().book.clone();
        let run = self.plan(request, &pricebook).await?;
        match self.db.begin_run(&run).await? {
            Begun::Known(known) => self.follow(known, &run.request_hash, &accepted).await,
            Begun::Busy(holder) => {
                self.metrics.lease_conflict();
                Err(Error::WindowBusy { run_id: holder.run_id, until: holder.expires_at })
            }
            Begun::Started(lease) => {
                accepted.send_replace(Some(run.run_id.clone()));
                Execution { rater: self, run: &run, lease, pricebook: &pricebook }.finish().await
            }
        }
    }

    /// Everything that can be refused before a run begins, and what it then is.
    async fn plan(
        &self,
        request: RateRequest,
        book: &crate::domain::pricebook::Pricebook,
    ) -> Result<NewRun, Error> {
        let expected = &request.expected_pricebook_digest;
        if !expected.is_empty() && expected != book.digest() {
            return Err(Error::PricebookMismatch { loaded: book.digest().into() });
        }
        let delay = TimeDelta::from_std(self.config.closing_delay).unwrap_or(TimeDelta::MAX);
        let limit = closing_limit(self.db.now().await?, delay);
        let decided =
            decide(request.asked, limit, self.config.trailing_hours).map_err(|refused| match refused {
                Refused::Invalid(wrong) => Error::Invalid(wrong),
                Refused::NotClosed { field, closing_limit } => {
                    Error::WindowNotClosed { field, closing_limit }
                }
            })?;
        // Each chunk checks its own rows again; this one lets a run of many chunks commit nothing.
        if let Some(found) = self.db.foreign_currency(decided.window, book.currency()).await? {
            return Err(Error::CurrencyMismatch { found, book: book.currency().into() });
        }
        let run_id = Uuid::now_v7().to_string();
        let request_hash = hash(&request);
        let reason = stored_text::stored(&request.reason, REASON_LIMIT, "reason", &run_id).to_owned();
        Ok(NewRun {
            window: decided.window,
            trigger: decided.trigger,
            basis: decided.basis,
            pricebook_digest: book.digest().into(),
            pricebook_yaml: book.yaml().into(),
            currency: book.currency().into(),
            requested_by: request.requested_by,
            request_id: (!request.request_id.is_empty()).then_some(request.request_id),
            request_hash,
            reason: (!reason.is_empty()).then_some(reason),
            lease_ttl: self.config.lease_ttl,
            run_id,
        })
    }

    /// The same request again: waits for its run's end and gives its result.
    async fn follow(
        &self,
        known: Known,
        request_hash: &str,
        accepted: &watch::Sender<Option<String>>,
    ) -> Result<Report, Error> {
        if known.request_hash != request_hash {
            return Err(Error::RequestIdReused { run_id: known.run_id });
        }
        accepted.send_replace(Some(known.run_id.clone()));
        loop {
            let record = self.db.find_run(&known.run_id).await?.ok_or(Error::Internal)?;
            if record.state.is_finished() {
                return match run::recorded_failure(&record) {
                    Some(failure) => Err(Error::RunFailed(failure)),
                    None => Ok(Report::of(&record)),
                };
            }
            tokio::select! {
                () = tokio::time::sleep(FOLLOW_EVERY) => {}
                () = self.stop.cancelled() => return Err(Error::ShuttingDown),
            }
        }
    }

    /// Ends the runs of processes that are gone, for as long as the service lives.
    pub async fn sweep(&self) {
        loop {
            match self.db.reap_expired_leases().await {
                Ok(runs) => {
                    for run_id in runs {
                        tracing::error!(
                            run_id,
                            "a run's lease ended without a sign of life; the run has failed"
                        );
                    }
                }
                Err(error) => tracing::warn!(error = %error, "could not look for abandoned runs"),
            }
            tokio::select! {
                () = tokio::time::sleep(self.config.lease_ttl) => {}
                () = self.stop.cancelled() => return,
            }
        }
    }
}

fn check(request: &RateRequest) -> Result<(), Error> {
    let mut wrong = Vec::new();
    if request.request_id.chars().count() > REQUEST_ID_LIMIT {
        wrong.push(Violation::new("request_id", "TOO_LONG", "must have at most 128 characters"));
    }
    for (field, text) in [("request_id", &request.request_id), ("reason", &request.reason)] {
        if text.contains('\0') {
            wrong.push(Violation::new(field, "NUL_CHARACTER", "must not hold a NUL character"));
        }
    }
    let digest = &request.expected_pricebook_digest;
    let hex = digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if !digest.is_empty() && !hex {
        wrong.push(Violation::new(
            "expected_pricebook_digest",
            "MALFORMED",
            "must be the 64 lowercase hex digits that GetPricebook and `rater validate` print",
        ));
    }
    if wrong.is_empty() { Ok(()) } else { Err(Error::Invalid(wrong)) }
}

/// Of the arguments as they were asked: what they stand for may move with the clock.
fn hash(request: &RateRequest) -> String {
    let Asked { since, until, trigger, basis } = request.asked;
    let arguments = serde_json::json!([
        since,
        until,
        trigger.map(Trigger::as_str),
        basis.map(RateBasis::as_str),
        request.expected_pricebook_digest,
        request.reason
    ]);
    hex::encode(Sha256::digest(arguments.to_string()))
}
