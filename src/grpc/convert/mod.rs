//! Between the contract's messages and the service's words: proto types stop here.

pub mod events;
pub mod pricebook;
pub mod rating;
pub mod time;
pub mod usage;
