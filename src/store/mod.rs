//! The database: sqlx stays inside this folder. One file a table or statement; the long
//! statements are in `sql/`, checked at compile time against the migrated schema.

mod anomalies;
mod change_feed;
mod change_listener;
mod change_retention;
mod chunk;
mod counts;
mod db;
mod detached;
mod duties;
mod error;
pub mod events;
mod group_by;
mod lease;
pub mod migrations;
mod observed;
mod plan;
pub mod pricebook;
mod rated_usage;
mod rating_statement;
mod run;
mod run_end;
mod run_record;
mod summary;
mod takeover;
mod usage_change;

pub use anomalies::{AnomalyGroup, AnomalyPageKey, AnomalyQuery};
pub use change_feed::{BatchPart, Feed, FeedBatch, FeedPlace, FeedSnapshot};
pub use change_listener::ChangeListener;
pub use change_retention::{InHand, RetireStep};
pub use chunk::Chunk;
pub use db::{Db, DbOptions};
pub use detached::detached;
pub use duties::Duties;
pub use error::Error;
pub use group_by::{GroupBy, Period};
pub use lease::{Holder, Lease};
pub use rated_usage::{UsageFilter, UsageKey, UsageRow};
pub use rating_statement::{Rated, Rules, Wanted};
pub use run::{Begun, Known, NewRun};
pub use run_end::{Failure, Leaves};
pub use run_record::{RunFilter, RunKey, RunRecord};
pub use summary::{Summary, SummaryKey, SummaryOrder, SummaryQuery};
pub use takeover::{Legacy, Taken};
pub use usage_change::UsageChange;
