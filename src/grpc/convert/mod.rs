//! Between the contract's messages and the service's words: proto types stop here.

pub mod anomalies;
pub mod changes;
mod dimensions;
mod enums;
pub mod events;
pub mod pricebook;
pub mod rating;
pub mod runs;
pub mod summaries;
pub mod time;
pub mod usage;
