//! How much is taken on at once.

use super::{Around, Next, Request, Response, pass};

/// The layer.
#[derive(Debug, Clone, Default)]
pub struct Limits {}

impl Around for Limits {
    async fn around<N: Next>(self, request: Request, next: N) -> Response {
        pass(next, request).await
    }
}
