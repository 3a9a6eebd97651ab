//! TLS of the server: its certificate, and whose clients' certificates it takes. Both are exchanged
//! when their files change; a new one that is wrong is refused loudly, and the last good one stays.
//!
//! A client may come without a certificate; one that it shows must be right, or there is no
//! connection. Sessions are not resumed: a handshake always looks at the certificate anew.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use chrono::{DateTime, Utc};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig, ServerConnection};
use tokio::sync::watch::{Receiver, Sender};
use tokio_rustls::TlsAcceptor;

use crate::identity::Presented;
use crate::identity::watch::{self, Content, Followed};
use crate::metrics::Metrics;

const CERTIFICATE: &str = "certificate";
const CLIENT_CA: &str = "client_ca";

/// PEM files.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The server's chain.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authorities of clients' certificates; none: no certificate is asked for.
    pub client_ca: Option<PathBuf>,
}

/// A server's side of TLS.
pub struct Tls {
    files: TlsFiles,
    metrics: Arc<Metrics>,
    state: ArcSwap<State>,
    /// The contents that the state was made of, until they are followed.
    known: Mutex<Vec<Content>>,
    changed: Sender<()>,
}

#[derive(Clone)]
struct State {
    own: Arc<CertifiedKey>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
    /// Counts the authorities that there were, from 1.
    generation: u64,
    config: Arc<ServerConfig>,
}

impl Tls {
    /// Reads the files; what is wrong with them, a line each.
    pub fn load(files: TlsFiles, metrics: Arc<Metrics>) -> Result<Tls, String> {
        let known: Vec<Content> = paths(&files).iter().map(|path| watch::read(path)).collect();
        let own = own(&files, &known, &metrics);
        let clients = known.get(2).map(|content| clients(&files, content, &metrics)).transpose();
        let (own, clients) = match (own, clients) {
            (Ok(own), Ok(clients)) => (own, clients),
            (own, clients) => {
                let wrong = [own.err(), clients.err()];
                return Err(wrong.into_iter().flatten().collect::<Vec<_>>().join("\n"));
            }
        };
        metrics.credentials_refused(CERTIFICATE, false);
        if clients.is_some() {
            metrics.credentials_refused(CLIENT_CA, false);
        }
        let config = config(&own, clients.clone())?;
        let state = ArcSwap::from_pointee(State { own, clients, generation: 1, config });
        Ok(Tls { files, metrics, state, known: Mutex::new(known), changed: Sender::default() })
    }

    /// What new connections shake hands with.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.state.load().config.clone())
    }

    /// The certificate that a client presented in its handshake.
    pub fn presented(&self, connection: &ServerConnection) -> Option<Arc<Presented>> {
        connection.peer_certificates().map(|chain| Arc::new(Presented::new(chain)))
    }

    /// Whether an authority that counts now vouches for a certificate, of whatever time.
    pub fn vouches_for(&self, presented: &Presented, now: i64) -> bool {
        let state = self.state.load();
        let Some(clients) = &state.clients else { return false };
        presented.is_vouched_for(state.generation, now, |own, others| {
            clients.verify_client_cert(own, others, UnixTime::now()).is_ok()
        })
    }

    /// Tells when an authority may count no more.
    pub fn changes(&self) -> Receiver<()> {
        self.changed.subscribe()
    }

    /// Whether certificates are asked for.
    pub fn asks_clients(&self) -> bool {
        self.files.client_ca.is_some()
    }

    /// Follows the files for ever.
    pub async fn watch(self: Arc<Self>) {
        let known = std::mem::take(&mut *self.known.lock().unwrap_or_else(PoisonError::into_inner));
        watch::follow(self, known).await;
    }

    fn refuse(&self, what: &'static str, findings: &str) {
        tracing::error!(findings, "the new {what} is refused; the last good one stays in force");
        self.metrics.credentials_refused(what, true);
    }
}

impl Followed for Tls {
    fn files(&self) -> Vec<PathBuf> {
        paths(&self.files)
    }

    fn take(&self, contents: Vec<Content>) {
        let mut state = State::clone(&self.state.load());
        match own(&self.files, &contents, &self.metrics) {
            Ok(own) => {
                if own.cert != state.own.cert {
                    tracing::info!(path = %self.files.certificate.display(), "certificate loaded");
                }
                state.own = own;
                self.metrics.credentials_refused(CERTIFICATE, false);
            }
            Err(findings) => self.refuse(CERTIFICATE, &findings),
        }
        match contents.get(2).map(|content| clients(&self.files, content, &self.metrics)) {
            None => {}
            Some(Ok(clients)) => {
                state.clients = Some(clients);
                // Whoever is connected is looked at once more.
                state.generation += 1;
                self.metrics.credentials_refused(CLIENT_CA, false);
            }
            Some(Err(findings)) => self.refuse(CLIENT_CA, &findings),
        }
        match config(&state.own, state.clients.clone()) {
            Ok(config) => {
                self.state.store(Arc::new(State { config, ..state }));
                self.changed.send_replace(());
            }
            Err(findings) => self.refuse(CERTIFICATE, &findings),
        }
    }
}

fn paths(files: &TlsFiles) -> Vec<PathBuf> {
    [&files.certificate, &files.key].into_iter().chain(&files.client_ca).cloned().collect()
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// A chain and its key, which fit, and which have not ended.
fn own(files: &TlsFiles, contents: &[Content], metrics: &Metrics) -> Result<Arc<CertifiedKey>, String> {
    let content = |n: usize| match contents.get(n) {
        Some(content) => content.as_deref().map_err(Clone::clone),
        None => Err("not read".into()),
    };
    let (certificate, key) = (files.certificate.display(), files.key.display());
    let chain = certificates(content(0)?).map_err(|error| format!("{certificate}: {error}"))?;
    // The parser's words hold none of the key.
    let private = PrivateKeyDer::from_pem_slice(content(1)?)
        .map_err(|_| format!("{key}: no private key in PEM is in it"))?;
    let own = CertifiedKey::from_der(chain, private, &provider())
        .map_err(|error| format!("{certificate} and {key} don't go together: {error}"))?;
    let ends = own.cert.first().and_then(crate::identity::ends_at);
    let ends = ends.ok_or_else(|| format!("{certificate}: the certificate can't be read"))?;
    if ends < Utc::now().timestamp() {
        let ended = DateTime::from_timestamp(ends, 0).unwrap_or_default();
        return Err(format!("{certificate}: the certificate ended at {}", ended.to_rfc3339()));
    }
    metrics.certificate_expiry("server", ends);
    Ok(Arc::new(own))
}

/// The authorities of clients.
fn clients(
    files: &TlsFiles,
    content: &Content,
    metrics: &Metrics,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let path = files.client_ca.as_deref().unwrap_or(&files.certificate).display();
    let found = certificates(content.as_deref().map_err(Clone::clone)?)
        .map_err(|error| format!("{path}: {error}"))?;
    let first_end = found.iter().filter_map(crate::identity::ends_at).min();
    let mut roots = RootCertStore::empty();
    for certificate in found {
        roots.add(certificate).map_err(|error| format!("{path}: {error}"))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .allow_unauthenticated()
        .build()
        .map_err(|error| format!("{path}: {error}"))?;
    if let Some(ends) = first_end {
        metrics.certificate_expiry(CLIENT_CA, ends);
    }
    Ok(verifier)
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err("no certificate in PEM is in it".into()),
        Ok(found) => Ok(found),
        Err(error) => Err(error.to_string()),
    }
}

fn config(
    own: &Arc<CertifiedKey>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
) -> Result<Arc<ServerConfig>, String> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match clients {
        Some(clients) => builder.with_client_cert_verifier(clients),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(own.clone())));
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}
