//! Use cases: what an RPC does, without gRPC. One file each.

mod error;

pub use error::{Error, rfc3339};
