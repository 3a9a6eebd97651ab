//! The command line, as operators and programs use it.

mod commands;
mod recovery;
mod server;
mod usage;
