//! An issuer of tokens of the test's own.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::Utc;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};

pub const ISSUER: &str = "https://issuer.test";
pub const AUDIENCE: &str = "rater.test";

pub struct Signer {
    kid: String,
    key: EcdsaKeyPair,
}

impl Signer {
    pub fn new(kid: &str) -> Signer {
        let (random, kind) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let key = EcdsaKeyPair::generate_pkcs8(kind, &random).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(kind, key.as_ref(), &random).unwrap();
        Signer { kid: kid.into(), key }
    }

    /// The file of its public key, and those of `others`.
    pub fn jwks(&self, others: &[&Signer]) -> String {
        let keys: Vec<_> = std::iter::once(&self).chain(others).map(|signer| signer.jwk()).collect();
        json!({ "keys": keys }).to_string()
    }

    fn jwk(&self) -> Value {
        let point = self.key.public_key().as_ref();
        json!({"kty": "EC", "crv": "P-256", "kid": self.kid, "x": b64(&point[1..33]), "y": b64(&point[33..])})
    }

    /// A good one.
    pub fn token(&self, subject: &str) -> String {
        self.sign(&claims(subject))
    }

    pub fn sign(&self, claims: &Value) -> String {
        let header = json!({"alg": "ES256", "kid": self.kid, "typ": "JWT"});
        let message = format!("{}.{}", b64(header.to_string()), b64(claims.to_string()));
        let signed = self.key.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
        format!("{message}.{}", b64(signed))
    }
}

/// The claims of a good token.
pub fn claims(subject: &str) -> Value {
    json!({"iss": ISSUER, "aud": AUDIENCE, "sub": subject, "exp": Utc::now().timestamp() + 600})
}

/// Good claims without a signature, as they were good to others.
pub fn unsigned(subject: &str) -> String {
    format!("{}.{}.", b64(r#"{"alg":"none"}"#), b64(claims(subject).to_string()))
}

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
