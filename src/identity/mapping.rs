//! The operator's file: whose tokens count, and which roles each name has. Checked whole, all
//! that is wrong at once, each with its place. Names are exact, and one name is one caller.

use std::collections::HashMap;
use std::path::{Path as FilePath, PathBuf};

use crate::domain::yaml::diagnostic::{Diagnostic, Path, Place, Report, Shown};
use crate::domain::yaml::fields::{Fields, Slot};
use crate::domain::yaml::{self, Kind, Node, Words};
use crate::service::caller::Role;

const WORDS: Words = Words { noun: "file of identities", least: "version and callers", depth: 4 };
/// The only version of the format there is.
const VERSION: u64 = 1;
/// The longest name, in characters: it is stored with each run.
const MAX_NAME: usize = 255;

const WANTED: &str = "identities: a mapping with version and callers";
const WANTED_CALLER: &str = "a caller, such as {uri: \"spiffe://prod/ns/billing/sa/proxy\", roles: [ingest]}";
const WANTED_JWT: &str = "{issuer: \"https://issuer.example\", audience: \"rater\", jwks: jwks.json}";
/// The kinds of names.
const URI: &str = "uri";
const DNS: &str = "dns";
const SUBJECT: &str = "subject";

/// Whose tokens count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Issuer {
    pub issuer: String,
    pub audience: String,
    /// The file of its keys.
    pub jwks: PathBuf,
}

/// A name of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Name {
    Uri(String),
    Dns(String),
    Subject(String),
}

/// What the file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Mapping {
    pub jwt: Option<Issuer>,
    pub callers: HashMap<Name, Vec<Role>>,
}

impl Mapping {
    /// Reads the file's text; paths in it are relative to `folder`. Else everything that is wrong.
    pub fn parse(text: &str, folder: &FilePath) -> Result<Mapping, Vec<Diagnostic>> {
        let mut report = Report::default();
        let mapping = yaml::read(text, &WORDS, &mut report)
            .and_then(|root| Check { report: &mut report, folder }.root(&root));
        match mapping {
            Some(mapping) if !report.has_errors() => Ok(mapping),
            _ => Err(report.finish()),
        }
    }

    /// Whether any caller is known by a certificate.
    pub fn has_certificates(&self) -> bool {
        self.callers.keys().any(|name| !matches!(name, Name::Subject(_)))
    }
}

struct Check<'r> {
    report: &'r mut Report,
    folder: &'r FilePath,
}

impl Check<'_> {
    fn root(&mut self, root: &Node<'_>) -> Option<Mapping> {
        let path = Path::Root;
        let fields = self.report.fields(root, &path, WANTED, &["version", "jwt", "callers"])?;
        self.version(fields, root.place);
        let jwt = fields.get("jwt");
        let issuer = jwt.and_then(|slot| self.issuer(slot, &path.key("jwt")));
        let Some(callers) = fields.get("callers") else {
            let message = "callers are missing; without one nobody may call";
            self.report.error("missing_callers", root.place, &path, message);
            return None;
        };
        let callers = self.callers(callers, &path.key("callers"), jwt.is_some())?;
        Some(Mapping { jwt: issuer, callers })
    }

    fn version(&mut self, fields: Fields<'_>, root: Place) {
        let path = Path::Root.key("version");
        let Some(version) = fields.get("version") else {
            let message = format_args!("the version is missing; write version: {VERSION}");
            return self.report.error("missing_version", root, &path, message);
        };
        if self.report.integer(version.node, &path).is_some_and(|version| version != VERSION) {
            let message = format_args!("an unknown version of the format; write version: {VERSION}");
            self.report.error("unknown_version", version.node.place, &path, message);
        }
    }

    fn issuer(&mut self, slot: Slot<'_>, path: &Path<'_>) -> Option<Issuer> {
        let keys = ["issuer", "audience", "jwks"];
        let fields = self.report.fields(slot.node, path, WANTED_JWT, &keys)?;
        let [issuer, audience, jwks] = keys.map(|key| match fields.get(key) {
            Some(value) => self.name(value.node, &path.key(key)),
            None => {
                let message = format_args!("{key} is missing; write {WANTED_JWT}");
                self.report.error("missing_key", slot.at, &path.key(key), message);
                None
            }
        });
        Some(Issuer { issuer: issuer?, audience: audience?, jwks: self.folder.join(jwks?) })
    }

    fn callers(
        &mut self,
        slot: Slot<'_>,
        path: &Path<'_>,
        with_jwt: bool,
    ) -> Option<HashMap<Name, Vec<Role>>> {
        let Kind::List(items) = &slot.node.kind else {
            self.report.bad_type(slot.node, path, "a list of callers");
            return None;
        };
        if items.is_empty() {
            self.report.error("missing_callers", slot.at, path, "no callers; without one nobody may call");
        }
        let mut callers = HashMap::new();
        // Across the kinds: a caller's name is also what runs and request ids are kept by.
        let mut seen: HashMap<String, u32> = HashMap::new();
        for (n, item) in items.iter().enumerate() {
            let path = path.index(n);
            let Some(fields) = self.report.fields(item, &path, WANTED_CALLER, &[URI, DNS, SUBJECT, "roles"])
            else {
                continue;
            };
            let roles = self.roles(fields, item.place, &path);
            let Some((name, text)) = self.caller(fields, item.place, &path, with_jwt) else { continue };
            if let Some(line) = seen.get(&text) {
                let message =
                    format_args!("{} is a caller in line {line} already; keep one of them", Shown(&text));
                self.report.error("duplicate_caller", item.place, &path, message);
            }
            seen.entry(text).or_insert(item.place.line);
            callers.insert(name, roles);
        }
        Some(callers)
    }

    /// The one name of a caller.
    fn caller(
        &mut self,
        fields: Fields<'_>,
        at: Place,
        path: &Path<'_>,
        with_jwt: bool,
    ) -> Option<(Name, String)> {
        let given: Vec<_> =
            [URI, DNS, SUBJECT].into_iter().filter_map(|kind| Some((kind, fields.get(kind)?))).collect();
        let [(kind, slot)] = given[..] else {
            let message = "a caller has one name: a uri, a dns or a subject";
            self.report.error("caller_name", at, path, message);
            return None;
        };
        let text = self.name(slot.node, &path.key(kind))?;
        if kind == SUBJECT && !with_jwt {
            let message = "a subject is known by a token, and no token counts without jwt";
            self.report.error("missing_jwt", slot.at, &path.key(kind), message);
        }
        let name = match kind {
            URI => Name::Uri(text.clone()),
            DNS => Name::Dns(text.clone()),
            _ => Name::Subject(text.clone()),
        };
        Some((name, text))
    }

    fn roles(&mut self, fields: Fields<'_>, at: Place, path: &Path<'_>) -> Vec<Role> {
        let path = path.key("roles");
        let known = Role::ALL.map(Role::as_str).join(", ");
        let Some(slot) = fields.get("roles") else {
            let message = format_args!("roles are missing; write some of {known}");
            self.report.error("missing_roles", at, &path, message);
            return Vec::new();
        };
        let Kind::List(items) = &slot.node.kind else {
            self.report.bad_type(slot.node, &path, "a list of roles, such as [reader]");
            return Vec::new();
        };
        if items.is_empty() {
            let message = format_args!("no roles; write some of {known}, or take the caller away");
            self.report.error("missing_roles", slot.at, &path, message);
        }
        let mut roles = Vec::new();
        for (n, item) in items.iter().enumerate() {
            let path = path.index(n);
            let Some(text) = self.report.text(item, &path, "a role, such as reader") else { continue };
            match Role::ALL.into_iter().find(|role| role.as_str() == text) {
                None => {
                    let message = format_args!("{} is no role; known: {known}", Shown(text));
                    self.report.error("unknown_role", item.place, &path, message);
                }
                Some(role) if roles.contains(&role) => {
                    let message = format_args!("{text} is given twice; keep one of them");
                    self.report.error("duplicate_role", item.place, &path, message);
                }
                Some(role) => roles.push(role),
            }
        }
        roles
    }

    /// A text that can be a name: something, of one line, as it is compared.
    fn name(&mut self, node: &Node<'_>, path: &Path<'_>) -> Option<String> {
        let text = self.report.text(node, path, "a text")?;
        let wrong = if text.is_empty() {
            "it is empty"
        } else if text.chars().count() > MAX_NAME {
            "it is longer than 255 characters"
        } else if text.chars().any(char::is_control) {
            "it holds a control character"
        } else if text.trim() != text {
            "it begins or ends with a blank"
        } else {
            return Some(text.to_owned());
        };
        self.report.error("bad_name", node.place, path, format_args!("{} can't be: {wrong}", Shown(text)));
        None
    }
}

#[cfg(test)]
#[path = "mapping_tests.rs"]
mod tests;
