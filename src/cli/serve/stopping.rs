//! Being told to stop: once to end in order, within a time, and once more to end at once. What a hard
//! stop cuts off is not lost: a run goes on in another process, and what was not answered is repeated.

use std::future::pending;
use std::process::exit;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// Resolves at SIGTERM or Ctrl-C. From then on the process ends within `grace`, whatever hangs, and
/// at once when it is told again; with exit code 1. `in_flight` counts the runs that it leaves.
pub(super) fn told_to_stop(
    grace: Duration,
    in_flight: impl Fn() -> usize + Send + 'static,
) -> impl Future<Output = ()> {
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (tell, told) = oneshot::channel();
    tokio::spawn(async move {
        let (Ok(mut terminate), Ok(mut interrupt)) = signals else {
            tracing::error!("signals can't be watched; the service must be killed to stop it");
            return pending().await;
        };
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        next().await;
        // Nobody listens where the server has ended by itself.
        let _ = tell.send(());
        let why = match tokio::time::timeout(grace, next()).await {
            Ok(()) => "told to stop once more",
            Err(_) => "the grace is over",
        };
        tracing::warn!(why, runs = in_flight(), "stopping hard, with calls or runs in flight");
        exit(1);
    });
    async {
        if told.await.is_err() {
            pending().await
        }
    }
}
