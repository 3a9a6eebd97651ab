//! Whoever is refused because nobody knows them: each such call counts against its connection like one
//! that was given up, and against a small rate of its network. Past that they hear only that they are
//! too many. It costs nobody else anything: calls that are known are not counted.

use std::num::NonZeroU32;
use std::sync::Arc;

use tonic::Code;

use super::rate::Rates;
use super::{Around, Next, Request, Response, pass};
use crate::grpc::connection::Peer;
use crate::grpc::status::rate_limited;
use crate::grpc::who::Who;
use crate::metrics::Metrics;

/// Calls of strangers that are told why, of each network: so many a second, and so many at once, since
/// a whole fleet may have been given wrong tokens.
const REFUSED_A_SECOND: NonZeroU32 = NonZeroU32::MIN.saturating_add(99);
const REFUSED_AT_ONCE: NonZeroU32 = NonZeroU32::MIN.saturating_add(1_499);

/// The layer, outside of whoever refuses.
#[derive(Clone)]
pub struct Strangers {
    rates: Rates,
    metrics: Arc<Metrics>,
}

impl Strangers {
    /// Counts to these.
    pub fn new(metrics: Arc<Metrics>) -> Strangers {
        Strangers { rates: Rates::bursting(REFUSED_A_SECOND, REFUSED_AT_ONCE), metrics }
    }
}

impl Around for Strangers {
    async fn around<N: Next>(self, request: Request, next: N) -> Response {
        let (peer, who) = (request.extensions().get::<Peer>().cloned(), Who::address(request.extensions()));
        let response = pass(next, request).await;
        let code = response.headers().get("grpc-status").map(|status| Code::from_bytes(status.as_bytes()));
        if code != Some(Code::Unauthenticated) {
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
