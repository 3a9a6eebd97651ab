//! Who may call: the options, and the rule that nobody is served without being known, except
//! on this machine.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::grpc::layers::access::{Access, Open};
use crate::grpc::tls::{Tls, TlsFiles};
use crate::identity::Identities;
use crate::metrics::Metrics;

/// Who may call, and how they and the service show who they are
#[derive(Debug, clap::Args)]
pub(super) struct AccessOptions {
    /// The service's certificate and its chain, a PEM file; followed when it changes
    #[arg(long, env = "RATER_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its private key, a PEM file
    #[arg(long, env = "RATER_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// The authorities of clients' certificates, a PEM file; without it no certificate is asked for
    #[arg(long, env = "RATER_TLS_CLIENT_CA", value_name = "FILE", requires = "tls_cert")]
    tls_client_ca: Option<PathBuf>,
    /// Who may call what, a YAML file; without it everybody may do everything
    #[arg(long, env = "RATER_IDENTITIES", value_name = "FILE")]
    identities: Option<PathBuf>,
    /// Listen beyond this machine without TLS or without identities
    #[arg(long, env = "RATER_INSECURE", value_parser = crate::cli::switch::Switch)]
    insecure: bool,
    /// Do not serve reflection
    #[arg(long, env = "RATER_NO_REFLECTION", value_parser = crate::cli::switch::Switch)]
    no_reflection: bool,
    /// Do not serve health checking over gRPC
    #[arg(long, env = "RATER_NO_HEALTH", value_parser = crate::cli::switch::Switch)]
    no_health: bool,
}

impl AccessOptions {
    /// Refuses to serve strangers from elsewhere, unless that was spelled out.
    pub(super) fn check(&self, listen: SocketAddr) -> Result<(), String> {
        let missing = self.missing();
        if missing.is_empty() || is_local(listen) || self.insecure {
            return Ok(());
        }
        Err(format!(
            "--listen {listen} is open to other machines, and {missing} would be missing: set --tls-cert, \
             --tls-key and --identities, listen on 127.0.0.1, or say --insecure"
        ))
    }

    /// What of it would be missing to know callers.
    fn missing(&self) -> &'static str {
        match (&self.tls_cert, &self.identities) {
            (Some(_), Some(_)) => "",
            (None, Some(_)) => "TLS",
            (Some(_), None) => "the file of identities",
            (None, None) => "TLS and the file of identities",
        }
    }

    /// Reads the files.
    pub(super) fn load(&self, metrics: &Arc<Metrics>) -> Result<Guarded, String> {
        let tls = match (&self.tls_cert, &self.tls_key) {
            (Some(certificate), Some(key)) => {
                let (certificate, key) = (certificate.clone(), key.clone());
                let files = TlsFiles { certificate, key, client_ca: self.tls_client_ca.clone() };
                Some(Arc::new(Tls::load(files, metrics.clone())?))
            }
            _ => None,
        };
        let identities = match &self.identities {
            Some(file) => Some(Arc::new(Identities::load(file, metrics.clone())?)),
            None => None,
        };
        let open = Open { health: !self.no_health, reflection: !self.no_reflection };
        Ok(Guarded { tls, identities, open, missing: self.missing() })
    }
}

fn is_local(listen: SocketAddr) -> bool {
    listen.ip().to_canonical().is_loopback()
}

/// What the service shows, and whom it knows.
pub(super) struct Guarded {
    pub(super) tls: Option<Arc<Tls>>,
    identities: Option<Arc<Identities>>,
    pub(super) open: Open,
    missing: &'static str,
}

impl Guarded {
    /// The layer that every call goes through.
    pub(super) fn layer(&self) -> Access {
        match &self.identities {
            Some(identities) => Access::new(identities.clone(), self.tls.clone(), self.open),
            None => Access::default(),
        }
    }

    /// Follows the files until the service stops.
    pub(super) fn watch(&self, background: &TaskTracker, stop: &CancellationToken) {
        if let Some(tls) = self.tls.clone() {
            background.spawn(stop.clone().run_until_cancelled_owned(tls.watch()));
        }
        if let Some(identities) = self.identities.clone() {
            background.spawn(stop.clone().run_until_cancelled_owned(identities.watch()));
        }
    }

    /// Says what an operator should know of how this is set up.
    pub(super) fn tell(&self, listen: SocketAddr) {
        let missing = self.missing;
        if !missing.is_empty() && !is_local(listen) {
            tracing::warn!(%listen, missing, "insecure: other machines may call, as --insecure says");
        }
        let asked = self.tls.as_ref().is_some_and(|tls| tls.asks_clients());
        if let Some(identities) = &self.identities {
            let (callers, by_certificate, by_token) = identities.summary();
            tracing::info!(callers, by_certificate, by_token, "callers are identified");
            if by_certificate && !asked {
                tracing::warn!("callers with a uri or dns name can't be known without --tls-client-ca");
            }
        } else if asked {
            tracing::warn!("client certificates are looked at, but without --identities everybody may call");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(tls: bool, identities: bool, insecure: bool) -> AccessOptions {
        let file = |there: bool| there.then(|| PathBuf::from("file"));
        AccessOptions {
            tls_cert: file(tls),
            tls_key: file(tls),
            tls_client_ca: None,
            identities: file(identities),
            insecure,
            no_reflection: false,
            no_health: false,
        }
    }

    #[test]
    fn strangers_from_elsewhere_are_not_served_unless_that_is_spelled_out() {
        let elsewhere = ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "[2001:db8::1]:1", "[::ffff:10.0.0.1]:1"];
        let here = ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"];
        for (tls, identities, missing) in [
            (false, false, "TLS and the file of identities"),
            (true, false, "the file of identities"),
            (false, true, "TLS"),
        ] {
            for address in elsewhere {
                let listen = address.parse().expect("an address");
                let error = options(tls, identities, false).check(listen).expect_err(address);
                assert!(error.contains(missing) && error.contains("--insecure"), "{error}");
                assert_eq!(error.lines().count(), 1);
                assert_eq!(options(tls, identities, true).check(listen), Ok(()));
                assert_eq!(options(true, true, false).check(listen), Ok(()));
            }
            for address in here {
                assert_eq!(options(tls, identities, false).check(address.parse().expect("one")), Ok(()));
            }
        }
    }
}
