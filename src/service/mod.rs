//! Use cases: what an RPC does, without gRPC. One file each.

mod dry_run;
mod error;
pub mod pricebooks;
pub mod rate_window;
pub mod read_usage;
pub mod readiness;
pub mod record_events;
pub mod report;
mod run;
pub mod schema;
pub mod stored_text;
mod takeover;

pub use error::{Error, FailureReason, RunFailure, rfc3339};

pub use crate::store::Error as StoreError;
