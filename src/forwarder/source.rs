//! Where records come from: the spool's consumer, or what it keeps after it was shipped.

use std::future::Future;

use crate::spool::{Error, Record};

/// Records in order, each of which is given again until it is done.
pub trait Source: Send {
    /// Waits for a record, then gives up to `records` of about `bytes` at most. Empty: there
    /// won't be more. Safe to give up half-way.
    fn peek(
        &mut self,
        records: usize,
        bytes: usize,
    ) -> impl Future<Output = Result<Vec<Record>, Error>> + Send;

    /// The first `count` of the last peek are taken care of.
    fn done(&mut self, count: usize) -> impl Future<Output = Result<(), Error>> + Send;
}
