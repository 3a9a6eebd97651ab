//! The promises of `rater`, a module each, against a real PostgreSQL and the real binary.

#![allow(missing_docs, clippy::unwrap_used, clippy::float_arithmetic)]

mod admin;
mod embedded;
mod events;
mod harness;
mod imports;
mod migrations;
mod pricebooks;
mod property;
