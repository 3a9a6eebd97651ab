//! Each call as it is seen from outside.

use super::{Around, Next, Request, Response, pass};

/// The layer.
#[derive(Debug, Clone, Default)]
pub struct Calls {}

impl Around for Calls {
    async fn around<N: Next>(self, request: Request, next: N) -> Response {
        pass(next, request).await
    }
}
