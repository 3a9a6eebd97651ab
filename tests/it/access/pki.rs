//! Certificate authorities of the test's own.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
    date_time_ymd,
};

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

/// When a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Valid {
    Now,
    /// For so long from now on.
    For(Duration),
    Over,
    NotYet,
}

pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// In PEM.
    pub certificate: String,
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        Authority { issuer: Issuer::new(params, key), certificate }
    }

    /// A certificate with these names, `uri:…` or `dns:…`.
    pub fn issue(&self, names: &[&str], valid: Valid) -> Pair {
        let key = KeyPair::generate().unwrap();
        let certificate = params(names, valid).signed_by(&key, &self.issuer).unwrap().pem();
        Pair { certificate, key: key.serialize_pem() }
    }

    /// One for a server on this machine.
    pub fn server(&self) -> Pair {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["localhost".to_string(), "127.0.0.1".into()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Pair { certificate, key: key.serialize_pem() }
    }
}

/// One that nobody signed but itself.
pub fn self_signed(names: &[&str]) -> Pair {
    let key = KeyPair::generate().unwrap();
    let certificate = params(names, Valid::Now).self_signed(&key).unwrap().pem();
    Pair { certificate, key: key.serialize_pem() }
}

fn params(names: &[&str], valid: Valid) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = names
        .iter()
        .map(|name| match name.split_once(':').unwrap() {
            ("uri", name) => SanType::URI(name.try_into().unwrap()),
            (_, name) => SanType::DnsName(name.try_into().unwrap()),
        })
        .collect();
    let now = date_time_ymd(1970, 1, 1) + SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    (params.not_before, params.not_after) = match valid {
        Valid::Now => (date_time_ymd(2020, 1, 1), date_time_ymd(2090, 1, 1)),
        Valid::For(time) => (date_time_ymd(2020, 1, 1), now + time),
        Valid::Over => (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1)),
        Valid::NotYet => (date_time_ymd(2090, 1, 1), date_time_ymd(2091, 1, 1)),
    };
    params
}
