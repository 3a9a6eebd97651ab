//! The identities in force: the mapping and the keys of tokens, exchanged when their files change.
//! A new file that is wrong is refused loudly, and the last good one stays.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

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
        })
    }

    /// How many callers there are, and whether any is known by a certificate, and any by a token.
    pub fn summary(&self) -> (usize, bool, bool) {
        let mapping = &self.state.load().mapping;
        (mapping.callers.len(), mapping.has_certificates(), mapping.jwt.is_some())
    }

    /// Whoever showed a token.
    pub fn by_token(&self, token: &str, now: i64) -> Result<Caller, Refusal> {
        let state = self.state.load();
        let issuer = state.mapping.jwt.as_ref().ok_or(Refusal::NoTokens)?;
        let subject = jwt::subject(token, issuer, &state.keys, now)?;
        let name = Name::Subject(subject);
        let roles = state.mapping.callers.get(&name).cloned().unwrap_or_default();
        let Name::Subject(name) = name else { return Err(Refusal::Unreadable) };
        Ok(Caller { name, roles })
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
        // Keys of another file belong to another issuer: without its own a mapping can't be.
        let whole = good || jwks == before.mapping.jwt.as_ref().map(|jwt| jwt.jwks.clone());
        let mapping = if whole { mapping } else { before.mapping.clone() };
        self.state.store(Arc::new(State { mapping, keys, jwks }));
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
    jwks::parse(bytes).map_err(|wrong| format!("{}: {wrong}", issuer.jwks.display()))
}
