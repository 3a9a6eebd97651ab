//! What every call goes through on its way to a service, the outermost first: it is told
//! ([`calls`]), its defects are its own ([`panics`]), its caller is known and allowed ([`access`],
//! [`strangers`]),
//! and it is bounded ([`limits`]).

pub mod access;
mod asked;
pub mod calls;
mod held;
pub mod limits;
pub mod panics;
mod rate;
mod sides;
pub mod strangers;

use std::convert::Infallible;
use std::task::{Context, Poll};

use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tower::Layer;

/// A call.
pub type Request = http::Request<Body>;
/// Its answer.
pub type Response = http::Response<Body>;

/// Whatever a call goes to next.
pub trait Next:
    Service<Request, Response = Response, Error = Infallible, Future: Send> + Clone + Send + 'static
{
}

impl<S> Next for S where
    S: Service<Request, Response = Response, Error = Infallible, Future: Send> + Clone + Send + 'static
{
}

/// One layer: a function around the rest of a call's way. `next` is ready.
pub trait Around: Clone + Send + Sync + 'static {
    /// Answers a call, by `next` or instead of it.
    fn around<N: Next>(self, request: Request, next: N) -> impl Future<Output = Response> + Send;
}

/// What `next` answers.
pub async fn pass<N: Next>(mut next: N, request: Request) -> Response {
    match next.call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// An [`Around`] as tower's layer.
#[derive(Debug, Clone)]
pub struct Wrap<A>(pub A);

/// An [`Around`] and what is inside of it.
#[derive(Debug, Clone)]
pub struct Wrapped<A, N> {
    around: A,
    next: N,
}

impl<A: Around, N> Layer<N> for Wrap<A> {
    type Service = Wrapped<A, N>;

    fn layer(&self, next: N) -> Wrapped<A, N> {
        Wrapped { around: self.0.clone(), next }
    }
}

impl<A: Around, N: Next> Service<Request> for Wrapped<A, N> {
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<Response, Infallible>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.next.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        // The one that is ready goes with the call.
        let fresh = self.next.clone();
        let next = std::mem::replace(&mut self.next, fresh);
        let around = self.around.clone();
        Box::pin(async move { Ok(around.around(request, next).await) })
    }
}
