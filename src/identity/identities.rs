//! The identities in force: the mapping and the keys of tokens, exchanged when their files change.
//! A new file that is wrong is refused loudly, and the last good one stays.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::watch::{Receiver, Sender};

use super::certificate::Presented;
use super::jwks::{self, Key};
use super::jwt;
use super::mapping::{Issuer, Mapping, Name};
use super::refusal::Refusal;
use super::watch::{self, Content, Followed};
use crate::metrics::Metrics;
use crate::service::caller::Caller;

const IDENTITIES: &str = "identities";
const JWKS: &str = "jwks";

/// Who may call, as the files say.
pub struct Identities {
    file: PathBuf,
    metrics: Arc<Metrics>,
    state: ArcSwap<State>,
    /// The contents that the state was made of, until they are followed.
    known: Mutex<Vec<Content>>,
    changed: Sender<()>,
}

#[derive(Clone)]
struct State {
    mapping: Arc<Mapping>,
    keys: Arc<Vec<Key>>,
    /// Where the keys are looked for: what the file says now, good or not.
    jwks: Option<PathBuf>,
}

impl Identities {
    /// Reads the files; everything that is wrong with them, a line each.
    pub fn load(file: &Path, metrics: Arc<Metrics>) -> Result<Identities, String> {
        let text = watch::read(file);
        let mapping = parse(file, &text)?;
        let jwks = mapping.jwt.as_ref().map(|jwt| jwt.jwks.clone());
        let content = jwks.as_deref().map(watch::read);
        let keys = match (&mapping.jwt, &content) {
            (Some(issuer), Some(content)) => keys(issuer, content)?,
            _ => Vec::new(),
        };
        metrics.credentials_refused(IDENTITIES, false);
        if jwks.is_some() {
            metrics.credentials_refused(JWKS, false);
        }
        let state = State { mapping: Arc::new(mapping), keys: Arc::new(keys), jwks };
        Ok(Identities {
            file: file.to_owned(),
            metrics,
            state: ArcSwap::from_pointee(state),
            known: Mutex::new(std::iter::once(text).chain(content).collect()),
            changed: Sender::default(),
        })
    }

    /// How many callers there are, and whether any is known by a certificate, and any by a token.
    pub fn summary(&self) -> (usize, bool, bool) {
        let mapping = &self.state.load().mapping;
        (mapping.callers.len(), mapping.has_certificates(), mapping.jwt.is_some())
    }

    /// Tells when somebody may be known or allowed no more.
    pub fn changes(&self) -> Receiver<()> {
        self.changed.subscribe()
    }

    /// Whoever showed a token, and from when on it is too old.
    pub fn by_token(&self, token: &str, now: i64) -> Result<(Caller, i64), Refusal> {
        let state = self.state.load();
        let issuer = state.mapping.jwt.as_ref().ok_or(Refusal::NoTokens)?;
        let subject = jwt::subject(token, issuer, &state.keys, now)?;
        let name = Name::Subject(subject.name);
        let roles = state.mapping.callers.get(&name).cloned().unwrap_or_default();
        let Name::Subject(name) = name else { return Err(Refusal::Unreadable) };
        Ok((Caller { name, roles }, subject.until))
    }

    /// Whoever presented a certificate that is valid: the first of its names that is known, or, for
    /// the log, the first.
    pub fn by_certificate(&self, presented: &Presented) -> Result<Caller, Refusal> {
        let state = self.state.load();
        let known = presented.names().find_map(|(is_uri, name)| {
            let key = if is_uri { Name::Uri(name.to_owned()) } else { Name::Dns(name.to_owned()) };
            let roles = state.mapping.callers.get(&key)?.clone();
            Some(Caller { name: name.to_owned(), roles })
        });
        let nobody = || presented.names().next().map(|(_, name)| Caller { name: name.into(), roles: vec![] });
        known.or_else(nobody).ok_or(Refusal::Nameless)
    }

    /// Follows the files for ever.
    pub async fn watch(self: Arc<Self>) {
        let known = std::mem::take(&mut *self.known.lock().unwrap_or_else(PoisonError::into_inner));
        watch::follow(self, known).await;
    }

    fn refuse(&self, what: &'static str, findings: &str) {
        tracing::error!(findings, "{what} are refused; the last good ones stay in force");
        self.metrics.credentials_refused(what, true);
    }
}

impl Followed for Identities {
    fn files(&self) -> Vec<PathBuf> {
        let jwks = self.state.load().jwks.clone();
        std::iter::once(self.file.clone()).chain(jwks).collect()
    }

    fn take(&self, contents: Vec<Content>) {
        let before = State::clone(&self.state.load());
        let mut contents = contents.into_iter();
        let (mapping, read) = match contents.next().map(|text| parse(&self.file, &text)) {
            Some(Ok(mapping)) => (Arc::new(mapping), true),
            Some(Err(findings)) => {
                self.refuse(IDENTITIES, &findings);
                (before.mapping.clone(), false)
            }
            None => return,
        };
        if self.exchange(&before, mapping, read, contents.next()) && read {
            let callers = self.state.load().mapping.callers.len();
            tracing::info!(path = %self.file.display(), callers, "identities loaded");
        }
    }
}

impl Identities {
    /// Puts a mapping, perhaps one that was `read` now, into force with the keys that it names.
    /// Whether they were good.
    fn exchange(&self, before: &State, mapping: Arc<Mapping>, read: bool, content: Option<Content>) -> bool {
        let jwks = mapping.jwt.as_ref().map(|jwt| jwt.jwks.clone());
        let made = mapping.jwt.as_ref().map(|issuer| {
            // A file that the mapping did not name before was not read yet.
            let content =
                content.filter(|_| jwks == before.jwks).unwrap_or_else(|| watch::read(&issuer.jwks));
            keys(issuer, &content)
        });
        let (keys, good) = match made {
            None => (Arc::default(), true),
            Some(Ok(keys)) => (Arc::new(keys), true),
            Some(Err(findings)) => {
                self.refuse(JWKS, &findings);
                (before.keys.clone(), false)
            }
        };
        // The old keys are another issuer's or for another audience: without its own a mapping can't be.
        let whole = good || mapping.jwt == before.mapping.jwt;
        let mapping = if whole { mapping } else { before.mapping.clone() };
        self.state.store(Arc::new(State { mapping, keys, jwks }));
        self.changed.send_replace(());
        if good {
            self.metrics.credentials_refused(JWKS, false);
        }
        if read {
            self.metrics.credentials_refused(IDENTITIES, !whole);
        }
        good
    }
}

fn parse(file: &Path, content: &Content) -> Result<Mapping, String> {
    let bytes = content.as_ref().map_err(Clone::clone)?;
    let path = file.display();
    let text = std::str::from_utf8(bytes).map_err(|error| format!("{path}: no UTF-8: {error}"))?;
    let folder = file.parent().unwrap_or(Path::new(""));
    Mapping::parse(text, folder).map_err(|found| {
        let lines: Vec<_> = found.iter().map(|diagnostic| format!("{path}:{diagnostic}")).collect();
        lines.join("\n")
    })
}

fn keys(issuer: &Issuer, content: &Content) -> Result<Vec<Key>, String> {
    let bytes = content.as_ref().map_err(Clone::clone)?;
    let path = issuer.jwks.display();
    let (keys, passed_over) = jwks::parse(bytes).map_err(|wrong| format!("{path}: {wrong}"))?;
    for key in passed_over {
        tracing::warn!(%path, key, "a key of tokens can't be used, and is passed over");
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: &str =
        r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}]}"#;

    fn mapping(audience: &str, subject: &str) -> Content {
        let jwt = format!("jwt: {{issuer: i, audience: {audience}, jwks: jwks.json}}");
        Ok(format!("version: 1\n{jwt}\ncallers: [{{subject: {subject}, roles: [reader]}}]\n").into())
    }

    #[test]
    fn another_issuers_mapping_without_its_own_keys_does_not_count() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("identities.yaml");
        std::fs::write(&file, mapping("old", "a").expect("text")).expect("written");
        std::fs::write(dir.path().join("jwks.json"), KEYS).expect("written");
        let metrics = Arc::new(Metrics::new());
        let identities = Identities::load(&file, metrics.clone()).expect("good ones");
        let take = |text: Content, keys: &str| {
            identities.take(vec![text, Ok(keys.into())]);
            let told = metrics.encode().expect("text");
            let refused =
                |what: &str| told.contains(&format!("rater_credentials_refused{{what=\"{what}\"}} 1"));
            let mapping = identities.state.load().mapping.clone();
            let audience = mapping.jwt.as_ref().map(|jwt| jwt.audience.clone()).expect("one");
            let known = mapping.callers.contains_key(&Name::Subject("b".into()));
            (audience, known, refused("identities"), refused("jwks"))
        };
        assert_eq!(take(mapping("new", "b"), "{}"), ("old".into(), false, true, true));
        // Of the same issuer the callers count: whoever is taken out is out.
        assert_eq!(take(mapping("old", "b"), "{}"), ("old".into(), true, false, true));
        assert_eq!(take(mapping("new", "b"), KEYS), ("new".into(), true, false, false));
    }
}
