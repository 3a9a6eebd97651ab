//! One binary for all integration tests; a module a promise.
#![allow(clippy::unwrap_used)]

mod events;
