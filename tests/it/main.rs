//! The promises of `rater`, a module each, against a real PostgreSQL and the real binary.

#![allow(missing_docs, clippy::unwrap_used, clippy::float_arithmetic)]

mod access;
mod admin;
mod adoption;
mod audit;
mod brake;
mod changes;
mod cli;
mod collation;
mod concurrency;
mod dead_letters;
mod durable;
mod embedded;
mod events;
mod faults;
mod forward;
mod grants;
mod harness;
mod hostile;
mod imports;
mod invariants;
mod ledger;
mod limits;
mod migrations;
mod ops;
mod plan;
mod plans;
mod pricebooks;
mod property;
mod proxy;
mod rate_window;
mod reading;
mod rig;
mod runs;
mod stage;
mod stopping;
mod summaries;
mod takeover;
mod telemetry;
