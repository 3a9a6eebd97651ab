//! What calls go through: the connection, with what the caller shows of itself on each call.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tonic::body::Body;
use tonic::codegen::http::header::AUTHORIZATION;
use tonic::codegen::http::{self, HeaderValue};
use tonic::codegen::{BoxFuture, Service};

use super::alert::Alert;
use super::renewal::Renewal;
use crate::grpc::status::{certificate_refused, connection_closed, no_token};

/// The longest token that a service takes, in bytes.
const MAX_TOKEN: usize = 8 * 1024;
/// The code, as it travels.
const UNAUTHENTICATED: &str = "16";

type BoxError = Box<dyn Error + Send + Sync>;

/// A connection to a service, which reconnects by itself. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Channel {
    inner: tonic::transport::Channel,
    /// The file of a bearer token, read for each call: tokens are exchanged often.
    token: Option<Arc<PathBuf>>,
    /// Where a certificate is shown.
    shown: Option<Shown>,
}

/// What comes of showing a certificate.
#[derive(Debug, Clone)]
pub(super) struct Shown {
    /// What the service said of it.
    alert: Alert,
    /// Whether it ever answered.
    answered: Arc<AtomicBool>,
    renewal: Arc<Renewal>,
    /// Which connection `inner` is.
    generation: u64,
}

impl Shown {
    pub(super) fn new(alert: Alert, renewal: Renewal) -> Shown {
        Shown { alert, answered: Arc::default(), renewal: Arc::new(renewal), generation: 0 }
    }

    /// A call was answered; one that knew nobody asks for a new connection.
    fn answered(&self, response: &http::Response<Body>) {
        self.answered.store(true, Ordering::Relaxed);
        if response.headers().get("grpc-status").is_some_and(|code| code == UNAUTHENTICATED) {
            self.renewal.renew();
        }
    }

    /// A call that broke, in words that name the certificate where that may be why.
    fn broken(&self, error: tonic::transport::Error) -> BoxError {
        match self.alert.take() {
            Some(alert) => certificate_refused(&alert).into(),
            None if self.answered.load(Ordering::Relaxed) => error.into(),
            None => connection_closed().into(),
        }
    }
}

impl Channel {
    pub(super) fn new(
        inner: tonic::transport::Channel,
        token: Option<PathBuf>,
        shown: Option<Shown>,
    ) -> Channel {
        Channel { inner, token: token.map(Arc::new), shown }
    }
}

impl Service<http::Request<Body>> for Channel {
    type Response = http::Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<Self::Response, BoxError>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if let Some(shown) = &mut self.shown
            && let Some((generation, newer)) = shown.renewal.newer_than(shown.generation)
        {
            (shown.generation, self.inner) = (generation, newer);
        }
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        // The one that is ready goes with the call.
        let fresh = self.clone();
        let mut ready = std::mem::replace(self, fresh);
        Box::pin(async move {
            if let Some(path) = &ready.token {
                let why = |why| no_token(&format!("--token-file {}: {why}", path.display()));
                request.headers_mut().insert(AUTHORIZATION, bearer(path).await.map_err(why)?);
            }
            match (ready.inner.call(request).await, ready.shown) {
                (Ok(response), shown) => {
                    shown.iter().for_each(|shown| shown.answered(&response));
                    Ok(response)
                }
                (Err(error), Some(shown)) => Err(shown.broken(error)),
                (Err(error), None) => Err(error.into()),
            }
        })
    }
}

/// The header that shows the token in a file.
async fn bearer(path: &Path) -> Result<HeaderValue, String> {
    let text = tokio::fs::read_to_string(path).await.map_err(|error| error.to_string())?;
    let token = text.trim();
    if token.is_empty() {
        return Err("it is empty".into());
    }
    if token.len() > MAX_TOKEN {
        return Err("it is longer than a token may be, which is 8 KiB".into());
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("it holds something else than one token".into());
    }
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|error| error.to_string())?;
    // Neither shown by `Debug` nor kept in HTTP/2's table of headers.
    value.set_sensitive(true);
    Ok(value)
}
