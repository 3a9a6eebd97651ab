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
    /// When each certificate of the chain ends; one that can't be read has ended.
    ends: Vec<i64>,
    /// Whether authorities vouched for it last, and which: see [`Presented::is_vouched_for`].
    vouched: AtomicU64,
}

impl Presented {
    /// Reads what a handshake verified. One that can't be read has no names, and has expired.
    pub fn new(chain: &[CertificateDer<'_>]) -> Presented {
        let chain: Vec<_> = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
        let (uris, dns) = chain.first().and_then(|own| read(own)).unwrap_or_default();
        let ends = chain.iter().map(|certificate| ends_at(certificate).unwrap_or_default()).collect();
        Presented { chain, uris, dns, ends, vouched: AtomicU64::new(0) }
    }

    /// The names, in the order in which they are looked for: URIs, then DNS names.
    pub fn names(&self) -> impl Iterator<Item = (bool, &str)> {
        let uris = self.uris.iter().map(|name| (true, name.as_str()));
        uris.chain(self.dns.iter().map(|name| (false, name.as_str())))
    }

    /// Whether it has ended at `now`, in Unix seconds. A connection may outlive it.
    pub fn is_over(&self, now: i64) -> bool {
        self.ends.first().is_none_or(|ends| now > *ends)
    }

    /// When it must be looked at again: as soon as the next certificate of its chain has ended.
    pub fn until(&self, now: i64) -> i64 {
        let ahead = self.ends.iter().filter(|ends| **ends >= now);
        ahead.min().map_or(now, |ends| ends.saturating_add(1))
    }

    /// Whether `generation` of the authorities, which counts from 1, vouches for it. `verify` is
    /// asked once, and again after each end of a certificate in the chain.
    pub fn is_vouched_for(
        &self,
        generation: u64,
        now: i64,
        verify: impl FnOnce(&CertificateDer<'static>, &[CertificateDer<'static>]) -> bool,
    ) -> bool {
        let ended = self.ends.iter().filter(|ends| now > **ends).count();
        let now = generation * (self.ends.len() as u64 + 1) + ended as u64;
        if self.vouched.load(Ordering::Acquire) == now {
            return true;
        }
        let vouched = self.chain.split_first().is_some_and(|(own, others)| verify(own, others));
        if vouched {
            self.vouched.store(now, Ordering::Release);
        }
        vouched
    }
}

/// URIs and DNS names of a certificate.
fn read(der: &CertificateDer<'_>) -> Option<(Vec<String>, Vec<String>)> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
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
    Some((uris, dns))
}

/// When a certificate ends, in Unix seconds.
pub fn ends_at(der: &CertificateDer<'_>) -> Option<i64> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    /// One that ends at the beginning of a year.
    fn certificate(year: i32) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("signed").der().clone()
    }

    #[test]
    fn a_chain_of_which_a_part_has_ended_is_asked_about_again() {
        let presented = Presented::new(&[certificate(2090), certificate(2060), certificate(2050)]);
        let year = |year| rcgen::date_time_ymd(year, 1, 1).unix_timestamp();
        let (now, half, late) = (year(2040), year(2055), year(2070));
        let good = |generation, now| presented.is_vouched_for(generation, now, |_, _| true);
        let known = |generation, now| presented.is_vouched_for(generation, now, |_, _| false);
        assert!(!known(1, now) && good(1, now) && known(1, now));
        // As soon as one has ended.
        assert_eq!(presented.until(now), year(2050) + 1);
        assert!(known(1, year(2050)) && !known(1, year(2050) + 1));
        assert!(!known(1, half) && good(1, half) && known(1, half) && !known(1, late));
        assert_eq!((presented.until(half), presented.until(late)), (year(2060) + 1, year(2090) + 1));
        // Other authorities.
        assert!(!known(2, half) && good(2, half) && known(2, half) && !known(1, late));
        assert!(!presented.is_over(year(2090)) && presented.is_over(year(2090) + 1));
    }

    #[test]
    fn what_can_not_be_read_has_ended() {
        let presented = Presented::new(&[CertificateDer::from(vec![1, 2, 3])]);
        assert!(presented.is_over(1) && Presented::new(&[]).is_over(0));
        assert_eq!(presented.names().count(), 0);
    }
}
