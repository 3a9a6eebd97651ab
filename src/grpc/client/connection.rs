//! Connecting: where a service is, and what both sides show. The files of TLS are read anew for
//! each connection, so that a sender that lives long comes back with its new certificate.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::codegen::http::Uri;
use tonic::codegen::{BoxFuture, Service};
use tonic::transport::Endpoint;

use super::alert::{Alert, Alerting};
use super::traced::Traced;
use super::{Channel, root_cause};

/// Where a service is, and what this side shows to it.
#[derive(Debug, Clone, Default)]
pub struct Server {
    /// `http://HOST:PORT` or `https://HOST:PORT`.
    pub url: String,
    /// The PEM file of the certificate authority of an https server.
    pub tls_ca: Option<PathBuf>,
    /// The PEM file of this side's certificate and its chain.
    pub tls_cert: Option<PathBuf>,
    /// The PEM file of its private key.
    pub tls_key: Option<PathBuf>,
    /// The file of a bearer token, read for each call.
    pub token_file: Option<PathBuf>,
    /// A token may go over http to another machine.
    pub insecure: bool,
}

/// Why there is no connection. Each names what is wrong; what to do is the caller's to add.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The URL, or what TLS needs, is wrong.
    #[error("{0}")]
    Misconfigured(String),
    /// Nothing answers there.
    #[error("{0}")]
    Unreachable(String),
}

/// Connects now, so that a server that isn't there is told before anything starts.
pub async fn connect(server: &Server) -> Result<Channel, ConnectError> {
    let (endpoint, secure) = endpoint(server).map_err(ConnectError::Misconfigured)?;
    let connected = match &secure {
        Some(secure) => endpoint.connect_with_connector(secure.clone()).await,
        None => endpoint.connect().await,
    };
    let channel = connected.map_err(|error| ConnectError::Unreachable(root_cause(&error).to_string()))?;
    Ok(wrapped(channel, server, secure))
}

/// A connection that is made when it is needed: for whoever works on while the service is not
/// there yet. What is wrong with the URL, or with what TLS needs, is an error at once.
pub fn connect_lazy(server: &Server) -> Result<Channel, ConnectError> {
    let (endpoint, secure) = endpoint(server).map_err(ConnectError::Misconfigured)?;
    let channel = match &secure {
        Some(secure) => endpoint.connect_with_connector_lazy(secure.clone()),
        None => endpoint.connect_lazy(),
    };
    Ok(wrapped(channel, server, secure))
}

fn wrapped(channel: tonic::transport::Channel, server: &Server, secure: Option<Secure>) -> Channel {
    let shows = server.tls_cert.is_some();
    // It was read as one before.
    let channel = Traced::new(channel, server.url.parse().unwrap_or_default());
    Channel::new(channel, server.token_file.clone(), secure.filter(|_| shows).map(|secure| secure.alert))
}

/// Where calls go, and for https how.
fn endpoint(server: &Server) -> Result<(Endpoint, Option<Secure>), String> {
    let tls = server.url.starts_with("https://");
    if !tls && !server.url.starts_with("http://") {
        return Err("begins with neither http:// nor https://; write http://HOST:PORT".into());
    }
    let no_url = |error: &(dyn std::error::Error + 'static)| {
        format!("is no URL ({}); write http://HOST:PORT", root_cause(error))
    };
    let url: Uri = server.url.parse().map_err(|error| no_url(&error))?;
    check(server, &url, tls)?;
    // TLS is ours: tonic's would keep the files as they were when it was made.
    let reached = server.url.replacen("https://", "http://", 1);
    let endpoint = Endpoint::from_shared(reached)
        .map_err(|error| no_url(&error))?
        .origin(url)
        .user_agent(concat!("rater/", env!("CARGO_PKG_VERSION")))
        .map_err(|error| error.to_string())?
        .connect_timeout(Duration::from_secs(5))
        // A call may take minutes; a connection that died silently must not.
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10));
    if !tls {
        return Ok((endpoint, None));
    }
    config(server)?;
    Ok((endpoint, Some(Secure { server: Arc::new(server.clone()), alert: Alert::default() })))
}

/// What does not go together.
fn check(server: &Server, url: &Uri, tls: bool) -> Result<(), String> {
    if !tls && server.tls_cert.is_some() {
        return Err("is plain http, where --tls-cert is shown to nobody; write https://".into());
    }
    if !tls && server.token_file.is_some() && !server.insecure && !is_local(url) {
        return Err("is plain http, where --token-file could be read on its way; write https://, or say \
                    --insecure"
            .into());
    }
    Ok(())
}

fn is_local(url: &Uri) -> bool {
    let host = host(url);
    let address = host.parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.to_canonical().is_loopback())
}

/// The host of a URL; an IPv6 address without its brackets.
fn host(url: &Uri) -> &str {
    let host = url.host().unwrap_or_default();
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

/// The client's side of TLS, as its files are now.
fn config(server: &Server) -> Result<ClientConfig, String> {
    let Some(path) = &server.tls_ca else {
        return Err("https needs --tls-ca or RATER_TLS_CA: the PEM file of the server's authority".into());
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates("--tls-ca", path)? {
        roots.add(certificate).map_err(|error| format!("--tls-ca {}: {error}", path.display()))?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let mut config = match (&server.tls_cert, &server.tls_key) {
        (Some(certificate), Some(key)) => {
            let chain = certificates("--tls-cert", certificate)?;
            let private = PrivateKeyDer::from_pem_slice(&read("--tls-key", key)?)
                .map_err(|_| format!("--tls-key {}: no private key in PEM is in it", key.display()))?;
            builder
                .with_client_auth_cert(chain, private)
                .map_err(|error| format!("--tls-cert {}: {error}", certificate.display()))?
        }
        (None, None) => builder.with_no_client_auth(),
        _ => return Err("--tls-cert and --tls-key go together".into()),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn certificates(option: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = read(option, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(found) if found.is_empty() => {
            Err(format!("{option} {}: no certificate in PEM is in it", path.display()))
        }
        Ok(found) => Ok(found),
        Err(error) => Err(format!("{option} {}: {error}", path.display())),
    }
}

fn read(option: &str, path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{option} {}: {error}", path.display()))
}

/// Connects over TLS.
#[derive(Clone)]
struct Secure {
    server: Arc<Server>,
    alert: Alert,
}

impl Service<Uri> for Secure {
    type Response = TokioIo<Alerting>;
    type Error = io::Error;
    type Future = BoxFuture<Self::Response, io::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, url: Uri) -> Self::Future {
        let (server, alert) = (self.server.clone(), self.alert.clone());
        Box::pin(async move {
            let config = tokio::task::spawn_blocking(move || config(&server)).await?;
            let config = config.map_err(io::Error::other)?;
            let host = host(&url).to_owned();
            let stream = TcpStream::connect((host.as_str(), url.port_u16().unwrap_or(443))).await?;
            stream.set_nodelay(true)?;
            let name = ServerName::try_from(host).map_err(io::Error::other)?;
            let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
            if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
                return Err(io::Error::other("the server speaks no HTTP/2 there"));
            }
            Ok(TokioIo::new(Alerting { stream, alert }))
        })
    }
}
