//! Wakes who waits at the end of the feed. One connection a process listens, from the first
//! follower on; a follower that hears nothing still looks by itself now and then.

use std::sync::{Arc, Once};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::store::{self, Db};

/// From one try to listen to the next.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Tells of commits.
#[derive(Debug, Clone)]
pub(super) struct Commits {
    told: watch::Sender<()>,
    listening: Arc<Once>,
}

impl Commits {
    pub fn new() -> Commits {
        Commits { told: watch::Sender::new(()), listening: Arc::new(Once::new()) }
    }

    /// Changes whenever something may have been committed since it was looked at.
    pub fn subscribe(&self, db: &Db, stop: &CancellationToken) -> watch::Receiver<()> {
        self.listening.call_once(|| {
            let (db, told, stop) = (db.clone(), self.told.clone(), stop.clone());
            tokio::spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = listen(&db, &told) => {}
                }
            });
        });
        self.told.subscribe()
    }
}

async fn listen(db: &Db, told: &watch::Sender<()>) {
    let mut deaf = false;
    loop {
        match hear(db, told, &mut deaf).await {
            Ok(never) => match never {},
            Err(error) if deaf => {
                tracing::debug!(error = %error, "still no connection that tells of new changes");
                tokio::time::sleep(RETRY_AFTER).await;
            }
            Err(error) => {
                tracing::warn!(error = %error, "the connection that tells of new changes is gone; looking for one");
                deaf = true;
            }
        }
    }
}

async fn hear(
    db: &Db,
    told: &watch::Sender<()>,
    deaf: &mut bool,
) -> Result<std::convert::Infallible, store::Error> {
    let mut listener = db.listen_for_changes().await?;
    *deaf = false;
    loop {
        // At first, too: nobody was told of what was committed until now.
        told.send_replace(());
        listener.heard().await?;
    }
}
