//! The rules of rating, pure: no I/O, no clock, no async. It imports nothing of ours.

pub mod event;
pub mod impact;
pub mod money;
pub mod outcome;
pub mod plan;
pub mod pricebook;
pub mod rating;
pub mod run_state;
pub mod text;
pub mod violation;
pub mod window;
pub mod yaml;
