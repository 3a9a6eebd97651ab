//! The invariants R1 to R15 of the design, each through the real binary on a real database.
//! Beside the answer, the tests look at the rows, the change records, the anomalies and the
//! run's record.

mod changes;
mod fail_closed;
mod frozen;
mod hours;
mod lease;
mod loudness;
mod money;
mod pricebook;
mod reconcile;
mod unexplained;
