//! What this process's database role may do, as the grants of `docs/grants.sql` divide it.

use super::{Db, Error};

/// Work that a process does unasked, where its role lets it. Calls don't look here: the database
/// refuses what they may not do ([`Error::Denied`]), and a grant counts at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Duties {
    /// Rating: to begin runs, go on with those of others, and tell their ends.
    pub rating: bool,
    /// Retiring old changes from the feed.
    pub retention: bool,
}

impl Db {
    /// What the role may do now. Of every table that a duty writes: a part of it is no use.
    pub async fn duties(&self) -> Result<Duties, Error> {
        Ok(sqlx::query_as!(
            Duties,
            r#"SELECT
                has_any_column_privilege('billing_event', 'SELECT')
                    AND has_table_privilege('rated_usage', 'INSERT')
                    AND has_table_privilege('rated_usage_change', 'INSERT')
                    AND has_table_privilege('change_batch', 'INSERT')
                    AND has_table_privilege('rating_anomaly', 'INSERT')
                    AND has_table_privilege('rating_lease', 'INSERT')
                    AND has_table_privilege('rating_lease', 'DELETE')
                    AND has_any_column_privilege('rating_run', 'UPDATE')
                    AND has_table_privilege('rating_run_chunk', 'INSERT') AS "rating!",
                has_any_column_privilege('change_feed', 'UPDATE')
                    AND has_table_privilege('rated_usage_change', 'DELETE')
                    AND has_table_privilege('change_batch', 'DELETE')
                    AND has_any_column_privilege('table_job', 'UPDATE') AS "retention!""#
        )
        .fetch_one(&self.pool)
        .await?)
    }
}
