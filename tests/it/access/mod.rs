//! Who may call what: certificates, tokens and roles, on real sockets.

mod clients;
mod forms;
pub mod guarded;
mod matrix;
mod pki;
mod reloads;
mod runs;
mod starting;
mod streams;
mod tokens;
