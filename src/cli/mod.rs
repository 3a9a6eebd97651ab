//! The command line, one file a command.

pub mod database;
pub mod migrate;
pub mod validate;
