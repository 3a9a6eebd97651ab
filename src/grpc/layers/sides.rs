//! Health checks and conversations with reflection: for everybody, also for whoever is not known, and
//! apart from all other calls, so that no load makes a healthy service look dead. A question must
//! come within two seconds, and few are on their way from one network; a watch goes on for as long
//! as its connection, which has a few; a conversation is short.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http;

use super::asked::Asked;
use super::held::{Ends, Held};
use super::limits::TAKEN_WITHIN;
use super::{Next, Request, Response, pass};
use crate::grpc::activity::Watch;
use crate::grpc::connection::Peer;
use crate::grpc::deadline::Deadline;
use crate::grpc::message::{Room, What, Within};
use crate::grpc::shares::{Share, Shares};
use crate::grpc::status::{deadline_passed, status};
use crate::grpc::who::Who;
use crate::metrics::Metrics;
use crate::service::Error;

/// Conversations at once, and of one network.
const CONVERSATIONS: usize = 1024;
const OF_A_NETWORK: usize = CONVERSATIONS / 8;

/// How long a conversation goes on, and how long a check.
const CONVERSES_FOR: Duration = Duration::from_secs(60);
const CHECKED_WITHIN: Duration = Duration::from_secs(5);

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Check,
    Watch,
    Reflection,
}

/// Their places. Clones share them.
#[derive(Clone)]
pub(super) struct Sides {
    room: Room,
    conversations: Shares<Who>,
    max_call_time: Duration,
    stop: CancellationToken,
    metrics: Arc<Metrics>,
}

/// What one holds until its end.
enum Kept {
    Nothing,
    Watch { _watch: Watch },
    Conversation { _share: Share<Who> },
}

impl Sides {
    /// Until `stop`, when they end what they still say.
    pub(super) fn new(max_call_time: Duration, stop: CancellationToken, metrics: Arc<Metrics>) -> Sides {
        let room = Room::of(What::Question).until(stop.clone());
        Sides { room, conversations: Shares::of(CONVERSATIONS), max_call_time, stop, metrics }
    }

    /// What a path asks for; none where it is any other call.
    pub(super) fn of(&self, path: &str) -> Option<Side> {
        match path {
            "/grpc.health.v1.Health/Check" => Some(Side::Check),
            _ if path.starts_with("/grpc.health.v1.Health/") => Some(Side::Watch),
            _ if path.starts_with("/grpc.reflection.") => Some(Side::Reflection),
            _ => None,
        }
    }

    pub(super) async fn answer<N: Next>(
        &self,
        side: Side,
        request: Request,
        next: N,
    ) -> Result<Response, Status> {
        let most = match side {
            Side::Check => CHECKED_WITHIN,
            Side::Watch => self.max_call_time,
            Side::Reflection => CONVERSES_FOR,
        };
        let deadline = Deadline::of(request.headers(), most.min(self.max_call_time))?;
        let (mut head, body) = request.into_parts();
        head.extensions.insert(deadline);
        let who = Who::address(&head.extensions);
        let kept = self.place(side, &who, &head.extensions)?;
        let body = match side {
            Side::Check | Side::Watch => {
                let arrived = self.room.receive(body, &who, Within::QUESTION);
                let arrived = timeout_at(deadline.at(), arrived).await;
                Body::new(arrived.unwrap_or_else(|_| Err(deadline_passed()))?)
            }
            Side::Reflection => {
                let begun = Instant::now() + Within::QUESTION.begun;
                Asked::until(body, begun, deadline.at(), self.stop.clone())
            }
        };
        let answering = pass(next, http::Request::from_parts(head, body));
        let response = timeout_at(deadline.at(), answering).await.map_err(|_| deadline_passed())?;
        let (at, stop) = (deadline.at(), Some(self.stop.clone()));
        let ends = Ends { at, untaken_at: at + TAKEN_WITHIN, stop };
        Ok(response.map(|body| Held::wrap(body, kept, ends)))
    }

    fn place(&self, side: Side, who: &Who, extensions: &http::Extensions) -> Result<Kept, Status> {
        let kept = match side {
            Side::Check => Some(Kept::Nothing),
            Side::Watch => match extensions.get::<Peer>() {
                Some(peer) => peer.activity.watch().map(|watch| Kept::Watch { _watch: watch }),
                None => Some(Kept::Nothing),
            },
            Side::Reflection => {
                let share = self.conversations.take(who, 1, OF_A_NETWORK);
                share.map(|share| Kept::Conversation { _share: share })
            }
        };
        kept.ok_or_else(|| {
            self.metrics.call_refused("overloaded");
            status(Error::Overloaded)
        })
    }
}
