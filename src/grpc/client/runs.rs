//! Calls of RatingService that look at runs, follow one, and stop one.

use std::time::Duration;

use tonic::{Response, Streaming};

use super::Failure;
use super::absence::{Absence, After};
use super::rating::RatingClient;
use crate::proto::{
    CancelRunRequest, CancelRunResponse, GetRunRequest, GetRunResponse, ListAnomaliesRequest,
    ListAnomaliesResponse, ListRunsRequest, ListRunsResponse, WatchRunRequest, WatchRunResponse,
};

impl RatingClient {
    /// One run.
    pub async fn run(&mut self, run_id: &str) -> Result<GetRunResponse, Failure> {
        let request = GetRunRequest { run_id: run_id.into() };
        Ok(self.client.get_run(request).await.map(Response::into_inner)?)
    }

    /// One page of runs, newest first.
    pub async fn runs(&mut self, request: ListRunsRequest) -> Result<ListRunsResponse, Failure> {
        Ok(self.client.list_runs(request).await.map(Response::into_inner)?)
    }

    /// Asks a run to stop after the chunk in flight.
    pub async fn cancel(&mut self, run_id: &str) -> Result<CancelRunResponse, Failure> {
        let request = CancelRunRequest { run_id: run_id.into() };
        Ok(self.client.cancel_run(request).await.map(Response::into_inner)?)
    }

    /// One page of what could not be billed.
    pub async fn anomalies(
        &mut self,
        request: ListAnomaliesRequest,
    ) -> Result<ListAnomaliesResponse, Failure> {
        Ok(self.client.list_anomalies(request).await.map(Response::into_inner)?)
    }

    /// Follows a run. It is watched again for `retry_for` at a time while the service is away.
    pub fn watch(&self, run_id: &str, retry_for: Duration) -> Watch {
        Watch {
            client: self.clone(),
            request: WatchRunRequest { run_id: run_id.into() },
            stream: None,
            absence: Absence::of(retry_for),
        }
    }
}

/// What following a run brings.
#[derive(Debug)]
pub enum Watched {
    /// The run as it is now.
    Now(Box<WatchRunResponse>),
    /// The service went away, or ended the stream; it is asked again. Once an absence.
    Away(Failure),
}

/// Follows a run. The caller stops asking once the run has ended.
#[derive(Debug)]
pub struct Watch {
    client: RatingClient,
    request: WatchRunRequest,
    stream: Option<Streaming<WatchRunResponse>>,
    absence: Absence,
}

impl Watch {
    /// The next that is known of the run. An error is final: it is not watched here, or the
    /// service stayed away too long.
    pub async fn next(&mut self) -> Result<Watched, Failure> {
        loop {
            let failure = match self.message().await {
                Ok(Some(message)) => {
                    self.absence.over();
                    return Ok(Watched::Now(Box::new(message)));
                }
                Ok(None) => Failure::ended(),
                Err(failure) => failure,
            };
            if self.stream.take().is_some() && failure.is_a_streams_deadline() {
                self.absence.over();
                continue;
            }
            match self.absence.after(failure) {
                After::Tell(failure) => return Ok(Watched::Away(failure)),
                After::TryAgain => {}
                After::GiveUp(failure) => return Err(failure),
            }
        }
    }

    async fn message(&mut self) -> Result<Option<WatchRunResponse>, Failure> {
        if self.stream.is_none() {
            self.absence.pause().await;
            let answer = self.client.client.watch_run(self.request.clone()).await?;
            self.stream = Some(answer.into_inner());
        }
        match &mut self.stream {
            Some(stream) => Ok(stream.message().await?),
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::super::scripted::Answer;
    use super::super::scripted::rating::{Script, Streams, run, serve};
    use super::*;
    use crate::proto::RunState;
    use crate::service::Error;

    /// Everything that following run `r1` brings, until an error or a run that has ended.
    async fn follow(watch: Vec<Answer<Streams>>, retry_for: u64) -> (Vec<String>, usize) {
        let service = serve(Script { watch: watch.into(), ..Script::default() }).await;
        let channel = super::super::connect(&service.server()).await.expect("it listens");
        let mut watch = RatingClient::new(channel).watch("r1", Duration::from_millis(retry_for));
        let mut seen = Vec::new();
        loop {
            match watch.next().await {
                Ok(Watched::Now(message)) => {
                    let state = message.run.expect("a run").state();
                    seen.push(state.as_str_name().trim_start_matches("RUN_STATE_").to_lowercase());
                    if state == RunState::Succeeded {
                        break;
                    }
                }
                Ok(Watched::Away(_)) => seen.push("away".into()),
                Err(failure) => {
                    seen.push(failure.code.into());
                    break;
                }
            }
        }
        (seen, service.watched())
    }

    fn running() -> crate::proto::Run {
        run("r1", RunState::Running, 1)
    }

    #[tokio::test]
    async fn a_watch_goes_on_when_the_service_comes_back() {
        let script = vec![
            Answer::Is(Streams::breaks([running()])),
            Answer::Fails(ErrorKind::ConnectionRefused),
            Answer::Is(Streams::ends([running()])),
            Answer::Is(Streams::ends([run("r1", RunState::Succeeded, 2)])),
        ];
        let (seen, calls) = follow(script, 60_000).await;
        assert_eq!(seen, ["running", "away", "running", "away", "succeeded"]);
        assert_eq!(calls, 4);
    }

    #[tokio::test]
    async fn a_watch_that_is_not_served_ends_at_once() {
        assert_eq!(follow(vec![], 60_000).await, (vec!["UNIMPLEMENTED".into()], 1));
        let refused = follow(vec![Answer::Refuses(Error::PricebookNotFound)], 60_000).await;
        assert_eq!(refused, (vec!["NOT_FOUND".into()], 1));
    }

    #[tokio::test]
    async fn a_service_that_stays_away_ends_a_watch_in_bounded_time() {
        let script = (0..100).map(|_| Answer::Fails(ErrorKind::ConnectionRefused)).collect();
        let (seen, calls) = follow(script, 1_500).await;
        assert_eq!((seen, calls), (vec!["away".into(), "UNAVAILABLE".into()], 2));
    }
}
