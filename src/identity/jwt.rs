//! A bearer token (RFC 7519, signed as in RFC 7515), read strictly: what is missing, doubled, of
//! another type or not understood makes it nobody's. The key decides the algorithm, never the
//! token, so that neither `none` nor a public key taken for a secret passes.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::jwks::{Algorithm, Key};
use super::mapping::Issuer;
use super::refusal::Refusal;

/// The longest token, in bytes.
pub(super) const MAX_TOKEN: usize = 8 * 1024;
/// How far the issuer's clock may be from ours, in seconds.
const LEEWAY: i64 = 30;

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// Extensions that must be understood; none is.
    crit: Option<IgnoredAny>,
    /// Unencoded payloads (RFC 7797) are another format.
    b64: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Audience,
    exp: Time,
    nbf: Option<Time>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

/// Seconds since 1970, as a whole number or a fraction, which is cut.
#[derive(Deserialize)]
#[serde(untagged)]
enum Time {
    Whole(i64),
    Fraction(f64),
}

impl Time {
    fn seconds(&self) -> i64 {
        match self {
            Time::Whole(seconds) => *seconds,
            // Saturates; there is no NaN in JSON.
            Time::Fraction(seconds) => *seconds as i64,
        }
    }
}

/// The subject of a token that is whole, signed, from the issuer, for us, and valid at `now`, in
/// Unix seconds.
pub(super) fn subject(token: &str, issuer: &Issuer, keys: &[Key], now: i64) -> Result<String, Refusal> {
    if token.len() > MAX_TOKEN {
        return Err(Refusal::Unreadable);
    }
    let (message, signed) = token.rsplit_once('.').ok_or(Refusal::Unreadable)?;
    let (header, payload) = message.split_once('.').ok_or(Refusal::Unreadable)?;
    let header: Header = json(header)?;
    if header.crit.is_some() || header.b64.is_some() {
        return Err(Refusal::Unreadable);
    }
    let algorithm = Algorithm::named(&header.alg).ok_or(Refusal::UnknownKey)?;
    let mut fitting =
        keys.iter().filter(|key| key.is_for(algorithm) && (header.kid.is_none() || key.id == header.kid));
    // Without a kid there must be no choice.
    let (Some(key), None) = (fitting.next(), fitting.next()) else { return Err(Refusal::UnknownKey) };
    let signed = URL_SAFE_NO_PAD.decode(signed).map_err(|_| Refusal::Unreadable)?;
    if !key.verifies(algorithm, message.as_bytes(), &signed) {
        return Err(Refusal::Signature);
    }
    claimed(json(payload)?, issuer, now)
}

/// What a token claims, now that it is known who says so.
fn claimed(claims: Claims, issuer: &Issuer, now: i64) -> Result<String, Refusal> {
    if claims.iss != issuer.issuer {
        return Err(Refusal::Issuer);
    }
    let for_us = match &claims.aud {
        Audience::One(audience) => *audience == issuer.audience,
        Audience::Many(audiences) => audiences.contains(&issuer.audience),
    };
    if !for_us {
        return Err(Refusal::Audience);
    }
    if now >= claims.exp.seconds().saturating_add(LEEWAY) {
        return Err(Refusal::TokenExpired);
    }
    if claims.nbf.is_some_and(|from| now < from.seconds().saturating_sub(LEEWAY)) {
        return Err(Refusal::TokenNotYet);
    }
    Ok(claims.sub)
}

fn json<T: for<'de> Deserialize<'de>>(part: &str) -> Result<T, Refusal> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| Refusal::Unreadable)?;
    serde_json::from_slice(&bytes).map_err(|_| Refusal::Unreadable)
}

#[cfg(test)]
#[path = "jwt_tests.rs"]
mod tests;
