//! Why a use case did not do what it was asked: a closed set, in the words of the wire
//! (`grpc/status.rs` gives each its code). What is for the log alone (SQL, addresses) stays
//! in the store's error and has no way to the client.

use chrono::{DateTime, Utc};

use crate::domain::violation::Violation;
use crate::store;

/// Every way in which a use case ends without its result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request is wrong in itself; every violation at once.
    #[error("{}", summary(.0))]
    Invalid(Vec<Violation>),
    /// A field that this version does not serve, named instead of ignored.
    #[error("{0} is not supported by this version; leave it unset")]
    Unimplemented(&'static str),
    /// Events whose ids are known with other content.
    #[error("{}", summary(.0))]
    EventConflict(Vec<Violation>),
    /// No pricebook has this digest.
    #[error("no run began with a pricebook of this digest, and it is not the loaded one")]
    PricebookNotFound,
    /// Too many calls at once.
    #[error("too many calls at once; try again")]
    Overloaded,
    /// The store said no; its own text stays in the log.
    #[error(transparent)]
    Store(#[from] store::Error),
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
    time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)
}
