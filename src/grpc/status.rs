//! From the service's errors to the wire's: the only place where a `Status` is built. Each
//! error has one code and one reason; what is internal (SQL, paths, addresses) has no way in,
//! because only an error's own words travel, never its source.

use std::collections::HashMap;
use std::time::Duration;

use chrono::Utc;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::domain::text;
use crate::domain::violation::Violation;
use crate::identity::Refusal;
use crate::service::caller::Role;
use crate::service::{Error, FailureReason, RunFailure, StoreError, rfc3339};

/// The most violations in one status, and the most bytes of details: they travel in trailers,
/// which clients cap at 8 to 16 KiB, percent-encoded or in base64.
const MAX_VIOLATIONS: usize = 50;
const MAX_DETAIL_BYTES: usize = 4 * 1024;
/// A message repeats the first violation, and travels twice; it is never long.
const MAX_MESSAGE_BYTES: usize = 512;
/// What the details hold beside the message and the violations: types, reasons, the last line.
const ENVELOPE_BYTES: usize = 384;
/// Of our ErrorInfo: whatever stands between a client and the service has none of this domain.
pub const DOMAIN: &str = "rater";
/// When a call that met an overload or a dead database may come again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The status of an error.
pub fn status(error: Error) -> Status {
    log(&error);
    let message = text::cut(&error.to_string(), MAX_MESSAGE_BYTES).to_owned();
    let (code, details) = match error {
        Error::Invalid(violations) => (Code::InvalidArgument, bad_request(violations)),
        Error::EventConflict(violations) => {
            let mut details = bad_request(violations);
            details.set_error_info("EVENT_CONFLICT", DOMAIN, HashMap::new());
            (Code::AlreadyExists, details)
        }
        Error::Overloaded => (Code::ResourceExhausted, retry("OVERLOADED", RETRY_AFTER)),
        Error::WindowBusy { run_id, until } => {
            let wait = (until - Utc::now()).to_std().unwrap_or(RETRY_AFTER).max(RETRY_AFTER);
            let mut details = info("WINDOW_BUSY", &[("run", run_id), ("until", rfc3339(until))]);
            details.set_retry_info(Some(wait));
            (Code::Aborted, details)
        }
        Error::WindowNotClosed { closing_limit, field } => {
            let metadata = [("closing_limit", rfc3339(closing_limit)), ("field", field.into())];
            (Code::FailedPrecondition, info("WINDOW_NOT_CLOSED", &metadata))
        }
        Error::PricebookMismatch { loaded } => {
            (Code::FailedPrecondition, info("PRICEBOOK_MISMATCH", &[("loaded", loaded)]))
        }
        Error::CurrencyMismatch { found, book } => {
            (Code::FailedPrecondition, info("CURRENCY_MISMATCH", &[("found", found), ("pricebook", book)]))
        }
        Error::PlanChanged { .. } => (Code::FailedPrecondition, info("PLAN_CHANGED", &[])),
        Error::DecreaseRefused { .. } => (Code::FailedPrecondition, info("DECREASE_REFUSED", &[])),
        Error::RequestIdReused { run_id } => {
            (Code::AlreadyExists, info("REQUEST_ID_REUSED", &[("run", run_id)]))
        }
        Error::PricebookNotFound => (Code::NotFound, info("PRICEBOOK_NOT_FOUND", &[])),
        Error::RunNotFound => (Code::NotFound, info("RUN_NOT_FOUND", &[])),
        Error::ReadTooLong => (Code::DeadlineExceeded, info("READ_TOO_LONG", &[])),
        Error::CursorUnknown => (Code::FailedPrecondition, info("CURSOR_UNKNOWN", &[])),
        Error::CursorExpired => (Code::FailedPrecondition, info("CURSOR_EXPIRED", &[])),
        Error::RunFailed(failure) => run_failed(failure),
        Error::ShuttingDown => (Code::Unavailable, retry("SHUTTING_DOWN", RETRY_AFTER)),
        Error::Store(error) => store(error),
        Error::Internal => (Code::Internal, info("INTERNAL", &[])),
    };
    Status::with_error_details(code, message, details)
}

/// What a caller is not told, and an operator needs: a defect, or a grant that is missing. How runs
/// fail, they tell themselves.
fn log(error: &Error) {
    let Error::Store(error) = error else { return };
    if matches!(error, StoreError::Internal(_) | StoreError::Inconsistent(_)) {
        tracing::error!(error = %error, detail = error.detail(), "a call failed");
    }
    if let StoreError::TakesNone(rule) = error {
        tracing::error!(error = %error, rule, "a batch was refused as a whole");
    }
    if matches!(error, StoreError::Denied(_)) {
        tracing::warn!(error = %error, detail = error.detail(), "a call was refused by the database");
    }
}

/// The caller's deadline passed first; the run goes on.
pub fn run_continues(run_id: Option<String>) -> Status {
    match run_id {
        Some(run_id) => Status::with_error_details(
            Code::DeadlineExceeded,
            format!("the deadline passed; run {run_id} goes on"),
            info("RUN_CONTINUES", &[("run", run_id)]),
        ),
        None => Status::with_error_details(
            Code::DeadlineExceeded,
            "the deadline passed before there was a run; it may still begin: the same request_id finds it",
            info("RUN_CONTINUES", &[]),
        ),
    }
}

/// The caller's deadline passed first, and nothing goes on.
pub fn deadline_passed() -> Status {
    Status::with_error_details(
        Code::DeadlineExceeded,
        "the deadline passed first; allow more time, or ask for a shorter window",
        info("DEADLINE_PASSED", &[]),
    )
}

/// The caller's deadline passed before a batch was answered for: what it came to is unknown to it.
pub fn batch_deadline_passed() -> Status {
    Status::with_error_details(
        Code::DeadlineExceeded,
        "the deadline passed first; the batch may still be stored, and is safe to repeat",
        info("DEADLINE_PASSED", &[]),
    )
}

/// A batch, or another request, that is still on its way after so long; its room is another's.
pub fn too_slow(what: &str, within: Duration) -> Status {
    let reason = if what == "batch" { "BATCH_TOO_SLOW" } else { "REQUEST_TOO_SLOW" };
    let less = if what == "batch" { "; send fewer events at once" } else { "" };
    Status::with_error_details(
        Code::DeadlineExceeded,
        format!("the {what} did not arrive within {} s{less}", within.as_secs_f32()),
        info(reason, &[]),
    )
}

/// A message that ended before it was whole: its sender or something on the way was cut off.
pub fn incomplete(what: &str) -> Status {
    let message = format!("the {what} ended before it was whole, and nothing of it was done; send it again");
    Status::with_error_details(Code::Unavailable, message, retry("INCOMPLETE", RETRY_AFTER))
}

/// The deadline passed while a stream went on. What was told is told: whoever follows goes on after
/// its last message.
pub fn stream_deadline_passed() -> Status {
    Status::with_error_details(
        Code::DeadlineExceeded,
        "the deadline passed; ask again, with the last message's cursor where there is one",
        info("DEADLINE_PASSED", &[]),
    )
}

/// A `grpc-timeout` that is none. To go on without would let a caller wait that wanted not to.
pub fn malformed_deadline() -> Status {
    let message = "is no timeout; write at most 8 digits and one of H, M, S, m, u, n";
    status(Error::Invalid(vec![Violation::new("grpc-timeout", "MALFORMED", message)]))
}

/// A caller that calls more often than it may; `wait` until its next call would pass.
pub fn rate_limited(wait: Duration) -> Status {
    // Not "at once", which would be too early again.
    let wait = wait.max(Duration::from_millis(1));
    let message = "this caller makes too many calls a second; wait, or send more with each";
    Status::with_error_details(Code::ResourceExhausted, message, retry("RATE_LIMITED", wait))
}

/// Nobody knows who calls.
pub fn unauthenticated(refusal: Refusal) -> Status {
    Status::with_error_details(Code::Unauthenticated, refusal.to_string(), info("UNAUTHENTICATED", &[]))
}

/// The caller is known, and may not; these roles may.
pub fn role_missing(roles: &[Role]) -> Status {
    let names = roles.iter().map(|role| role.as_str()).collect::<Vec<_>>();
    Status::with_error_details(
        Code::PermissionDenied,
        format!("the caller may not do this; it needs the role {}", names.join(" or ")),
        info("ROLE_MISSING", &[("roles", names.join(","))]),
    )
}

/// An orchestrator asked for more than a routine run.
pub fn routine_only() -> Status {
    Status::with_error_details(
        Code::PermissionDenied,
        "an orchestrator begins routine runs alone; set trigger to TRIGGER_ROUTINE, without dry_run and \
         pricebook_yaml; the others are the operator's",
        info("ROLE_MISSING", &[("roles", Role::Operator.as_str().into())]),
    )
}

/// A call that was not made: its token can't be read.
pub fn no_token(why: &str) -> Status {
    Status::new(Code::Unauthenticated, why)
}

/// A call that was not answered: the service says that it does not take the certificate.
pub fn certificate_refused(alert: &str) -> Status {
    Status::new(Code::Unauthenticated, format!("the service refused the certificate of --tls-cert: {alert}"))
}

/// A first call that was not answered, over a connection that shows a certificate.
pub fn connection_closed() -> Status {
    let message = "the service closed the connection; it may have refused the certificate of --tls-cert";
    Status::new(Code::Unavailable, message)
}

/// A method that this version does not know.
pub fn unknown_method() -> Status {
    Status::new(Code::Unimplemented, "this version has no such method")
}

/// An RPC of the contract that a scripted service does not serve.
#[cfg(test)]
pub fn unimplemented(rpc: &'static str) -> Status {
    Status::new(Code::Unimplemented, format!("{rpc} is not served by this version"))
}

/// Any status that a scripted service answers with, perhaps with RetryInfo.
#[cfg(test)]
pub fn scripted(code: Code, message: &str, retry_after: Option<Duration>) -> Status {
    let mut details = ErrorDetails::new();
    details.set_retry_info(retry_after);
    Status::with_error_details(code, message, details)
}

fn run_failed(failure: RunFailure) -> (Code, ErrorDetails) {
    let code = match failure.reason {
        FailureReason::CurrencyMismatch
        | FailureReason::CostOutOfRange
        | FailureReason::PlanChanged
        | FailureReason::DecreaseRefused
        | FailureReason::DatabasePermission
        | FailureReason::PricebookMismatch => Code::FailedPrecondition,
        FailureReason::LeaseLost | FailureReason::RunCancelled => Code::Aborted,
        FailureReason::DatabaseUnavailable | FailureReason::OutcomeUnknown | FailureReason::ShuttingDown => {
            Code::Unavailable
        }
        FailureReason::Internal => Code::Internal,
    };
    let mut metadata =
        vec![("run", failure.run_id), ("hours_committed", failure.hours_committed.to_string())];
    if let Some(left) = failure.left {
        metadata.push(("left_start", rfc3339(left.start)));
        metadata.push(("left_end", rfc3339(left.end)));
    }
    let mut details = info(failure.reason.as_str(), &metadata);
    if failure.goes_on {
        details.set_retry_info(Some(RETRY_AFTER));
    }
    (code, details)
}

fn store(error: StoreError) -> (Code, ErrorDetails) {
    match error {
        StoreError::Unavailable(_) | StoreError::Cancelled(_) => {
            (Code::Unavailable, retry("DATABASE_UNAVAILABLE", RETRY_AFTER))
        }
        StoreError::OutcomeUnknown(_) => (Code::Unavailable, retry("OUTCOME_UNKNOWN", RETRY_AFTER)),
        StoreError::LeaseLost | StoreError::HigherFence => (Code::Aborted, info("LEASE_LOST", &[])),
        StoreError::CancelAsked => (Code::Aborted, info("RUN_CANCELLED", &[])),
        StoreError::ForeignCurrency(found) => {
            (Code::FailedPrecondition, info("CURRENCY_MISMATCH", &[("found", found)]))
        }
        StoreError::Denied(_) => (Code::FailedPrecondition, info("DATABASE_PERMISSION", &[])),
        StoreError::CostOutOfRange => (Code::FailedPrecondition, info("COST_OUT_OF_RANGE", &[])),
        StoreError::SearchTooLong => (Code::ResourceExhausted, retry("TOO_MANY_REFUSED", RETRY_AFTER)),
        StoreError::TakesNone(_) => (Code::Internal, info("REFUSED_BY_DATABASE", &[])),
        StoreError::Inconsistent(_) | StoreError::Internal(_) => (Code::Internal, info("INTERNAL", &[])),
    }
}

fn info(reason: &str, metadata: &[(&str, String)]) -> ErrorDetails {
    let mut details = ErrorDetails::new();
    let metadata = metadata.iter().map(|(key, value)| ((*key).to_owned(), value.clone()));
    details.set_error_info(reason, DOMAIN, metadata.collect::<HashMap<_, _>>());
    details
}

fn retry(reason: &str, after: Duration) -> ErrorDetails {
    let mut details = info(reason, &[]);
    details.set_retry_info(Some(after));
    details
}

/// As many violations as a trailer carries; the last one counts those left out.
fn bad_request(violations: Vec<Violation>) -> ErrorDetails {
    let mut details = ErrorDetails::new();
    let all = violations.len();
    let mut bytes = 0;
    let fits = violations.iter().take_while(|violation| {
        // Three tags and three lengths beside the texts.
        bytes += describe(violation).len() + violation.field.len() + 12;
        bytes <= MAX_DETAIL_BYTES - MAX_MESSAGE_BYTES - ENVELOPE_BYTES
    });
    let fitting = fits.count();
    let kept = if fitting == all && all <= MAX_VIOLATIONS { all } else { fitting.min(MAX_VIOLATIONS - 1) };
    for violation in &violations[..kept] {
        details.add_bad_request_violation(&violation.field, describe(violation));
    }
    if kept < all {
        details.add_bad_request_violation("", format!("LEFT_OUT: {} more are not listed here", all - kept));
    }
    details
}

/// The reason for programs, then the words for people.
fn describe(violation: &Violation) -> String {
    format!("{}: {}", violation.reason, violation.message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::client::Failure;

    fn violations(count: usize, text: &str) -> Vec<Violation> {
        (0..count).map(|n| Violation::new(format!("events[{n}].auth_id"), "TOO_LONG", text)).collect()
    }

    fn listed(count: usize, text: &str) -> (usize, String, usize) {
        let status = status(Error::Invalid(violations(count, text)));
        let fields = status.get_details_bad_request().expect("listed").field_violations;
        (fields.len(), fields.last().expect("one").description.clone(), status.details().len())
    }

    #[test]
    fn violations_stay_within_what_trailers_carry_and_say_how_many_are_left_out() {
        assert_eq!(listed(50, "x").0, 50);
        let (shown, last, _) = listed(51, "x");
        assert_eq!((shown, last.as_str()), (50, "LEFT_OUT: 2 more are not listed here"));
        for (count, length) in [(10_000, 20), (50, 500), (3, 4_000), (1, 10_000)] {
            let (shown, last, bytes) = listed(count, &"é".repeat(length / 2));
            assert!(bytes <= MAX_DETAIL_BYTES, "{count} of {length}: {bytes} bytes");
            assert!(last.starts_with("LEFT_OUT"), "{count} of {length}: {shown} {last}");
        }
    }

    #[test]
    fn a_reason_that_somebody_else_gave_is_none_of_ours() {
        for (domain, reason) in [(DOMAIN, "INTERNAL"), ("proxy.example", ""), ("", "")] {
            let mut details = ErrorDetails::new();
            details.set_error_info("INTERNAL", domain, HashMap::new());
            let failure = Failure::from(Status::with_error_details(Code::Internal, "no", details));
            assert_eq!((failure.code, failure.reason.as_str()), ("INTERNAL", reason), "{domain}");
        }
    }
}
