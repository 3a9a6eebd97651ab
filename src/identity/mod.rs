//! Who a caller is, by what they show: a client certificate or a bearer token, and what the
//! operator's file gives them for it.
//!
//! Promises: what is not certainly right is nobody; a file that is wrong changes nothing; every
//! file is followed, and a change of it counts without a restart. Nothing here logs or answers
//! with a token, a key, or a claim of a token that was not verified.
//!
//! The flow: [`Identities`] holds the mapping ([`mapping`]) and the keys of tokens ([`jwt`],
//! [`jwks`]); a certificate comes as [`Presented`], verified by the handshake.

mod certificate;
mod identities;
mod jwks;
mod jwt;
mod mapping;
mod refusal;
pub mod watch;

pub use certificate::{Presented, ends_at};
pub use identities::Identities;
pub use refusal::Refusal;
