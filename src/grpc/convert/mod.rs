//! What the service says, in the contract's messages. Proto types stop here.

pub mod pricebook;
pub mod time;
