//! The promises of `rater`, a module each, against a real PostgreSQL and the real binary.

#![allow(missing_docs, clippy::unwrap_used, clippy::float_arithmetic)]

mod cli;
mod embedded;
mod events;
mod harness;
mod imports;
mod invariants;
mod rate_window;
mod reading;
mod rig;
