//! Page tokens: where the last page ended, opaque and versioned, and bound to the call and the
//! filter that they came from. They are no secret: whatever is in one, the filter decides what
//! is read.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Datelike, Utc};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::error::Error;
use crate::domain::violation::Violation;

const VERSION: u8 = 2;

/// What a page is continued by.
pub(super) trait PageKey: Serialize + DeserializeOwned {
    /// Whether the database takes it: no NUL, and no year that it does not have.
    fn is_storable(&self) -> bool;
}

/// The tokens of one call with one filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PageTokens {
    fingerprint: String,
}

#[derive(Serialize, serde::Deserialize)]
struct Token<K> {
    v: u8,
    f: String,
    k: K,
}

impl PageTokens {
    /// Of `call`, by its name in the contract, with everything that decides which rows it reads
    /// in which order.
    pub fn of(call: &str, filter: &serde_json::Value) -> PageTokens {
        let text = serde_json::json!([call, filter]).to_string();
        PageTokens { fingerprint: hex::encode(&Sha256::digest(text)[..8]) }
    }

    /// The token that continues after `key`.
    pub fn issue<K: PageKey>(&self, key: K) -> String {
        let token = Token { v: VERSION, f: self.fingerprint.clone(), k: key };
        URL_SAFE_NO_PAD.encode(serde_json::json!(token).to_string())
    }

    /// Where to continue; `None` for the empty token, from the beginning.
    pub fn parse<K: PageKey>(&self, text: &str) -> Result<Option<K>, Error> {
        if text.is_empty() {
            return Ok(None);
        }
        let decoded = URL_SAFE_NO_PAD.decode(text).ok();
        // The key's shape is the call's own: whose token it is comes first.
        let token = decoded.and_then(|bytes| serde_json::from_slice::<Token<serde_json::Value>>(&bytes).ok());
        let Some(Token { v: VERSION, f, k }) = token else { return Err(malformed()) };
        if f != self.fingerprint {
            return Err(refused(
                "OTHER_FILTER",
                "belongs to another call or filter; keep to the one it came from, or begin without a token",
            ));
        }
        let key = serde_json::from_value::<K>(k).ok().filter(K::is_storable);
        key.map(Some).ok_or_else(malformed)
    }
}

/// Whether the database has this year, and we do.
pub(super) fn is_time(time: DateTime<Utc>) -> bool {
    (1..=9999).contains(&time.year())
}

/// Whether the database takes these texts.
pub(super) fn are_texts(texts: &[&String]) -> bool {
    !texts.iter().any(|text| text.contains('\0'))
}

fn malformed() -> Error {
    refused("MALFORMED", "is not a token of this service; begin without one")
}

fn refused(reason: &'static str, message: &str) -> Error {
    Error::Invalid(vec![Violation::new("page_token", reason, message)])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Debug, Clone, PartialEq, Serialize, serde::Deserialize)]
    struct Key {
        text: String,
    }

    impl PageKey for Key {
        fn is_storable(&self) -> bool {
            are_texts(&[&self.text])
        }
    }

    fn key(text: &str) -> Key {
        Key { text: text.into() }
    }

    fn reason(result: Result<Option<Key>, Error>) -> &'static str {
        let Err(Error::Invalid(wrong)) = result else { panic!("{result:?}") };
        wrong[0].reason
    }

    #[test]
    fn a_token_continues_where_it_was_issued() {
        let tokens = PageTokens::of("List", &json!([1]));
        assert_eq!(tokens.parse(&tokens.issue(key("é"))).expect("its own"), Some(key("é")));
        assert_eq!(tokens.parse::<Key>("").expect("none"), None);
    }

    #[test]
    fn a_token_of_another_call_or_filter_is_refused_whatever_its_key() {
        let tokens = PageTokens::of("List", &json!([1]));
        for other in [PageTokens::of("List", &json!([2])), PageTokens::of("Watch", &json!([1]))] {
            assert_eq!(reason(tokens.parse(&other.issue(key("a")))), "OTHER_FILTER");
        }
        let malformed = json!({"v": VERSION, "f": tokens.fingerprint, "k": {"other": 1}});
        assert_eq!(reason(tokens.parse(&URL_SAFE_NO_PAD.encode(malformed.to_string()))), "MALFORMED");
        let older = json!({"v": VERSION - 1, "f": tokens.fingerprint, "k": key("a")});
        assert_eq!(reason(tokens.parse(&URL_SAFE_NO_PAD.encode(older.to_string()))), "MALFORMED");
        assert_eq!(reason(tokens.parse(&tokens.issue(key("a\0")))), "MALFORMED");
    }
}
