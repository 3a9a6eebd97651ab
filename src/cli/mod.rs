//! The command line, one file a command.

pub mod client;
pub mod duration;
pub mod events;
pub mod output;
