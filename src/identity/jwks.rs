//! The issuer's public keys, from a JWK set (RFC 7517). A key is for its own algorithms alone,
//! and there are four: RS256, PS256, ES256 and EdDSA (Ed25519). What a set may hold beside them is
//! passed over, except for a secret, which does not belong there; and, told, a key that should be one
//! of them and can't be used: it must not keep the others from being exchanged.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::Deserialize;
use serde_json::Value;

/// The shortest RSA key, in bits.
const MIN_RSA_BITS: usize = 2048;

/// How a token is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Rs256,
    Ps256,
    Es256,
    EdDsa,
}

impl Algorithm {
    const ALL: [Algorithm; 4] = [Algorithm::Rs256, Algorithm::Ps256, Algorithm::Es256, Algorithm::EdDsa];

    /// By its name in a token or a key; every other one is none.
    pub fn named(name: &str) -> Option<Algorithm> {
        match name {
            "RS256" => Some(Algorithm::Rs256),
            "PS256" => Some(Algorithm::Ps256),
            "ES256" => Some(Algorithm::Es256),
            "EdDSA" | "Ed25519" => Some(Algorithm::EdDsa),
            _ => None,
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Material {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256(Vec<u8>),
    Ed25519(Vec<u8>),
}

/// A public key.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub id: Option<String>,
    /// Where the set says so, the only algorithm that it is for.
    only: Option<Algorithm>,
    material: Material,
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

/// The keys of a set that tokens may be signed by, at least one, and why others can't be used.
pub(super) fn parse(bytes: &[u8]) -> Result<(Vec<Key>, Vec<String>), String> {
    let set: Set = serde_json::from_slice(bytes).map_err(|error| {
        // serde's words may repeat what is in the file.
        format!("no JWK set: wrong at line {}, column {}", error.line(), error.column())
    })?;
    let (mut keys, mut passed_over) = (Vec::<Key>::new(), Vec::new());
    for (n, value) in set.keys.into_iter().enumerate() {
        let secret = value.get("k").is_some() || value.get("d").is_some();
        if secret {
            return Err(format!("keys[{n}] holds a secret; a set of public keys has none"));
        }
        let Ok(jwk) = serde_json::from_value::<Jwk>(value) else { continue };
        match key(jwk) {
            Ok(Some(key)) if keys.contains(&key) => {}
            // Which of them a token means must be clear.
            Ok(Some(key)) if keys.iter().any(|other| other.is_mistaken_for(&key)) => {
                return Err(format!("keys[{n}] has the same kid as another key for the same algorithm"));
            }
            Ok(Some(key)) => keys.push(key),
            Ok(None) => {}
            Err(wrong) => passed_over.push(format!("keys[{n}]: {wrong}")),
        }
    }
    if keys.is_empty() {
        passed_over.push("no key for RS256, PS256, ES256 or EdDSA is in it".into());
        return Err(passed_over.join("; "));
    }
    Ok((keys, passed_over))
}

/// A key that can verify; none where it is for something else.
fn key(jwk: Jwk) -> Result<Option<Key>, String> {
    let verifies = jwk.usage.as_deref().is_none_or(|usage| usage == "sig")
        && jwk.key_ops.is_none_or(|ops| ops.iter().any(|op| op == "verify"));
    let only = jwk.alg.as_deref().map(Algorithm::named);
    if !verifies || only == Some(None) {
        return Ok(None);
    }
    let field = |name: &str, value: Option<String>| {
        value
            .and_then(|text| URL_SAFE_NO_PAD.decode(text).ok())
            .ok_or_else(|| format!("{name} is missing or is not base64url"))
    };
    let material = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
        ("RSA", _) => {
            let strip = |bytes: Vec<u8>| bytes.into_iter().skip_while(|byte| *byte == 0).collect::<Vec<u8>>();
            let (n, e) = (strip(field("n", jwk.n)?), strip(field("e", jwk.e)?));
            let bits = n.len() * 8 - n.first().map_or(0, |first| first.leading_zeros() as usize);
            if bits < MIN_RSA_BITS {
                return Err(format!("an RSA key of {bits} bits; at least {MIN_RSA_BITS} are needed"));
            }
            Material::Rsa { n, e }
        }
        ("EC", Some("P-256")) => {
            let (x, y) = (field("x", jwk.x)?, field("y", jwk.y)?);
            if x.len() != 32 || y.len() != 32 {
                return Err("x and y of P-256 have 32 bytes each".into());
            }
            Material::P256([&[4][..], &x, &y].concat())
        }
        ("OKP", Some("Ed25519")) => {
            let x = field("x", jwk.x)?;
            if x.len() != 32 {
                return Err("x of Ed25519 has 32 bytes".into());
            }
            Material::Ed25519(x)
        }
        _ => return Ok(None),
    };
    let key = Key { id: jwk.kid, only: only.flatten(), material };
    let fits = key.only.is_none_or(|only| key.is_for(only));
    fits.then_some(Some(key)).ok_or_else(|| "alg does not fit kty".into())
}

impl Key {
    /// Whether a token could mean the one or the other.
    fn is_mistaken_for(&self, other: &Key) -> bool {
        self.id == other.id && Algorithm::ALL.iter().any(|way| self.is_for(*way) && other.is_for(*way))
    }

    /// Whether a token may be signed by it in this way. The key says so, never the token.
    pub fn is_for(&self, algorithm: Algorithm) -> bool {
        let fits = match &self.material {
            Material::Rsa { .. } => matches!(algorithm, Algorithm::Rs256 | Algorithm::Ps256),
            Material::P256(_) => algorithm == Algorithm::Es256,
            Material::Ed25519(_) => algorithm == Algorithm::EdDsa,
        };
        fits && self.only.is_none_or(|only| only == algorithm)
    }

    /// Whether it signed `message`.
    pub fn verifies(&self, algorithm: Algorithm, message: &[u8], signed: &[u8]) -> bool {
        if !self.is_for(algorithm) {
            return false;
        }
        let verified = match &self.material {
            Material::Rsa { n, e } => {
                let padding = match algorithm {
                    Algorithm::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
                    _ => &signature::RSA_PKCS1_2048_8192_SHA256,
                };
                RsaPublicKeyComponents { n, e }.verify(padding, message, signed)
            }
            Material::P256(point) => {
                UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point).verify(message, signed)
            }
            Material::Ed25519(point) => {
                UnparsedPublicKey::new(&signature::ED25519, point).verify(message, signed)
            }
        };
        verified.is_ok()
    }
}
