//! Nodes to checked fields: mappings with known keys, texts, integers, ids.
//!
//! Each reader takes one node, reports what is wrong with it where it stands, and goes on:
//! `None` means "reported", so that one pass finds everything.

use super::diagnostic::{Path, Place, Report, Shown};
use super::yaml::{Entry, Kind, Node};

/// The longest id, in characters: what `billing_event.model` and `rated_usage.model_id` hold.
const MAX_ID: usize = 255;

/// One pass over a document: where findings go, and the two numbers that every rate needs.
/// They are `None` when the pricebook got them wrong; what depends on them is not checked
/// then, so that one mistake is not reported a thousand times.
pub(super) struct Check<'r> {
    pub report: &'r mut Report,
    pub per: Option<u32>,
    pub rate_scale: Option<u32>,
}

/// A value and the place that stands for it: its key's, or its own in a list.
#[derive(Clone, Copy)]
pub(super) struct Slot<'n> {
    pub at: Place,
    pub node: &'n Node<'n>,
}

/// A mapping whose keys have been checked.
#[derive(Clone, Copy)]
pub(super) struct Fields<'n>(&'n [Entry<'n>]);

impl<'n> Fields<'n> {
    /// The value of a key; the first, where it is (refused as) given twice.
    pub fn get(&self, key: &str) -> Option<Slot<'n>> {
        self.0.iter().find(|entry| entry.key == key).map(slot)
    }
}

fn slot<'n>(entry: &'n Entry<'n>) -> Slot<'n> {
    Slot { at: entry.place, node: &entry.value }
}

/// What a node is, for messages.
pub(super) fn described(node: &Node<'_>) -> &'static str {
    match &node.kind {
        Kind::Map(_) => "a mapping",
        Kind::List(_) => "a list",
        _ if node.is_null() => "nothing",
        Kind::Scalar { plain: true, .. } => "an unquoted text",
        Kind::Scalar { .. } => "a quoted text",
        Kind::Refused => "something refused",
    }
}

impl Check<'_> {
    /// A value of the wrong type, unless it was refused, and reported, already.
    pub fn bad_type(&mut self, node: &Node<'_>, path: &Path<'_>, wanted: &str) {
        if !matches!(node.kind, Kind::Refused) {
            let message = format_args!("expected {wanted}, found {}", described(node));
            self.report.error("bad_type", node.place, path, message);
        }
    }

    /// A mapping with none but the `known` keys.
    pub fn fields<'n>(
        &mut self,
        node: &'n Node<'n>,
        path: &Path<'_>,
        wanted: &str,
        known: &[&str],
    ) -> Option<Fields<'n>> {
        let Kind::Map(entries) = &node.kind else {
            self.bad_type(node, path, wanted);
            return None;
        };
        for entry in entries.iter().filter(|entry| !known.contains(&entry.key.as_ref())) {
            let message = format_args!("unknown key {}; known here: {}", Shown(&entry.key), known.join(", "));
            self.report.error("unknown_key", entry.place, &path.key(&entry.key), message);
        }
        Some(Fields(entries))
    }

    /// A mapping keyed by ids, each checked.
    pub fn by_id<'n>(
        &mut self,
        node: &'n Node<'n>,
        path: &Path<'_>,
        wanted: &str,
    ) -> Vec<(&'n str, Slot<'n>)> {
        let Kind::Map(entries) = &node.kind else {
            self.bad_type(node, path, wanted);
            return Vec::new();
        };
        for entry in entries {
            self.id(&entry.key, entry.place, &path.key(&entry.key));
        }
        entries.iter().map(|entry| (entry.key.as_ref(), slot(entry))).collect()
    }

    fn id(&mut self, id: &str, at: Place, path: &Path<'_>) {
        if id.is_empty() {
            self.report.error("empty_id", at, path, "an id is empty; no event can carry it");
        }
        let length = id.chars().count();
        if length > MAX_ID {
            let message = format_args!("an id of {length} characters; at most {MAX_ID} are kept");
            self.report.error("id_too_long", at, path, message);
        }
        if id.contains('\0') {
            let message = "an id contains NUL, which the database can't hold";
            self.report.error("nul_in_id", at, path, message);
        }
    }

    /// A text, quoted or not.
    pub fn text<'n>(&mut self, node: &'n Node<'n>, path: &Path<'_>, wanted: &str) -> Option<&'n str> {
        match &node.kind {
            Kind::Scalar { text, .. } if !node.is_null() => Some(text),
            _ => {
                self.bad_type(node, path, wanted);
                None
            }
        }
    }

    /// An unquoted, undecorated integer; `u64::MAX` stands for every larger one.
    pub fn integer(&mut self, node: &Node<'_>, path: &Path<'_>) -> Option<u64> {
        match &node.kind {
            // No sign, no leading zero: `010` means 8 to one reader and 10 to the next.
            Kind::Scalar { text, plain: true }
                if text.bytes().all(|b| b.is_ascii_digit())
                    && !text.is_empty()
                    && (text == "0" || !text.starts_with('0')) =>
            {
                Some(text.parse().unwrap_or(u64::MAX))
            }
            _ => {
                self.bad_type(node, path, "a plain integer, such as 1");
                None
            }
        }
    }
}
