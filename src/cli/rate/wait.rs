//! Waiting for a run: it is begun detached, watched, and asked for its result under the same
//! request id. Where it can't be watched, the result is waited for without progress.

use std::cell::OnceCell;
use std::future::Future;
use std::time::Duration;

use crate::cli::console::Console;
use crate::cli::follow::{FollowOptions, follow};
use crate::cli::progress::Progress;
use crate::grpc::client::Failure;
use crate::grpc::client::rating::RatingClient;
use crate::grpc::client::runs::Watched;
use crate::proto::{RateWindowRequest, RateWindowResponse};

/// How waiting ended.
#[derive(Debug)]
pub enum Ended {
    /// With the run's result.
    Answered(Box<RateWindowResponse>),
    /// Without one.
    Failed {
        /// Why.
        failure: Failure,
        /// The run, where it is known.
        run: Option<String>,
    },
    /// By the person at the keyboard.
    Left {
        /// The run, where it is known.
        run: Option<String>,
    },
}

/// Rates, and waits for the result until `interrupt`.
pub async fn wait(
    client: RatingClient,
    request: RateWindowRequest,
    options: &FollowOptions,
    interrupt: impl Future<Output = ()>,
    console: &mut Console<'_>,
) -> Ended {
    let known = OnceCell::new();
    let mut waiting = Waiting {
        client,
        id: request.request_id.clone(),
        retry_for: options.retry_for,
        told: false,
        known: &known,
        console,
    };
    let rated = tokio::select! {
        rated = waiting.rate(request, options.quiet) => Some(rated),
        () = interrupt => None,
    };
    let run = known.into_inner();
    match rated {
        Some(Ok(response)) => Ended::Answered(Box::new(response)),
        Some(Err(failure)) => Ended::Failed { failure, run },
        None => Ended::Left { run },
    }
}

/// What is told, once, when the service goes away.
pub fn looking(failure: &Failure, id: &str) -> String {
    format!("{failure}; looking for the run again (request id {id})")
}

struct Waiting<'a, 'c> {
    client: RatingClient,
    id: String,
    retry_for: Duration,
    /// That the service went away.
    told: bool,
    /// The run, once it has begun.
    known: &'a OnceCell<String>,
    console: &'a mut Console<'c>,
}

impl Waiting<'_, '_> {
    async fn rate(&mut self, request: RateWindowRequest, quiet: bool) -> Result<RateWindowResponse, Failure> {
        let progress = Progress::new(quiet, self.console);
        let detached = RateWindowRequest { detach: true, ..request.clone() };
        match self.call(detached).await {
            Ok(response) if !response.run_id.is_empty() => {
                let run = self.known.get_or_init(|| response.run_id);
                self.watch(run, progress).await;
            }
            Ok(_) => {}
            Err(failure) => return Err(failure),
        }
        self.call(request).await
    }

    async fn call(&mut self, request: RateWindowRequest) -> Result<RateWindowResponse, Failure> {
        let Waiting { client, id, told, console, .. } = self;
        let notice = |failure: &Failure| tell_once(told, console, failure, id);
        client.rate(request, self.retry_for, notice).await
    }

    /// Until the run has ended, or can't be watched.
    async fn watch(&mut self, run: &str, progress: Progress) {
        let watch = self.client.watch(run, self.retry_for);
        let Waiting { id, told, console, .. } = self;
        let watched = follow(watch, progress, console, |console, watched| {
            if let Watched::Away(failure) = watched {
                tell_once(told, console, failure, id);
            }
        });
        if watched.await.is_err_and(|failure| failure.may_pass) {
            // The service was looked for long enough: one more call says what is the matter.
            self.retry_for = Duration::ZERO;
        }
    }
}

fn tell_once(told: &mut bool, console: &mut Console<'_>, failure: &Failure, id: &str) {
    if !std::mem::replace(told, true) {
        console.say(&looking(failure, id));
    }
}
