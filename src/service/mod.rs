//! Use cases: what an RPC does, without gRPC. One file each.

mod error;
pub mod record_events;
pub mod schema;

pub use error::{Error, rfc3339};

pub use crate::store::Error as StoreError;
