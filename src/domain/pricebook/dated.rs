//! Values that change over time: a mapping, or a list of them with `effective_from`.
//!
//! Refuses empty lists, times that are not on a UTC hour (a rollup has one rate, R14), times
//! out of order, and an undated entry that is not the first.

use chrono::{DateTime, Datelike, Utc};

use super::book::{Start, Timeline};
use super::fields::Check;
use crate::domain::yaml::diagnostic::{Path, Place, Shown};
use crate::domain::yaml::fields::Slot;
use crate::domain::yaml::{Kind, Node};

/// The key that dates an entry. Every entry may have it beside its own keys.
pub(super) const EFFECTIVE_FROM: &str = "effective_from";

/// A timeline, and the place of each of its entries.
pub(super) type Placed<T> = (Timeline<T>, Vec<Place>);

impl Check<'_> {
    /// Reads a timeline; `read` reads one entry's own keys.
    pub fn timeline<T>(
        &mut self,
        slot: Slot<'_>,
        path: &Path<'_>,
        wanted: &str,
        read: fn(&mut Self, Slot<'_>, &Path<'_>) -> Option<T>,
    ) -> Option<Placed<T>> {
        let items = match &slot.node.kind {
            Kind::List(items) => items,
            _ => {
                // A mapping is the list of its one entry.
                let start = self.start(slot.node, path, None, true)?;
                let value = read(self, slot, path)?;
                return Some((Timeline::new(vec![(start, value)])?, vec![slot.at]));
            }
        };
        if items.is_empty() {
            let message = format_args!("the list is empty; write {wanted}, or leave it out");
            self.report.error("empty_list", slot.node.place, path, message);
            return None;
        }
        // Each entry is checked even where one before it was wrong.
        let (mut entries, mut places, mut last) = (Vec::new(), Vec::new(), None);
        for (index, node) in items.iter().enumerate() {
            let path = path.index(index);
            if !matches!(node.kind, Kind::Map(_)) {
                self.report.bad_type(node, &path, wanted);
                continue;
            }
            let start = self.start(node, &path, last, index == 0);
            last = start.flatten().or(last);
            let value = read(self, Slot { at: node.place, node }, &path);
            if let (Some(start), Some(value)) = (start, value) {
                entries.push((start, value));
                places.push(node.place);
            }
        }
        if entries.len() < items.len() {
            return None;
        }
        let timeline = Timeline::new(entries);
        debug_assert!(timeline.is_some(), "what is out of order has been reported");
        Some((timeline?, places))
    }

    /// When an entry starts; `None` is "reported", and an inner `None` is the beginning.
    fn start(&mut self, entry: &Node<'_>, path: &Path<'_>, last: Start, first: bool) -> Option<Start> {
        let Kind::Map(fields) = &entry.kind else { return Some(None) };
        let path = &path.key(EFFECTIVE_FROM);
        let Some(field) = fields.iter().find(|field| field.key == EFFECTIVE_FROM) else {
            if first {
                return Some(None);
            }
            let message = "only the first entry can do without effective_from; say when this one starts";
            self.report.error("missing_effective_from", entry.place, path, message);
            return None;
        };
        let text = self.report.text(&field.value, path, "a time, such as 2026-07-01T00:00:00Z")?;
        let at = field.value.place;
        let Some(time) = rfc3339(text) else {
            let message =
                format_args!("{} is not a time; write one such as 2026-07-01T00:00:00Z", Shown(text));
            self.report.error("bad_time", at, path, message);
            return None;
        };
        if time.timestamp().rem_euclid(3600) != 0 || time.timestamp_subsec_nanos() != 0 {
            let message = format_args!("{} is not on a UTC hour; rates change on the hour", Shown(text));
            self.report.error("time_not_on_hour", at, path, message);
            return None;
        }
        if last.is_some_and(|last| last >= time) {
            let message = "this entry does not start after the one before it; sort the list by time";
            self.report.error("times_not_in_order", at, path, message);
            return None;
        }
        Some(Some(time))
    }
}

/// RFC 3339 alone (chrono also takes a blank for the `T`, and a minus sign beyond ASCII), in
/// the years that the wire's timestamps can carry.
fn rfc3339(text: &str) -> Option<DateTime<Utc>> {
    let strict = text.is_ascii() && matches!(text.as_bytes().get(10), Some(b'T' | b't'));
    let time = strict.then(|| DateTime::parse_from_rfc3339(text).ok()).flatten()?.to_utc();
    (1..=9999).contains(&time.year()).then_some(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_alone() {
        for good in ["2026-07-01T00:00:00Z", "2026-07-01t00:00:00z", "2026-07-01T05:30:00.000+05:30"] {
            assert_eq!(rfc3339(good).map(|t| t.to_rfc3339()).as_deref(), Some("2026-07-01T00:00:00+00:00"));
        }
        for bad in [
            "",
            "2026-07-01",
            "2026-07-01T00:00Z",
            "2026-07-01T00:00:00",
            "2026-07-01 00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-07-01T24:00:00Z",
            "2026-07-01T00:00:00\u{2212}01:00",
            "0000-01-01T00:00:00Z",
            "9999-12-31T23:00:00-01:00",
            "+12026-07-01T00:00:00Z",
        ] {
            assert_eq!(rfc3339(bad), None, "{bad:?}");
        }
    }
}
