//! Being told to stop: once to end in order, within a time, and once more to end at once. What a hard
//! stop cuts off is not lost: a run goes on in another process, and what was not answered is repeated.

use std::future::pending;
use std::process::exit;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::telemetry;

/// How long a hard stop takes to send what telemetry has.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Resolves at SIGTERM or Ctrl-C. From then on the process ends within `grace`, whatever hangs, and
/// at once when it is told again; with exit code 1. `in_flight` counts the runs that it leaves. Once it
/// is `drained` only telemetry is on its way out, and nothing is cut off but that: exit code 0.
pub(super) fn told_to_stop(
    grace: Duration,
    in_flight: impl Fn() -> usize + Send + 'static,
    drained: CancellationToken,
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
        if drained.is_cancelled() {
            exit(0);
        }
        tracing::warn!(why, runs = in_flight(), "stopping hard, with calls or runs in flight");
        // Also of what is cut off, and why, somebody wants to know.
        telemetry::shutdown(LAST_WORDS).await;
        exit(1);
    });
    async {
        if told.await.is_err() {
            pending().await
        }
    }
}
