//! What could not be billed with certainty (R3), as the state of each hour.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};

use super::Event;

/// The most base models that an anomaly names.
pub const MAX_BASE_MODELS: usize = 10;

/// Why an event was not billed: the first that applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AnomalyKind {
    /// Nobody to bill, or nothing to price by.
    Unattributable,
    /// A token count is negative or missing.
    Malformed,
    /// No rate resolves.
    Unpriced,
    /// Its rollup resolves through more than one base model.
    AmbiguousBase,
}

impl AnomalyKind {
    /// Every kind, with its name in the table.
    const NAMES: [(AnomalyKind, &'static str); 4] = [
        (AnomalyKind::Unattributable, "unattributable"),
        (AnomalyKind::Malformed, "malformed"),
        (AnomalyKind::Unpriced, "unpriced"),
        (AnomalyKind::AmbiguousBase, "ambiguous_base"),
    ];

    /// As the table has it.
    pub fn as_str(self) -> &'static str {
        Self::NAMES.iter().find(|(kind, _)| *kind == self).map_or("malformed", |(_, name)| name)
    }

    /// From the table, whose CHECK knows the same names.
    pub fn parse(name: &str) -> AnomalyKind {
        Self::NAMES.iter().find(|(_, n)| *n == name).map_or(AnomalyKind::Malformed, |(kind, _)| *kind)
    }
}

/// What anomalies are gathered by. An id that the events had none of is empty.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AnomalyKey {
    /// The UTC hour.
    pub window_start: DateTime<Utc>,
    /// Why.
    pub kind: AnomalyKind,
    /// Who would have been billed.
    pub auth_id: String,
    /// What it ran on.
    pub resource_id: String,
    /// The price key.
    pub model_id: String,
}

/// Events that were not billed, for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Anomaly {
    /// The base models that came with them, in order of their bytes: the first
    /// [`MAX_BASE_MODELS`].
    pub base_models: Vec<String>,
    /// How many they are.
    pub events: i64,
    /// Their prompt tokens; a missing count counts as nothing, here and below.
    pub prompt_tokens: i64,
    /// Their cached tokens.
    pub cached_tokens: i64,
    /// Their completion tokens.
    pub completion_tokens: i64,
    /// The first of their request ids, in order of their bytes.
    pub sample_request_id: String,
}

impl Anomaly {
    /// Describes events, at least one.
    pub(super) fn of(events: &[&Event]) -> Anomaly {
        let sum = |tokens: fn(&Event) -> Option<i32>| -> i64 {
            events.iter().filter_map(|event| tokens(event)).map(i64::from).sum()
        };
        let bases = events.iter().filter_map(|event| event.base_model.as_deref());
        let bases: BTreeSet<&str> = bases.filter(|base| !base.is_empty()).collect();
        let first = events.iter().map(|event| event.request_id.as_str()).min();
        Anomaly {
            base_models: bases.into_iter().take(MAX_BASE_MODELS).map(str::to_owned).collect(),
            events: events.len() as i64,
            prompt_tokens: sum(|event| event.prompt_tokens),
            cached_tokens: sum(|event| event.cached_tokens),
            completion_tokens: sum(|event| event.completion_tokens),
            sample_request_id: first.unwrap_or_default().to_owned(),
        }
    }
}
