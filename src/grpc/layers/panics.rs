//! A defect in a call is that call's end and nobody else's: INTERNAL, and a line of the log.

use std::any::Any;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;

use super::{Around, Next, Request, Response, pass};
use crate::grpc::status::status;
use crate::service::Error;

/// The layer.
#[derive(Debug, Clone, Copy, Default)]
pub struct Panics;

impl Around for Panics {
    async fn around<N: Next>(self, request: Request, next: N) -> Response {
        let method = request.uri().path().to_owned();
        // What a call leaves half-done is its own; what calls share is behind locks that say so.
        match AssertUnwindSafe(pass(next, request)).catch_unwind().await {
            Ok(response) => response,
            Err(panic) => {
                tracing::error!(method, panic = words(&*panic), "a call panicked");
                status(Error::Internal).into_http()
            }
        }
    }
}

/// What a panic said.
pub(super) fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("something that is no text")
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tonic::Code;
    use tonic::body::Body;
    use tonic_types::StatusExt;
    use tower::service_fn;

    use super::*;

    #[tokio::test]
    async fn a_defect_is_answered_and_shows_nothing_of_the_inside() {
        let defect =
            service_fn(async |_: Request| -> Result<Response, Infallible> { panic!("at /src/secret.rs") });
        let response = Panics.around(Request::new(Body::empty()), defect).await;
        let status = tonic::Status::from_header_map(response.headers()).expect("a status");
        assert_eq!(status.code(), Code::Internal);
        assert_eq!(status.get_details_error_info().expect("ours").reason, "INTERNAL");
        assert!(!status.message().contains("secret"));
    }
}
