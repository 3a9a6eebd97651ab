//! Use cases: what an RPC does, without gRPC. One file each.

mod error;
pub mod pricebooks;
pub mod readiness;
pub mod schema;
pub mod stored_text;

pub use error::{Error, rfc3339};
