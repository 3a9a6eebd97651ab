//! What a candidate would change for the traffic of a window: both books price it, chunk by
//! chunk, newest first, like a run and beside the runs, and nothing is written or held.
//!
//! It works in a task of its own, so that no query is dropped half-way; one whose caller has
//! gone away, or whose service stops, ends with the chunk in hand.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::domain::impact::{Gathering, Impact};
use crate::domain::pricebook::{Pricebook, ResolvedRate};
use crate::domain::window::Window;
use crate::service::Error;
use crate::service::rate_window::Rater;
use crate::store;

impl Rater {
    /// Holds a candidate with these rates against a window's traffic.
    pub(super) async fn impact(
        self: &Arc<Self>,
        loaded: Arc<Pricebook>,
        candidate: Pricebook,
        rates: &[ResolvedRate],
        window: Window,
    ) -> Result<Impact, Error> {
        let gathering = Gathering::new([loaded.as_ref(), &candidate], rates, window.end);
        // Cancelled with the service, and when this future is dropped.
        let stop = self.stop.child_token();
        let _gone = stop.clone().drop_guard();
        let rater = self.clone();
        let scan = async move { rater.scan([loaded.as_ref(), &candidate], window, gathering, &stop).await };
        match self.runs.spawn(scan).await {
            Ok(result) => result,
            Err(panic) => {
                tracing::error!(%panic, "a look at a window's traffic panicked");
                Err(Error::Internal)
            }
        }
    }

    async fn scan(
        &self,
        books: [&Pricebook; 2],
        window: Window,
        mut gathering: Gathering,
        stop: &CancellationToken,
    ) -> Result<Impact, Error> {
        for chunk in window.chunks(self.config.chunk_hours) {
            let _slot = self.plan_slot(stop).await?;
            let [loaded, candidate] = self.db.traffic(chunk, books, self.config.chunk_timeout).await?;
            gathering.add(loaded, candidate).map_err(|_| Error::Store(store::Error::CostOutOfRange))?;
        }
        Ok(gathering.impact())
    }
}
