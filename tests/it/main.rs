//! The promises of `rater`, a module each, against a real PostgreSQL and the real binary.

#![allow(missing_docs, clippy::unwrap_used, clippy::float_arithmetic)]

mod embedded;
mod harness;
mod imports;
mod property;
