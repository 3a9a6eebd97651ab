//! From the service's errors to the wire's: the only place where a `Status` is built.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::domain::violation::Violation;
use crate::service::{Error, StoreError};

/// The most violations in one status: its details travel in trailers, which clients cap.
const MAX_VIOLATIONS: usize = 50;

/// The status of an error.
pub fn status(error: Error) -> Status {
    let message = error.to_string();
    let (code, details) = match error {
        Error::Invalid(violations) => (Code::InvalidArgument, bad_request(violations)),
        Error::EventConflict(violations) => {
            let mut details = bad_request(violations);
            details.set_error_info("EVENT_CONFLICT", "rater", HashMap::new());
            (Code::AlreadyExists, details)
        }
        Error::Unimplemented(_) => (Code::Unimplemented, ErrorDetails::new()),
        Error::Overloaded => (Code::ResourceExhausted, retry("OVERLOADED")),
        Error::Store(StoreError::Unavailable(_)) => (Code::Unavailable, retry("DATABASE_UNAVAILABLE")),
        Error::Store(StoreError::OutcomeUnknown(_)) => (Code::Unavailable, retry("OUTCOME_UNKNOWN")),
        Error::Store(StoreError::Internal(_)) => (Code::Internal, ErrorDetails::new()),
    };
    Status::with_error_details(code, message, details)
}

fn bad_request(violations: Vec<Violation>) -> ErrorDetails {
    let mut details = ErrorDetails::new();
    for violation in violations.into_iter().take(MAX_VIOLATIONS) {
        details.add_bad_request_violation(violation.field, violation.message);
    }
    details
}

fn retry(reason: &str) -> ErrorDetails {
    let mut details = ErrorDetails::new();
    details.set_retry_info(Some(Duration::from_secs(1)));
    details.set_error_info(reason, "rater", HashMap::new());
    details
}
