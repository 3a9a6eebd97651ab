//! What tests stand on: one private PostgreSQL for the whole run with a database a test, the
//! real binary as a service or a command, and rows as other writers would put them.
//!
//! Nothing here is shared between tests but the server, so they run side by side.

#![allow(dead_code, reason = "not every helper has a test that needs it at every moment")]
#![allow(unused_imports, reason = "the same")]

mod command;
mod database;
mod process;
mod rows;
mod server;
mod service;
mod tmpfs;

pub use command::{Output, rater, rater_of, run, run_in};
pub use database::{TestDb, database, database_from, empty_database, sorted_database};
pub use process::{Process, field};
pub use rows::{Event, Rated, event, insert, rated_usage};
pub use server::{OwnServer, own_server, own_server_in, psql, temp_dir};
pub use service::Service;
pub use tmpfs::Tmpfs;

/// Whether the long versions of the tests were asked for (`make soak`).
pub fn soak() -> bool {
    std::env::var_os("RATER_SOAK").is_some_and(|value| value == "1")
}

/// Says that a test could not show its promise here. Past the test runner's capture: a
/// promise that nobody looked at must not look like one that holds.
pub fn skipped(test: &str, why: &str) {
    use std::io::Write;
    drop(writeln!(std::io::stderr(), "SKIPPED {test}: {why}"));
}
