//! Page tokens and cursors: where a reader stands, opaque and versioned, and bound to the call and
//! the filter that they came from. They are no secret: whatever is in one, the filter decides what
//! is read.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Datelike, Utc};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::error::Error;
use crate::domain::violation::Violation;
use crate::store::FeedPlace;

/// Of page tokens, which live for as long as someone reads.
const VERSION: u8 = 3;
/// Of cursors, which consumers keep for months.
const CURSOR_VERSION: u8 = 1;

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
        PageTokens { fingerprint: fingerprint(&serde_json::json!([call, filter])) }
    }

    /// The token that continues after `key`.
    pub fn issue<K: PageKey>(&self, key: K) -> String {
        encode(&Token { v: VERSION, f: self.fingerprint.clone(), k: key })
    }

    /// Where to continue; `None` for the empty token, from the beginning.
    pub fn parse<K: PageKey>(&self, text: &str) -> Result<Option<K>, Error> {
        if text.is_empty() {
            return Ok(None);
        }
        match decode(text, VERSION, &self.fingerprint) {
            Ok(key) => Some(key).filter(K::is_storable).map(Some).ok_or_else(malformed),
            Err(Unfit::Malformed) => Err(malformed()),
            Err(Unfit::OtherFilter) => Err(refused(
                "OTHER_FILTER",
                "belongs to another call or filter; keep to the one it came from, or begin without a token",
            )),
        }
    }
}

/// The cursors of the change feed with one filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cursors {
    fingerprint: String,
}

impl Cursors {
    /// Of the feed, with everything that decides which changes are told.
    pub fn of(filter: &serde_json::Value) -> Cursors {
        Cursors { fingerprint: fingerprint(filter) }
    }

    /// The cursor of a reader who stands at `place`.
    pub fn issue(&self, place: FeedPlace) -> String {
        encode(&Token { v: CURSOR_VERSION, f: self.fingerprint.clone(), k: place })
    }

    /// Where a reader stands; `None` for the empty cursor, before the first change. Whether this
    /// database has that place is the feed's to say.
    pub fn parse(&self, text: &str) -> Result<Option<FeedPlace>, Error> {
        if text.is_empty() {
            return Ok(None);
        }
        match decode(text, CURSOR_VERSION, &self.fingerprint) {
            Ok(place) => Ok(Some(place)),
            Err(Unfit::Malformed) => Err(Error::CursorUnknown),
            Err(Unfit::OtherFilter) => Err(Error::Invalid(vec![Violation::new(
                "cursor",
                "OTHER_FILTER",
                "belongs to another filter; keep to the one it came from, or take a new first copy with this one",
            )])),
        }
    }
}

/// Why a token can't be used here.
enum Unfit {
    Malformed,
    OtherFilter,
}

fn fingerprint(of: &serde_json::Value) -> String {
    hex::encode(&Sha256::digest(of.to_string())[..8])
}

fn encode<K: Serialize>(token: &Token<K>) -> String {
    URL_SAFE_NO_PAD.encode(serde_json::json!(token).to_string())
}

fn decode<K: DeserializeOwned>(text: &str, version: u8, fingerprint: &str) -> Result<K, Unfit> {
    let decoded = URL_SAFE_NO_PAD.decode(text).ok();
    // The key's shape is the call's own: whose token it is comes first.
    let token = decoded.and_then(|bytes| serde_json::from_slice::<Token<serde_json::Value>>(&bytes).ok());
    match token {
        Some(Token { v, f, k }) if v == version && f == fingerprint => {
            serde_json::from_value(k).map_err(|_| Unfit::Malformed)
        }
        Some(Token { v, .. }) if v == version => Err(Unfit::OtherFilter),
        Some(_) | None => Err(Unfit::Malformed),
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

    #[test]
    fn a_cursor_of_another_filter_is_refused_and_what_is_no_cursor_is_unknown() {
        let cursors = Cursors::of(&json!([1]));
        let place = FeedPlace { position: 7, ordinal: 3, ..FeedPlace::default() };
        assert_eq!(cursors.parse(&cursors.issue(place)).expect("its own"), Some(place));
        assert_eq!(cursors.parse("").expect("none"), None);
        let Err(Error::Invalid(wrong)) = Cursors::of(&json!([2])).parse(&cursors.issue(place)) else {
            panic!("taken")
        };
        assert_eq!((wrong[0].field.as_str(), wrong[0].reason), ("cursor", "OTHER_FILTER"));
        for text in ["x", "AAAA", &PageTokens::of("List", &json!([1])).issue(key("a"))] {
            assert!(matches!(cursors.parse(text), Err(Error::CursorUnknown)), "{text}");
        }
    }
}
