//! From a statement's columns to [`Counts`](crate::domain::outcome::Counts).

use super::Error;
use crate::domain::money::{Money, MoneyError};

/// The counts of a row that has a column for each: a chunk's own, or the sum of a run's.
macro_rules! counts {
    ($row:expr) => {
        $crate::domain::outcome::Counts {
            events: $row.events,
            rated_events: $row.rated_events,
            unpriced_events: $row.unpriced_events,
            unattributable_events: $row.unattributable_events,
            ambiguous_base_events: $row.ambiguous_base_events,
            malformed_events: $row.malformed_events,
            clamped_events: $row.clamped_events,
            inserted_rollups: $row.inserted_rollups,
            updated_rollups: $row.updated_rollups,
            unchanged_rollups: $row.unchanged_rollups,
            reconciled_deletions: $row.reconciled_deletions,
            shrunk_rollups: $row.shrunk_rollups,
            rate_drift_rollups: $row.rate_drift_rollups,
            unexplained_rollups: $row.unexplained_rollups,
            previous_cost: $crate::store::counts::money(&$row.previous_cost)?,
            total_cost: $crate::store::counts::money(&$row.total_cost)?,
        }
    };
}
pub(super) use counts;

/// A sum over so much money that it can't be kept exactly is refused (R1).
pub(super) fn money(text: &str) -> Result<Money, Error> {
    Money::parse(text).map_err(|_: MoneyError| Error::CostOutOfRange)
}
