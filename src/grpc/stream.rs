//! What goes on for as long as a client listens, as a stream on the wire.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::convert::{changes, runs};
use super::status::status;
use crate::proto::{StreamRatedUsageChangesResponse, WatchRunResponse};
use crate::service::Error;
use crate::service::change_stream::ChangeStream;
use crate::service::watch_run::Watch;

/// The messages of a stream.
pub type Messages<M> = ReceiverStream<Result<M, Status>>;

/// Something that is told message by message.
pub trait Source: Send + 'static {
    /// What it says.
    type Message: Send + 'static;

    /// The next message; `None` at the end.
    fn next(&mut self) -> impl Future<Output = Result<Option<Self::Message>, Error>> + Send;
}

/// Everything that `source` tells. It is dropped, and its place given back, as soon as the client
/// has its end, or is gone. For a client that is slow one message waits, and no more: the next is
/// made when that one was taken.
pub fn stream<S: Source>(mut source: S) -> Messages<S::Message> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Ok(room) = sender.reserve().await {
            let next = tokio::select! {
                () = sender.closed() => return,
                next = source.next() => next,
            };
            let Some(message) = next.map_err(status).transpose() else { return };
            let ended = message.is_err();
            room.send(message);
            if ended {
                return;
            }
        }
    });
    ReceiverStream::new(receiver)
}

impl Source for Watch {
    type Message = WatchRunResponse;

    async fn next(&mut self) -> Result<Option<WatchRunResponse>, Error> {
        let run = Watch::next(self).await?;
        Ok(run.map(|run| WatchRunResponse { run: Some(runs::run(run)) }))
    }
}

impl Source for ChangeStream {
    type Message = StreamRatedUsageChangesResponse;

    async fn next(&mut self) -> Result<Option<StreamRatedUsageChangesResponse>, Error> {
        Ok(ChangeStream::next(self).await?.map(changes::message))
    }
}
