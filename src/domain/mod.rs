//! The rules of rating, pure: no I/O, no clock, no async. It imports nothing of ours.

pub mod money;
pub mod pricebook;
pub mod rating;
pub mod violation;
pub mod window;
