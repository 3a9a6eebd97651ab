//! A forwarder's work in the background: shipping, and beside it what has to be looked at and
//! written down from time to time.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::backoff::Pauses;
use super::seen::Seen;
use super::ship::{Aside, Shipper, Way};
use super::source::Source;
use super::{Forwarder, status_file};
use crate::grpc::client::Channel;
use crate::grpc::client::events::EventSender;
use crate::spool::{Consumer, Error, Record};

/// How often is looked at what only time shows.
const LOOK: Duration = Duration::from_secs(1);

/// The side that ships. It does nothing until it is run.
#[derive(Debug)]
pub struct Shipping {
    forwarder: Forwarder,
    consumer: Consumer,
    channel: Channel,
    batch_size: usize,
}

impl Shipping {
    pub(super) fn new(
        forwarder: Forwarder,
        consumer: Consumer,
        channel: Channel,
        batch_size: usize,
    ) -> Shipping {
        Shipping { forwarder, consumer, channel, batch_size }
    }

    /// Its records, for a test that ships them by itself.
    #[cfg(test)]
    pub(super) fn into_consumer(self) -> Consumer {
        self.consumer
    }

    /// Ships until it is told to stop, which lets a call in flight end, or until the forwarder is
    /// closed and everything is shipped. Says what there was to see then.
    pub async fn run(self, stop: CancellationToken) -> Seen {
        let Shipping { forwarder, consumer, channel, batch_size } = self;
        let way = Way {
            // One try at a time: what is to be done after it is decided here.
            sender: EventSender::new(channel, Duration::ZERO),
            aside: Aside::Letters(forwarder.letters.clone()),
            book: forwarder.book.clone(),
            watch: forwarder.watch.clone(),
            stop,
            batch_size,
            pauses: Pauses::default(),
        };
        let shipper = Shipper::new(Open { consumer, forwarder: forwarder.clone() }, way);
        let housekeeping = async {
            loop {
                look(&forwarder).await;
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::select! {
            // Stopped or drained: what is left says which.
            _ = shipper.run() => {}
            () = housekeeping => {}
        }
        look(&forwarder).await;
        forwarder.seen()
    }
}

/// Looks at what only time shows, and writes down what was counted.
async fn look(forwarder: &Forwarder) {
    let (letters, dir) = (forwarder.letters.clone(), forwarder.dir.clone());
    let count = tokio::task::spawn_blocking(move || letters.count()).await;
    if let Ok(Ok(count)) = count {
        forwarder.book.letters(count);
    }
    let seen = forwarder.seen();
    forwarder.watch.look(&seen);
    let saved = forwarder.book.to_save();
    if forwarder.book.is_saved(&saved) {
        return;
    }
    // A full disk is told of elsewhere, and the next look tries again.
    let written = tokio::task::spawn_blocking(move || status_file::write(&dir, &saved).map(|()| saved)).await;
    if let Ok(Ok(saved)) = written {
        forwarder.book.was_saved(saved);
    }
}

/// The spool, whose depth is known here also when it is closed.
struct Open {
    consumer: Consumer,
    forwarder: Forwarder,
}

impl Source for Open {
    async fn peek(&mut self, records: usize, bytes: usize) -> Result<Vec<Record>, Error> {
        let peeked = self.consumer.peek(records, bytes).await;
        self.forwarder.book.left(self.consumer.depth());
        peeked
    }

    async fn done(&mut self, count: usize) -> Result<(), Error> {
        let done = self.consumer.done(count).await;
        self.forwarder.book.left(self.consumer.depth());
        done
    }
}
