//! A watched run as a stream on the wire.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::convert::runs;
use super::status::status;
use crate::proto::WatchRunResponse;
use crate::service::watch_run::Watch;

/// The messages of WatchRun.
pub type RunStream = ReceiverStream<Result<WatchRunResponse, Status>>;

/// Everything that `watch` tells. It is dropped, and its place given back, as soon as the client
/// has its end, or is gone: a client that is only slow finds one message waiting, and no more.
pub fn stream(mut watch: Watch) -> RunStream {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            let next = tokio::select! {
                () = sender.closed() => return,
                next = watch.next() => next,
            };
            let message = match next.map_err(status).transpose() {
                None => return,
                Some(told) => told.map(|run| WatchRunResponse { run: Some(runs::run(run)) }),
            };
            let ended = message.is_err();
            if sender.send(message).await.is_err() || ended {
                return;
            }
        }
    });
    ReceiverStream::new(receiver)
}
