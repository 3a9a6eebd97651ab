//! Whoever is refused because nobody knows them: each such call counts against its connection like one
//! that was given up, and against a small rate of its network. Past that they hear only that they are
//! too many. It costs nobody else anything: calls that are known are not counted.

use std::num::NonZeroU32;
use std::sync::Arc;

use tonic::Code;
use tonic::Status;

use super::rate::Rates;
use super::{Around, Next, Request, Response, pass};
use crate::grpc::connection::Peer;
use crate::grpc::status::rate_limited;
use crate::grpc::who::Who;
use crate::metrics::Metrics;

/// Calls of strangers that are told why, a second and network.
const REFUSED_A_SECOND: NonZeroU32 = NonZeroU32::MIN.saturating_add(99);

/// The layer, outside of whoever refuses.
#[derive(Clone)]
pub struct Strangers {
    rates: Rates,
    metrics: Arc<Metrics>,
}

impl Strangers {
    /// Counts to these.
    pub fn new(metrics: Arc<Metrics>) -> Strangers {
        Strangers { rates: Rates::of(Some(REFUSED_A_SECOND)), metrics }
    }
}

impl Around for Strangers {
    async fn around<N: Next>(self, request: Request, next: N) -> Response {
        let (peer, who) = (request.extensions().get::<Peer>().cloned(), Who::address(request.extensions()));
        let response = pass(next, request).await;
        let refused = Status::from_header_map(response.headers());
        if refused.is_none_or(|status| status.code() != Code::Unauthenticated) {
            return response;
        }
        if let Some(peer) = peer {
            peer.activity.given_up();
        }
        match self.rates.check(who) {
            Ok(()) => response,
            Err(wait) => {
                self.metrics.call_refused("rate_limited");
                rate_limited(wait).into_http()
            }
        }
    }
}
