//! Between the contract's messages and the service's words; one file a service.

pub mod events;
