//! The command line, as operators and programs use it.

mod changes;
mod commands;
mod copies;
mod recovery;
mod server;
mod summary;
mod usage;
