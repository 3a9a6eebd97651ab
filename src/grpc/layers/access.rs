//! Who calls, and whether they may: nobody by default.

use super::{Around, Next, Request, Response, pass};
use crate::service::caller::Caller;

/// The layer.
#[derive(Debug, Clone, Default)]
pub struct Access {}

impl Around for Access {
    async fn around<N: Next>(self, request: Request, next: N) -> Response {
        let mut request = request;
        request.extensions_mut().insert(Caller::unidentified());
        pass(next, request).await
    }
}
