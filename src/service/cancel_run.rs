//! CancelRun: asks a run to stop. It ends after the chunk in flight, wherever that is; what it
//! has committed stays. Asking again, or too late, changes nothing.

use super::error::Error;
use super::rate_window::Rater;
use super::runs::{Run, find, get_run};
use crate::domain::run_state::RunState;
use crate::store::detached;

impl Rater {
    /// The run, as it stands after that. [`Error::RunNotFound`]: there is none.
    pub async fn cancel_run(&self, run_id: &str) -> Result<Run, Error> {
        let run_id = find(&self.db, run_id).await?.run_id;
        let (db, id) = (self.db.clone(), run_id.clone());
        let became: Option<RunState> =
            detached(async move { db.cancel_run(&id).await }).await.map_err(Error::Store)?;
        match became {
            // No process had it, so nobody else tells its end.
            Some(RunState::Cancelled) => self.tell_ended(&run_id).await,
            Some(_) => tracing::info!(run_id, "a run was asked to stop"),
            None => {}
        }
        get_run(&self.db, &run_id).await
    }
}
