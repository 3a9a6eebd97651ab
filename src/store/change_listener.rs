//! Hears of commits in the change feed, from whichever process they come: S3 notifies, and the
//! server tells everybody who listens once it is committed.

use std::time::Duration;

use sqlx::postgres::{PgListener, PgPoolOptions};

use super::{Db, Error};

/// The channel that S3 (`store/chunk.rs`) notifies.
const CHANNEL: &str = "rater_changes";
/// How long nothing may be heard before the connection is asked whether it lives.
const QUIET: Duration = Duration::from_secs(20);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// A connection that listens.
pub struct ChangeListener {
    listener: PgListener,
}

impl Db {
    /// Listens, on a connection beside the pools: it is never given back.
    pub async fn listen_for_changes(&self) -> Result<ChangeListener, Error> {
        let options = self.control.connect_options().as_ref().clone();
        let pool =
            PgPoolOptions::new().max_connections(1).acquire_timeout(PATIENCE).connect_lazy_with(options);
        let mut listener = PgListener::connect_with(&pool).await?;
        // What a lost connection missed must be made up for, so its loss must be seen.
        listener.eager_reconnect(false);
        listener.listen(CHANNEL).await?;
        Ok(ChangeListener { listener })
    }
}

impl ChangeListener {
    /// Waits for a commit. An error, if only that nothing answers any more, is the listener's end.
    pub async fn heard(&mut self) -> Result<(), Error> {
        loop {
            match tokio::time::timeout(QUIET, self.listener.try_recv()).await {
                Ok(Ok(Some(_))) => return Ok(()),
                Ok(Ok(None)) => return Err(lost()),
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => self.ask().await?,
            }
        }
    }

    async fn ask(&mut self) -> Result<(), Error> {
        let asked = sqlx::raw_sql("SELECT 1").execute(&mut self.listener);
        tokio::time::timeout(PATIENCE, asked).await.map_err(|_| lost())??;
        Ok(())
    }
}

fn lost() -> Error {
    Error::Unavailable(sqlx::Error::Io(std::io::ErrorKind::ConnectionAborted.into()))
}
