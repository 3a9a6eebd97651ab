//! Being asked to stop, for commands that have something to put in order first.

use std::future::{Future, pending};
use std::process::exit;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// What a command that was asked to stop may take for that, such as when nobody reads what it
/// prints.
const GRACE: Duration = Duration::from_secs(10);

/// Resolves at Ctrl-C or SIGTERM, which from now on end the process only after a while, or when
/// one comes again.
pub fn stop() -> impl Future<Output = ()> {
    let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    let (tell, told) = oneshot::channel();
    tokio::spawn(async move {
        // Without a handler a signal ends the process by itself.
        let (Ok(mut interrupt), Ok(mut terminate)) = signals else { return pending().await };
        let mut next = async || {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        next().await;
        // Nobody may be listening any more.
        let _ = tell.send(());
        drop(tokio::time::timeout(GRACE, next()).await);
        exit(1);
    });
    async {
        if told.await.is_err() {
            pending().await
        }
    }
}
