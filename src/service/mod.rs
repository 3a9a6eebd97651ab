//! Use cases: what an RPC does, without gRPC. One file each.

pub mod anomalies;
pub mod audit;
pub mod caller;
mod cancel_run;
pub mod change_retention;
pub mod change_stream;
mod dry_run;
mod error;
pub mod observe;
mod page;
mod page_token;
pub mod pricebooks;
pub mod rate_window;
pub mod read_usage;
pub mod readiness;
pub mod record_events;
pub mod report;
mod run;
pub mod runs;
pub mod scans;
pub mod schema;
pub mod stored_text;
pub mod summaries;
pub mod table_jobs;
mod takeover;
pub mod watch_run;

pub use error::{Error, FailureReason, RunFailure, rfc3339};

pub use crate::store::Error as StoreError;
