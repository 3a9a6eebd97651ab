//! Why a use case did not do what it was asked: a closed set, in the words of the wire
//! (`grpc/status.rs` gives each its code). What is for the log alone (SQL, addresses) stays
//! in the store's error and has no way to the client.

use chrono::{DateTime, SecondsFormat, Utc};

use crate::domain::money::{Money, Rate};
use crate::domain::violation::Violation;
use crate::domain::window::Window;
use crate::store;

/// Every way in which a use case ends without its result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request is wrong in itself; every violation at once.
    #[error("{}", summary(.0))]
    Invalid(Vec<Violation>),
    /// Events whose ids are known with other content.
    #[error("{}", summary(.0))]
    EventConflict(Vec<Violation>),
    /// Too many calls at once.
    #[error("too many calls at once; try again")]
    Overloaded,
    /// An overlapping run holds the lease (R8).
    #[error("run {run_id} is rating hours of this window; try again when it has ended")]
    WindowBusy {
        /// The holder.
        run_id: String,
        /// When its lease ends unless it is renewed.
        until: DateTime<Utc>,
    },
    /// The window reaches past the last closed hour (R15).
    #[error("{field} lies past {}, where closed hours end; end the window there or wait", rfc3339(*closing_limit))]
    WindowNotClosed {
        /// The field that reaches too far.
        field: &'static str,
        /// Where closed hours end.
        closing_limit: DateTime<Utc>,
    },
    /// The loaded pricebook is not the one that the caller expects.
    #[error("the loaded pricebook has the digest {loaded}, not the expected one")]
    PricebookMismatch {
        /// What is loaded.
        loaded: String,
    },
    /// The window holds rows in another currency (R13).
    #[error("the window holds rated usage in {found}, and the pricebook is in {book}")]
    CurrencyMismatch {
        /// The currency that is there.
        found: String,
        /// The pricebook's.
        book: String,
    },
    /// The request id stands for a run with other arguments.
    #[error("request_id stands for another request, with other arguments (run {run_id}); use a new one")]
    RequestIdReused {
        /// The run it stands for.
        run_id: String,
    },
    /// No pricebook with this digest is known.
    #[error("no pricebook with this digest is loaded or has priced a run")]
    PricebookNotFound,
    /// No run with this id is known.
    #[error("no run with this id is known; ListRuns names those that are")]
    RunNotFound,
    /// A read took longer than it may.
    #[error("reading this took too long, or someone stopped it; name fewer hours with since and until")]
    ReadTooLong,
    /// No place in this database's feed is the cursor's.
    #[error("this database never issued the cursor; take a new first copy, and go on from its change_cursor")]
    CursorUnknown,
    /// What comes after the cursor is not all there any more.
    #[error(
        "the changes after the cursor are not all kept; take a new first copy, and go on from its change_cursor"
    )]
    CursorExpired,
    /// A run began and could not be finished.
    #[error("run {} {}: {}", .0.run_id, .0.fate(), .0.message)]
    RunFailed(RunFailure),
    /// What the run would change is no longer what its caller saw in a plan.
    #[error("{}", plan_changed(now.as_deref()))]
    PlanChanged {
        /// The plan's hash now, where the whole of it was looked at.
        now: Option<String>,
    },
    /// A routine run would take away more money than the brake lets it.
    #[error(
        "deleted and shrunk rollups would lose {lost_cost} of {previous_cost} {currency}, more than {percent}%; find \
         out what dropped their events, or backfill the window if it is meant"
    )]
    DecreaseRefused {
        /// What billed rollups would lose.
        lost_cost: Money,
        /// What the window cost before.
        previous_cost: Money,
        /// Of both.
        currency: String,
        /// The most that may be lost, in percent.
        percent: Rate,
        /// How many rollups would lose something.
        rollups: i64,
    },
    /// The service is on its way out.
    #[error("the service is stopping; try again")]
    ShuttingDown,
    /// The store said no; its own text stays in the log.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A defect of ours, such as a task that panicked.
    #[error("internal error; the log has the details")]
    Internal,
}

impl Error {
    /// How many rollups the brake refused to delete or shrink, if it did.
    pub(super) fn refused_rollups(&self) -> Option<i64> {
        match self {
            Error::DecreaseRefused { rollups, .. } => Some(*rollups),
            _ => None,
        }
    }
}

/// How a run failed, as its record keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunFailure {
    /// The run.
    pub run_id: String,
    /// Why.
    pub reason: FailureReason,
    /// For a person.
    pub message: String,
    /// Hours committed before.
    pub hours_committed: i64,
    /// What was not rated.
    pub left: Option<Window>,
    /// Whether another process, or this one, goes on with it: the same request id finds it again.
    pub goes_on: bool,
}

impl RunFailure {
    /// What becomes of the run, for a person.
    fn fate(&self) -> &'static str {
        match self.reason {
            _ if self.goes_on => "was interrupted here and goes on by itself",
            FailureReason::RunCancelled => "was cancelled",
            _ => "failed",
        }
    }
}

/// Why a run fails: the ErrorInfo reasons that a run's record can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureReason {
    /// Rows in another currency turned up.
    CurrencyMismatch,
    /// Another run took over, or the lease ended without a sign of life.
    LeaseLost,
    /// The database went away; the chunk in hand was not committed.
    DatabaseUnavailable,
    /// The connection broke at commit.
    OutcomeUnknown,
    /// The service was stopped.
    ShuttingDown,
    /// A cost past what can be kept exactly.
    CostOutOfRange,
    /// The changes are not those of the plan.
    PlanChanged,
    /// The brake refused a routine run.
    DecreaseRefused,
    /// Its process died, and its pricebook is no longer the loaded one.
    PricebookMismatch,
    /// Someone asked it to stop.
    RunCancelled,
    /// The database role lacks a grant.
    DatabasePermission,
    /// A defect of ours.
    Internal,
}

impl FailureReason {
    /// Every reason, with its name on the wire and in the record.
    const NAMES: [(FailureReason, &'static str); 12] = [
        (FailureReason::CurrencyMismatch, "CURRENCY_MISMATCH"),
        (FailureReason::LeaseLost, "LEASE_LOST"),
        (FailureReason::DatabaseUnavailable, "DATABASE_UNAVAILABLE"),
        (FailureReason::OutcomeUnknown, "OUTCOME_UNKNOWN"),
        (FailureReason::ShuttingDown, "SHUTTING_DOWN"),
        (FailureReason::CostOutOfRange, "COST_OUT_OF_RANGE"),
        (FailureReason::PlanChanged, "PLAN_CHANGED"),
        (FailureReason::DecreaseRefused, "DECREASE_REFUSED"),
        (FailureReason::PricebookMismatch, "PRICEBOOK_MISMATCH"),
        (FailureReason::RunCancelled, "RUN_CANCELLED"),
        (FailureReason::DatabasePermission, "DATABASE_PERMISSION"),
        (FailureReason::Internal, "INTERNAL"),
    ];

    /// As the wire and the record say it.
    pub fn as_str(self) -> &'static str {
        Self::NAMES.iter().find(|(reason, _)| *reason == self).map_or("INTERNAL", |(_, name)| name)
    }

    /// From the record; an unknown one is a newer version's.
    pub fn parse(name: &str) -> FailureReason {
        Self::NAMES.iter().find(|(_, n)| *n == name).map_or(FailureReason::Internal, |(reason, _)| *reason)
    }
}

impl From<&Error> for FailureReason {
    fn from(error: &Error) -> FailureReason {
        match error {
            Error::RunFailed(failure) => failure.reason,
            Error::ShuttingDown => FailureReason::ShuttingDown,
            Error::PlanChanged { .. } => FailureReason::PlanChanged,
            Error::DecreaseRefused { .. } => FailureReason::DecreaseRefused,
            Error::PricebookMismatch { .. } => FailureReason::PricebookMismatch,
            Error::Store(store::Error::CancelAsked) => FailureReason::RunCancelled,
            Error::CurrencyMismatch { .. } => FailureReason::CurrencyMismatch,
            Error::Store(store::Error::ForeignCurrency(_)) => FailureReason::CurrencyMismatch,
            Error::Store(store::Error::LeaseLost | store::Error::HigherFence) => FailureReason::LeaseLost,
            Error::Store(store::Error::Unavailable(_) | store::Error::Cancelled(_)) => {
                FailureReason::DatabaseUnavailable
            }
            Error::Store(store::Error::OutcomeUnknown(_)) => FailureReason::OutcomeUnknown,
            Error::Store(store::Error::CostOutOfRange) => FailureReason::CostOutOfRange,
            Error::Store(store::Error::Denied(_)) => FailureReason::DatabasePermission,
            Error::Store(
                store::Error::Inconsistent(_)
                | store::Error::Internal(_)
                | store::Error::SearchTooLong
                | store::Error::TakesNone(_),
            )
            | Error::Internal
            | Error::Invalid(_)
            | Error::EventConflict(_)
            | Error::Overloaded
            | Error::WindowBusy { .. }
            | Error::WindowNotClosed { .. }
            | Error::RequestIdReused { .. }
            | Error::PricebookNotFound
            | Error::ReadTooLong
            | Error::CursorUnknown
            | Error::CursorExpired
            | Error::RunNotFound => FailureReason::Internal,
        }
    }
}

fn plan_changed(now: Option<&str>) -> String {
    let hash = now.map(|hash| format!(" (it is {hash} now)")).unwrap_or_default();
    format!(
        "the run would no longer do what the expected plan says{hash}; look at a new plan, then apply that"
    )
}

/// The first violation, and how many more there are: one line for a person.
fn summary(violations: &[Violation]) -> String {
    match violations {
        [] => "the request is wrong".into(),
        [only] => format!("{}: {}", only.field, only.message),
        [first, rest @ ..] => format!("{}: {} (and {} more)", first.field, first.message, rest.len()),
    }
}

/// A time as messages print it: `2026-06-01T00:00:00Z`.
pub fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}
