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
pub fn stream<S: Source>(source: S) -> Messages<S::Message> {
    let (sender, receiver) = mpsc::channel(1);
    let telling = tokio::spawn(tell(source, sender.clone()));
    tokio::spawn(async move {
        // A stream that only breaks off looks like one that has told everything.
        if let Err(panic) = telling.await {
            tracing::error!(%panic, "a stream's task panicked");
            // An error: the client is gone, too.
            drop(sender.send(Err(status(Error::Internal))).await);
        }
    });
    ReceiverStream::new(receiver)
}

async fn tell<S: Source>(mut source: S, sender: mpsc::Sender<Result<S::Message, Status>>) {
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

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt;
    use tonic::Code;

    use super::*;

    /// Counts down, and then ends well, or with a defect.
    struct Says {
        left: u32,
        well: bool,
    }

    impl Source for Says {
        type Message = u32;

        async fn next(&mut self) -> Result<Option<u32>, Error> {
            assert!(self.left > 0 || self.well, "a defect");
            let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
            Ok(Some(std::mem::replace(&mut self.left, left)))
        }
    }

    #[tokio::test]
    async fn a_defect_on_the_way_is_never_told_as_a_good_end() {
        for (well, end) in [(true, None), (false, Some(Err(Code::Internal)))] {
            let told = stream(Says { left: 2, well }).map(|message| message.map_err(|status| status.code()));
            let expected: Vec<_> = [Ok(2), Ok(1)].into_iter().chain(end).collect();
            assert_eq!(told.collect::<Vec<_>>().await, expected);
        }
    }
}
