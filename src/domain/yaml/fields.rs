//! Nodes to checked fields: mappings with known keys, texts, integers.
//!
//! Each reader takes one node, reports what is wrong with it where it stands, and goes on:
//! `None` means "reported", so that one pass finds everything.

use super::diagnostic::{Path, Place, Report, Shown};
use super::{Entry, Kind, Node};

/// A value and the place that stands for it: its key's, or its own in a list.
#[derive(Clone, Copy)]
pub(crate) struct Slot<'n> {
    pub at: Place,
    pub node: &'n Node<'n>,
}

/// A mapping whose keys have been checked.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'n>(&'n [Entry<'n>]);

impl<'n> Fields<'n> {
    /// The value of a key; the first, where it is (refused as) given twice.
    pub fn get(&self, key: &str) -> Option<Slot<'n>> {
        self.0.iter().find(|entry| entry.key == key).map(slot)
    }
}

pub(crate) fn slot<'n>(entry: &'n Entry<'n>) -> Slot<'n> {
    Slot { at: entry.place, node: &entry.value }
}

/// What a node is, for messages.
pub(crate) fn described(node: &Node<'_>) -> &'static str {
    match &node.kind {
        Kind::Map(_) => "a mapping",
        Kind::List(_) => "a list",
        _ if node.is_null() => "nothing",
        Kind::Scalar { plain: true, .. } => "an unquoted text",
        Kind::Scalar { .. } => "a quoted text",
        Kind::Refused => "something refused",
    }
}

impl Report {
    /// A value of the wrong type, unless it was refused, and reported, already.
    pub fn bad_type(&mut self, node: &Node<'_>, path: &Path<'_>, wanted: &str) {
        if !matches!(node.kind, Kind::Refused) {
            let message = format_args!("expected {wanted}, found {}", described(node));
            self.error("bad_type", node.place, path, message);
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
            self.error("unknown_key", entry.place, &path.key(&entry.key), message);
        }
        Some(Fields(entries))
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
