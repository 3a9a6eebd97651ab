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
use super::traced::Traced;
use crate::grpc::status::{certificate_refused, connection_closed, no_token};

/// The longest token that a service takes, in bytes.
const MAX_TOKEN: usize = 8 * 1024;

type BoxError = Box<dyn Error + Send + Sync>;

/// A connection to a service, which reconnects by itself. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Channel {
    inner: Traced<tonic::transport::Channel>,
    /// The file of a bearer token, read for each call: tokens are exchanged often.
    token: Option<Arc<PathBuf>>,
    /// Where a certificate is shown: what the service said of it, and whether it ever answered.
    alert: Option<Alert>,
    answered: Arc<AtomicBool>,
}

impl Channel {
    pub(super) fn new(
        inner: Traced<tonic::transport::Channel>,
        token: Option<PathBuf>,
        alert: Option<Alert>,
    ) -> Channel {
        Channel { inner, token: token.map(Arc::new), alert, answered: Arc::default() }
    }

    /// A call that broke, in words that name the certificate where that may be why.
    fn broken(&self, error: tonic::transport::Error) -> BoxError {
        let Some(alert) = &self.alert else { return error.into() };
        match alert.take() {
            Some(alert) => certificate_refused(&alert).into(),
            None if self.answered.load(Ordering::Relaxed) => error.into(),
            None => connection_closed().into(),
        }
    }
}

impl Service<http::Request<Body>> for Channel {
    type Response = http::Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<Self::Response, BoxError>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
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
            match ready.inner.call(request).await {
                Ok(response) => {
                    ready.answered.store(true, Ordering::Relaxed);
                    Ok(response)
                }
                Err(error) => Err(ready.broken(error)),
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
