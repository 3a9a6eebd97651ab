//! Calls of RatingService that read usage: summaries, and the changes of rated usage, followed
//! over the absences of the service.

use std::time::{Duration, Instant};

use tonic::{Response, Streaming};

use super::Failure;
use super::absence::{Absence, After};
use super::rating::RatingClient;
use crate::proto::{
    StreamRatedUsageChangesRequest, StreamRatedUsageChangesResponse, SummarizeRatedUsageRequest,
    SummarizeRatedUsageResponse,
};

/// A stream that was open for so long had been served, also where it had nothing to say.
const WAS_SERVED: Duration = Duration::from_secs(10);

impl RatingClient {
    /// One page of totals.
    pub async fn summary(
        &mut self,
        request: SummarizeRatedUsageRequest,
    ) -> Result<SummarizeRatedUsageResponse, Failure> {
        Ok(self.client.summarize_rated_usage(request).await.map(Response::into_inner)?)
    }

    /// Reads changes of rated usage after `request.cursor`. While the service is away it is asked
    /// again, for `retry_for` at a time, for those after the last message that came.
    pub fn changes(&self, request: StreamRatedUsageChangesRequest, retry_for: Duration) -> Changes {
        Changes { client: self.clone(), request, stream: None, opened: None, absence: Absence::of(retry_for) }
    }
}

/// What reading changes brings.
#[derive(Debug)]
pub enum Next {
    /// Changes, perhaps none, and a cursor that stands after them.
    Changes(Box<StreamRatedUsageChangesResponse>),
    /// The service went away, or ended a stream that has no end; it is asked again. Once an
    /// absence.
    Away(Failure),
    /// All that there is, where it is not followed.
    End,
}

/// Reads changes. A message comes whole or not at all, and the next stream begins after the last
/// one that came: no change is left out, and none comes twice.
#[derive(Debug)]
pub struct Changes {
    client: RatingClient,
    request: StreamRatedUsageChangesRequest,
    stream: Option<Streaming<StreamRatedUsageChangesResponse>>,
    /// When the stream was.
    opened: Option<Instant>,
    absence: Absence,
}

impl Changes {
    /// After all that came so far; empty where that is the beginning.
    pub fn cursor(&self) -> &str {
        &self.request.cursor
    }

    /// The next that comes. An error is final: the cursor is good no more, it is not served here,
    /// or the service stayed away too long.
    pub async fn next(&mut self) -> Result<Next, Failure> {
        loop {
            let failure = match self.message().await {
                Ok(Some(message)) => {
                    self.absence.over();
                    self.request.cursor.clone_from(&message.cursor);
                    return Ok(Next::Changes(Box::new(message)));
                }
                Ok(None) if !self.request.follow => return Ok(Next::End),
                Ok(None) => Failure::ended(),
                Err(failure) => failure,
            };
            if self.stream.take().is_some() && failure.is_a_streams_deadline() {
                self.absence.over();
                continue;
            }
            if self.opened.take().is_some_and(|opened| opened.elapsed() > WAS_SERVED) {
                self.absence.over();
            }
            match self.absence.after(failure) {
                After::Tell(failure) => return Ok(Next::Away(failure)),
                After::TryAgain => {}
                After::GiveUp(failure) => return Err(failure),
            }
        }
    }

    async fn message(&mut self) -> Result<Option<StreamRatedUsageChangesResponse>, Failure> {
        if self.stream.is_none() {
            self.absence.pause().await;
            let answer = self.client.client.stream_rated_usage_changes(self.request.clone()).await?;
            self.stream = Some(answer.into_inner());
            self.opened = Some(Instant::now());
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
    use super::super::scripted::rating::{Script, Streams, change, changes, serve};
    use super::*;
    use crate::grpc::status::unauthenticated;
    use crate::identity::Refusal;
    use crate::service::Error;

    type Message = Streams<StreamRatedUsageChangesResponse>;

    /// Everything that reading changes after `from` brings, until it ends, an error or a cursor `z`;
    /// and the cursors that the service was asked with.
    async fn read(script: Vec<Answer<Message>>, follow: bool, retry_for: u64) -> (Vec<String>, Vec<String>) {
        let service = serve(Script { changes: script.into(), ..Script::default() }).await;
        let channel = super::super::connect(&service.server()).await.expect("it listens");
        let request = StreamRatedUsageChangesRequest {
            cursor: "from".into(),
            follow,
            ..StreamRatedUsageChangesRequest::default()
        };
        let mut changes = RatingClient::new(channel).changes(request, Duration::from_millis(retry_for));
        let mut seen = Vec::new();
        loop {
            match changes.next().await {
                Ok(Next::Changes(message)) => {
                    seen.extend(message.changes.into_iter().map(|change| change.change_id));
                    assert_eq!(changes.cursor(), message.cursor);
                    if message.cursor == "z" {
                        break;
                    }
                }
                Ok(Next::Away(_)) => seen.push("away".into()),
                Ok(Next::End) => {
                    seen.push("end".into());
                    break;
                }
                Err(failure) => {
                    seen.push(failure.reason_or_code());
                    break;
                }
            }
        }
        (seen, service.followed().into_iter().map(|request| request.cursor).collect())
    }

    impl Failure {
        fn reason_or_code(self) -> String {
            if self.reason.is_empty() { self.code.into() } else { self.reason }
        }
    }

    #[tokio::test]
    async fn changes_go_on_after_the_last_message_that_came() {
        let script = || {
            vec![
                Answer::Is(Streams::breaks([changes("a", [change("1"), change("2")])])),
                Answer::Fails(ErrorKind::ConnectionRefused),
                Answer::Is(Streams::breaks([changes("b", []), changes("c", [change("3")])])),
                Answer::Refuses(Error::ShuttingDown),
                Answer::Is(Streams::ends([changes("z", [change("4")])])),
            ]
        };
        for follow in [true, false] {
            let (seen, asked) = read(script(), follow, 60_000).await;
            assert_eq!(seen, ["1", "2", "away", "3", "away", "4"]);
            assert_eq!(asked, ["from", "a", "a", "c", "c"]);
        }
    }

    #[tokio::test]
    async fn a_stream_that_ends_is_the_end_only_where_it_is_not_followed() {
        let script = || {
            let streams = [changes("a", [change("1")])].map(|message| Answer::Is(Streams::ends([message])));
            streams.into_iter().chain([Answer::Is(Streams::ends([changes("z", [])]))]).collect()
        };
        assert_eq!(read(script(), false, 60_000).await.0, ["1", "end"]);
        assert_eq!(
            read(script(), true, 60_000).await,
            (vec!["1".into(), "away".into()], vec!["from".into(), "a".into()])
        );
    }

    #[tokio::test]
    async fn changes_go_on_with_a_new_token_when_the_old_one_ends() {
        let over = || unauthenticated(Refusal::TokenExpired);
        let script = vec![
            Answer::Is(Streams::refuses([changes("a", [change("1")])], over())),
            Answer::Is(Streams::refuses([], over())),
            Answer::Is(Streams::ends([changes("z", [change("2")])])),
        ];
        let (seen, asked) = read(script, true, 60_000).await;
        assert_eq!(
            (seen, asked),
            (vec!["1".into(), "2".into()], ["from", "a", "a"].map(String::from).into())
        );
    }

    #[tokio::test]
    async fn a_cursor_that_is_refused_ends_it_at_once() {
        for (error, reason) in
            [(Error::CursorUnknown, "CURSOR_UNKNOWN"), (Error::CursorExpired, "CURSOR_EXPIRED")]
        {
            let (seen, asked) = read(vec![Answer::Refuses(error)], true, 60_000).await;
            assert_eq!((seen, asked.len()), (vec![reason.into()], 1));
        }
        assert_eq!(read(vec![], true, 60_000).await.0, ["UNIMPLEMENTED"]);
        let invalid = read(vec![Answer::Refuses(Error::Invalid(vec![]))], true, 60_000).await;
        assert_eq!(invalid.0, ["INVALID_ARGUMENT"]);
    }

    #[tokio::test]
    async fn a_service_that_stays_away_ends_it_in_bounded_time() {
        let script = (0..100).map(|_| Answer::Fails(ErrorKind::ConnectionRefused)).collect();
        let (seen, asked) = read(script, true, 1_500).await;
        assert_eq!((seen, asked.len()), (vec!["away".into(), "UNAVAILABLE".into()], 2));
    }
}
