//! A bearer token (RFC 7519, signed as in RFC 7515), read strictly: what is missing, doubled, of
//! another type or not understood makes it nobody's. The key decides the algorithm, never the
//! token, so that neither `none` nor a public key taken for a secret passes.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};

use super::jwks::{Algorithm, Key};
use super::mapping::Issuer;
use super::refusal::Refusal;

/// The longest token, in bytes.
pub(super) const MAX_TOKEN: usize = 8 * 1024;
/// How far the issuer's clock may be from ours, in seconds.
const LEEWAY: i64 = 30;
/// The last second of the year 9999. Nobody means a later one: it is no time, or no seconds.
const LAST: i64 = 253_402_300_799;

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// Extensions that must be understood; none is.
    #[serde(default, deserialize_with = "is_there")]
    crit: bool,
    /// Unencoded payloads (RFC 7797) are another format.
    #[serde(default, deserialize_with = "is_there")]
    b64: bool,
}

/// Whatever it is, `null` included.
fn is_there<'de, D: Deserializer<'de>>(value: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(value).map(|_| true)
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
    fn seconds(&self) -> Result<i64, Refusal> {
        let seconds = match self {
            Time::Whole(seconds) => *seconds,
            // Saturates; there is no NaN in JSON.
            Time::Fraction(seconds) => *seconds as i64,
        };
        (0..=LAST).contains(&seconds).then_some(seconds).ok_or(Refusal::Unreadable)
    }
}

/// Whom a token is about.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Subject {
    pub name: String,
    /// From when on it is too old, in Unix seconds.
    pub until: i64,
}

/// The subject of a token that is whole, signed, from the issuer, for us, and valid at `now`, in
/// Unix seconds.
pub(super) fn subject(token: &str, issuer: &Issuer, keys: &[Key], now: i64) -> Result<Subject, Refusal> {
    if token.len() > MAX_TOKEN {
        return Err(Refusal::Unreadable);
    }
    let (message, signed) = token.rsplit_once('.').ok_or(Refusal::Unreadable)?;
    let (header, payload) = message.split_once('.').ok_or(Refusal::Unreadable)?;
    let header: Header = json(header)?;
    if header.crit || header.b64 {
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
fn claimed(claims: Claims, issuer: &Issuer, now: i64) -> Result<Subject, Refusal> {
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
    let until = claims.exp.seconds()?.saturating_add(LEEWAY);
    if now >= until {
        return Err(Refusal::TokenExpired);
    }
    let from = claims.nbf.map(|from| from.seconds()).transpose()?;
    if from.is_some_and(|from| now < from.saturating_sub(LEEWAY)) {
        return Err(Refusal::TokenNotYet);
    }
    Ok(Subject { name: claims.sub, until })
}

fn json<T: for<'de> Deserialize<'de>>(part: &str) -> Result<T, Refusal> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| Refusal::Unreadable)?;
    serde_json::from_slice(&bytes).map_err(|_| Refusal::Unreadable)
}

#[cfg(test)]
#[path = "jwt_tests.rs"]
mod tests;
