//! RateWindow: from a request to a run and its result.
//!
//! The flow: check the request; find its id known, or decide the window, the trigger and the
//! basis; begin the run together with its lease; execute it ([`super::run`]); answer. All of it
//! happens in a task of its own, so that a caller who goes away stops nothing: a run is durable.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use futures_util::future::join_all;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::error::Error;
use super::pricebooks::Pricebooks;
use super::report::Report;
use super::run::{self, Execution};
use super::scans::Scans;
use super::stored_text;
use crate::domain::money::Rate;
use crate::domain::pricebook::Pricebook;
use crate::domain::text::is_sha256;
use crate::domain::violation::Violation;
use crate::domain::window::{Asked, Decided, RateBasis, Refused, Trigger, closing_limit, decide};
use crate::metrics::Metrics;
use crate::store::{Begun, Db, Known, NewRun};
use crate::telemetry;

/// The longest request id, in characters.
const REQUEST_ID_LIMIT: usize = 128;
/// The most hours that a plan covers: it keeps a hash an hour.
const PLAN_LIMIT: i64 = 100_000;
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
    /// Chunks of one run that go on side by side.
    pub parallel: NonZeroUsize,
    /// The brake: how much of the window's billed cost a routine run may take away, in percent.
    pub max_routine_decrease: Option<Rate>,
}

/// What the caller asked for.
#[derive(Debug, Clone, Default)]
pub struct RateRequest {
    /// Window, trigger and basis.
    pub asked: Asked,
    /// Only says what the run would do.
    pub dry_run: bool,
    /// The pricebook that a dry run rates with; empty: the loaded one.
    pub pricebook_yaml: String,
    /// Empty: any.
    pub expected_pricebook_digest: String,
    /// The plan that the run must keep to; empty: none.
    pub expected_plan_hash: String,
    /// Empty: none.
    pub request_id: String,
    /// Empty: none.
    pub reason: String,
    /// The caller does not wait for the end.
    pub detach: bool,
    /// The caller's authenticated name; empty without authentication.
    pub requested_by: String,
}

impl RateRequest {
    /// Whether it asks for nothing but a routine run.
    pub fn is_routine_run(&self) -> bool {
        self.asked.trigger() == Trigger::Routine && !self.dry_run && self.pricebook_yaml.is_empty()
    }
}

/// A request on its way.
pub struct Ticket {
    run_id: watch::Receiver<Option<String>>,
    task: JoinHandle<Result<Report, Error>>,
    /// Nobody waits for a dry run whose caller is gone; it stops after the chunk in flight.
    _while_waited_for: Option<DropGuard>,
}

impl Ticket {
    /// The run, once it has begun.
    pub fn run_id(&self) -> Option<String> {
        self.run_id.borrow().clone()
    }

    /// Waits until there is a run, or an end without one.
    pub async fn accepted(&mut self) -> Option<String> {
        // An error: the task has ended, and its result says why.
        drop(self.run_id.wait_for(Option::is_some).await);
        self.run_id()
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
    /// So are those that are only planned, apart from them: no run waits for a plan.
    pub plans: Semaphore,
    /// And calls that read whole windows.
    pub scans: Scans,
}

impl Rater {
    /// Begins; the answer comes through the ticket.
    pub fn rate_window(self: &Arc<Self>, request: RateRequest) -> Result<Ticket, Error> {
        let admitted = self.admission.clone().try_acquire_owned().map_err(|_| Error::Overloaded)?;
        let (accepted, run_id) = watch::channel(None);
        let stop = self.stop.child_token();
        let _while_waited_for = request.dry_run.then(|| stop.clone().drop_guard());
        let rater = self.clone();
        let task = self.runs.spawn(telemetry::carried(async move {
            let _admitted = admitted;
            rater.rate(request, accepted, stop).await
        }));
        Ok(Ticket { run_id, task, _while_waited_for })
    }

    async fn rate(
        &self,
        request: RateRequest,
        accepted: watch::Sender<Option<String>>,
        stop: CancellationToken,
    ) -> Result<Report, Error> {
        check(&request)?;
        if self.stop.is_cancelled() {
            return Err(Error::ShuttingDown);
        }
        if request.dry_run {
            return self.dry_run(request, stop).await;
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
            Begun::Started(lease, ended) => {
                accepted.send_replace(Some(run.run_id.clone()));
                let execution = Execution::new(self, &run, lease, &pricebook);
                // Beside it: its lease is alive already, and wants its heartbeat.
                let tell = join_all(ended.iter().map(|run_id| self.tell_ended(run_id)));
                tokio::join!(execution.finish(), tell).0
            }
        }
    }

    /// Everything that can be refused before a run begins, and what it then is.
    async fn plan(&self, request: RateRequest, book: &Pricebook) -> Result<NewRun, Error> {
        let decided = self.decide(&request, book).await?;
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
            expected_plan_hash: (!request.expected_plan_hash.is_empty())
                .then_some(request.expected_plan_hash),
            traceparent: telemetry::traceparent(),
            lease_ttl: self.config.lease_ttl,
            run_id,
        })
    }

    /// Which window, trigger and basis a request gets, and whether the loaded pricebook is the
    /// one that its caller expects.
    pub(super) async fn decide(&self, request: &RateRequest, loaded: &Pricebook) -> Result<Decided, Error> {
        let expected = &request.expected_pricebook_digest;
        if !expected.is_empty() && expected != loaded.digest() {
            return Err(Error::PricebookMismatch { loaded: loaded.digest().into() });
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
        let planned = request.dry_run || !request.expected_plan_hash.is_empty();
        if planned && decided.window.hour_count() > PLAN_LIMIT {
            let message =
                "a plan covers at most 100,000 hours, which is eleven years; plan the window in parts";
            return Err(Error::Invalid(vec![Violation::new("since", "TOO_LONG", message)]));
        }
        Ok(decided)
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
        self.outcome_of(&known.run_id).await
    }

    /// Waits for the end of a run, in whichever process it runs, and gives its result.
    async fn outcome_of(&self, run_id: &str) -> Result<Report, Error> {
        loop {
            if self.db.run_has_ended(run_id).await?.ok_or(Error::Internal)? {
                return run::recorded(&self.db.find_run(run_id).await?.ok_or(Error::Internal)?);
            }
            tokio::select! {
                () = tokio::time::sleep(FOLLOW_EVERY) => {}
                () = self.stop.cancelled() => return Err(Error::ShuttingDown),
            }
        }
    }

    /// How a run stands as soon as it is accepted, for a caller that does not wait for its end.
    pub async fn accepted(&self, ticket: &mut Ticket) -> Result<Report, Error> {
        let Some(run_id) = ticket.accepted().await else { return ticket.wait().await };
        run::recorded(&self.db.find_run(&run_id).await?.ok_or(Error::Internal)?)
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
    let hashes = [
        (
            "expected_pricebook_digest",
            &request.expected_pricebook_digest,
            "must be the 64 lowercase hex digits that GetPricebook and `rater validate` print",
        ),
        (
            "expected_plan_hash",
            &request.expected_plan_hash,
            "must be the 64 lowercase hex digits that a dry run reports as plan_hash",
        ),
    ];
    for (field, text, message) in hashes {
        if !text.is_empty() && !is_sha256(text) {
            wrong.push(Violation::new(field, "MALFORMED", message));
        }
    }
    wrong.extend(check_dry_run(request));
    if wrong.is_empty() { Ok(()) } else { Err(Error::Invalid(wrong)) }
}

/// What belongs to a dry run alone, and what has no meaning for one.
fn check_dry_run(request: &RateRequest) -> Vec<Violation> {
    let not_with_it = [
        ("request_id", !request.request_id.is_empty(), "it leaves no run to find again"),
        (
            "expected_plan_hash",
            !request.expected_plan_hash.is_empty(),
            "it reports the plan's hash; compare that",
        ),
        ("detach", request.detach, "its answer is all that it leaves"),
    ];
    if request.dry_run {
        let wrong = not_with_it.into_iter().filter(|(_, set, _)| *set);
        return wrong
            .map(|(field, _, why)| {
                Violation::new(field, "NOT_WITH_DRY_RUN", format!("has no place in a dry run: {why}"))
            })
            .collect();
    }
    let candidate = !request.pricebook_yaml.is_empty();
    let message = "is a candidate, which only a dry run rates with; to bill by it, put it into force first";
    candidate.then(|| Violation::new("pricebook_yaml", "ONLY_WITH_DRY_RUN", message)).into_iter().collect()
}

/// Of the arguments as they were asked: what they stand for may move with the clock.
fn hash(request: &RateRequest) -> String {
    let Asked { since, until, trigger, basis } = request.asked;
    let mut arguments = vec![
        json!(since),
        json!(until),
        json!(trigger.map(Trigger::as_str)),
        json!(basis.map(RateBasis::as_str)),
        json!(request.expected_pricebook_digest),
        json!(request.reason),
    ];
    // Only where it is set: an id that an older version stored stays good over an upgrade.
    if !request.expected_plan_hash.is_empty() {
        arguments.push(json!(request.expected_plan_hash));
    }
    let arguments = Value::Array(arguments);
    hex::encode(Sha256::digest(arguments.to_string()))
}
