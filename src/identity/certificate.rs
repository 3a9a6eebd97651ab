//! A client's certificate, as the handshake verified it: its names and when it ends.
//!
//! Names count as they are written, byte by byte: a name that differs in case, or goes on after a
//! NUL, is another one.

use std::sync::atomic::{AtomicU64, Ordering};

use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The chain that a client presented, its own certificate first.
#[derive(Debug)]
pub struct Presented {
    chain: Vec<CertificateDer<'static>>,
    uris: Vec<String>,
    dns: Vec<String>,
    not_after: i64,
    /// Which generation of authorities last vouched for it; 0 for none.
    vouched: AtomicU64,
}

impl Presented {
    /// Reads what a handshake verified. One that can't be read has no names, and has expired.
    pub fn new(chain: &[CertificateDer<'_>]) -> Presented {
        let chain: Vec<_> = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
        let (uris, dns, not_after) = chain.first().and_then(|own| read(own)).unwrap_or_default();
        Presented { chain, uris, dns, not_after, vouched: AtomicU64::new(0) }
    }

    /// The names, in the order in which they are looked for: URIs, then DNS names.
    pub fn names(&self) -> impl Iterator<Item = (bool, &str)> {
        let uris = self.uris.iter().map(|name| (true, name.as_str()));
        uris.chain(self.dns.iter().map(|name| (false, name.as_str())))
    }

    /// Whether it has ended at `now`, in Unix seconds. A connection may outlive it.
    pub fn is_over(&self, now: i64) -> bool {
        now > self.not_after
    }

    /// Whether `generation` of the authorities vouches for it, which `verify` is asked once.
    pub fn is_vouched_for(
        &self,
        generation: u64,
        verify: impl FnOnce(&CertificateDer<'static>, &[CertificateDer<'static>]) -> bool,
    ) -> bool {
        if self.vouched.load(Ordering::Acquire) == generation {
            return true;
        }
        let vouched = self.chain.split_first().is_some_and(|(own, others)| verify(own, others));
        if vouched {
            self.vouched.store(generation, Ordering::Release);
        }
        vouched
    }
}

/// URIs, DNS names and the end of a certificate.
fn read(der: &CertificateDer<'_>) -> Option<(Vec<String>, Vec<String>, i64)> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let not_after = certificate.validity().not_after.timestamp();
    let (mut uris, mut dns) = (Vec::new(), Vec::new());
    if let Some(names) = certificate.subject_alternative_name().ok()? {
        for name in &names.value.general_names {
            match name {
                GeneralName::URI(uri) => uris.push((*uri).to_owned()),
                GeneralName::DNSName(name) => dns.push((*name).to_owned()),
                _ => {}
            }
        }
    }
    Some((uris, dns, not_after))
}

/// When a certificate ends, in Unix seconds.
pub fn ends_at(der: &CertificateDer<'_>) -> Option<i64> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Some(certificate.validity().not_after.timestamp())
}
