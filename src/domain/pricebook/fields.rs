//! What every part of a pricebook is checked with, and mappings keyed by ids.

use crate::domain::yaml::diagnostic::{Path, Place, Report};
use crate::domain::yaml::fields::{Slot, slot};
use crate::domain::yaml::{Kind, Node};

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

impl Check<'_> {
    /// A mapping keyed by ids, each checked.
    pub fn by_id<'n>(
        &mut self,
        node: &'n Node<'n>,
        path: &Path<'_>,
        wanted: &str,
    ) -> Vec<(&'n str, Slot<'n>)> {
        let Kind::Map(entries) = &node.kind else {
            self.report.bad_type(node, path, wanted);
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
}
