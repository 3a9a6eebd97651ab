//! What a run would do to a chunk of hours. Nothing is written and no lease is taken: nobody
//! waits for a plan.

use std::time::Duration;

use super::rating_statement::{self, Rated, Rules, Wanted};
use super::{Db, Error, chunk};
use crate::domain::impact::Traffic;
use crate::domain::pricebook::Pricebook;
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
        let plan = async {
            let mut tx = self.pool.begin().await?;
            chunk::prepare(&mut tx, IDLE_LIMIT, statement_timeout).await?;
            let rated = rating_statement::execute(&mut tx, window, rules, None, wanted).await?;
            tx.rollback().await?;
            Ok::<_, Error>(rated)
        };
        self.observed("SELECT billing_event", plan).await
    }

    /// What the events of a chunk cost at each of two books, whatever is held of its hours. Both
    /// see the same events: one that arrives in between would look like a difference of the books.
    pub async fn traffic(
        &self,
        window: Window,
        books: [&Pricebook; 2],
        statement_timeout: Duration,
    ) -> Result<[Traffic; 2], Error> {
        let look = async {
            let mut tx = self.pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ").await?;
            chunk::prepare(&mut tx, IDLE_LIMIT, statement_timeout).await?;
            let first = rating_statement::traffic(&mut tx, window, books[0]).await?;
            let second = rating_statement::traffic(&mut tx, window, books[1]).await?;
            tx.rollback().await?;
            Ok::<_, Error>([first, second])
        };
        self.observed("SELECT billing_event", look).await
    }
}
