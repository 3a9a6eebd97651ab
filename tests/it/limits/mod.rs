//! How much the service takes on: hostile connections are closed and keep nobody out, and whatever
//! is past a limit is told by its code, at once, and takes no memory.

mod calls;
mod connections;
mod deadlines;
pub mod raw;
mod strangers;

use std::time::{Duration, Instant};

use rater::proto::ListRunsRequest;
use tokio::task::JoinHandle;
use tonic::transport::Channel;

use crate::harness::Service;

/// What nobody who has just come may wait for.
const A_SECOND: Duration = Duration::from_secs(1);

/// Callers that come anew, one after the other, until they are told to stop.
struct Fresh {
    calls: JoinHandle<Vec<Duration>>,
    stop: tokio::sync::watch::Sender<bool>,
}

impl Fresh {
    fn come<C, F>(connect: C) -> Fresh
    where
        C: Fn() -> F + Send + 'static,
        F: Future<Output = Channel> + Send,
    {
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let calls = tokio::spawn(async move {
            let mut took = Vec::new();
            while !*stopped.borrow() {
                let began = Instant::now();
                let channel = connect().await;
                let mut client = rater::proto::rating_service_client::RatingServiceClient::new(channel);
                client.list_runs(ListRunsRequest::default()).await.unwrap();
                took.push(began.elapsed());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            took
        });
        Fresh { calls, stop }
    }

    /// To a service without TLS.
    fn callers(service: &Service) -> Fresh {
        let url = service.url();
        Fresh::come(move || {
            let endpoint = tonic::transport::Endpoint::from_shared(url.clone()).unwrap();
            async move { endpoint.connect().await.unwrap() }
        })
    }

    /// How long 99 of 100 took at most, and how many there were.
    async fn p99(self) -> (Duration, usize) {
        self.stop.send_replace(true);
        let mut took = self.calls.await.unwrap();
        took.sort_unstable();
        (took[took.len() * 99 / 100], took.len())
    }
}
