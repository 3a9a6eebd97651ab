//! What a run would do to a chunk of hours. Nothing is written and no lease is taken: nobody
//! waits for a plan.

use std::time::Duration;

use super::rating_statement::{self, Rated, Rules, Wanted};
use super::{Db, Error, chunk};
use crate::domain::window::Window;

/// A plan holds nothing that others wait for; its session is not ended for being slow.
const IDLE_LIMIT: Duration = Duration::from_secs(60);

impl Db {
    /// The rating statement, told not to write, in a transaction that ends without a trace.
    pub async fn plan_chunk(
        &self,
        window: Window,
        rules: Rules<'_>,
        wanted: Wanted,
        statement_timeout: Duration,
    ) -> Result<Rated, Error> {
        let mut tx = self.pool.begin().await?;
        chunk::prepare(&mut tx, IDLE_LIMIT, statement_timeout).await?;
        let rated = rating_statement::execute(&mut tx, window, rules, None, wanted).await?;
        tx.rollback().await?;
        Ok(rated)
    }
}
