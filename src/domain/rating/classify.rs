//! From events to rollups: what can be billed with certainty is added up (R2), the rest is
//! withheld and counted under the first kind that applies (R3).

use std::collections::{BTreeMap, BTreeSet};

use super::anomaly::{Anomaly, AnomalyKey, AnomalyKind};
use super::{Event, RollupKey, STANDARD, hour_of};
use crate::domain::pricebook::{Pricebook, Rates};

/// A window's events, each in one of the two.
pub(super) struct Classified {
    pub produced: BTreeMap<RollupKey, Produced>,
    pub anomalies: BTreeMap<AnomalyKey, Anomaly>,
}

/// A rollup as its events and the pricebook make it.
pub(super) struct Produced {
    pub prompt_tokens: i64,
    pub cached_tokens: i64,
    pub completion_tokens: i64,
    pub billable_prompt_tokens: i64,
    pub event_count: i64,
    pub clamped_events: i64,
    /// The same for all of its events: one model, one hour, and one base model at most.
    pub rates: Rates,
}

/// An event that a rate resolves for.
struct Priced<'e> {
    event: &'e Event,
    usage: Usage,
    rates: Rates,
    /// The base model, where it was the event that named it.
    via_base: Option<String>,
}

/// Token counts that are all there and not negative.
#[derive(Clone, Copy)]
struct Usage {
    prompt: i64,
    cached: i64,
    completion: i64,
}

pub(super) fn classify(book: &Pricebook, events: &[&Event]) -> Classified {
    let mut priced: BTreeMap<RollupKey, Vec<Priced<'_>>> = BTreeMap::new();
    let mut withheld: BTreeMap<AnomalyKey, Vec<&Event>> = BTreeMap::new();
    for event in events {
        match judge(book, event) {
            Ok((key, one)) => priced.entry(key).or_default().push(one),
            Err(kind) => withheld.entry(anomaly_key(kind, event)).or_default().push(event),
        }
    }
    let mut produced = BTreeMap::new();
    for (key, events) in priced {
        let bases: BTreeSet<&str> = events.iter().filter_map(|one| one.via_base.as_deref()).collect();
        if bases.len() > 1 {
            // The whole rollup, never only its dearer or cheaper part.
            for one in &events {
                let key = anomaly_key(AnomalyKind::AmbiguousBase, one.event);
                withheld.entry(key).or_default().push(one.event);
            }
        } else if let Some(first) = events.first() {
            produced.insert(key, add_up(&events, first.rates));
        }
    }
    let anomalies = withheld.into_iter().map(|(key, events)| (key, Anomaly::of(&events))).collect();
    Classified { produced, anomalies }
}

/// R3, first that applies; the ambiguous need the rest of their rollup.
fn judge<'e>(book: &Pricebook, event: &'e Event) -> Result<(RollupKey, Priced<'e>), AnomalyKind> {
    let key = rollup_key(event).ok_or(AnomalyKind::Unattributable)?;
    let usage = usage(event).ok_or(AnomalyKind::Malformed)?;
    let base = present(&event.base_model);
    let resolved = book.resolve(&key.model_id, base, key.window_start).ok_or(AnomalyKind::Unpriced)?;
    let via_base = resolved.derived_from.filter(|_| resolved.via_event_base);
    Ok((key, Priced { event, usage, rates: resolved.rates, via_base }))
}

/// R2: the clamp is each event's own, so it can't be taken of the sums.
fn add_up(events: &[Priced<'_>], rates: Rates) -> Produced {
    let sum = |of: fn(Usage) -> i64| -> i64 { events.iter().map(|one| of(one.usage)).sum() };
    Produced {
        prompt_tokens: sum(|usage| usage.prompt),
        cached_tokens: sum(|usage| usage.cached),
        completion_tokens: sum(|usage| usage.completion),
        billable_prompt_tokens: sum(|usage| (usage.prompt - usage.cached).max(0)),
        event_count: events.len() as i64,
        clamped_events: sum(|usage| i64::from(usage.cached > usage.prompt)),
        rates,
    }
}

/// Others may have stored an empty string where there is nothing.
fn present(id: &Option<String>) -> Option<&str> {
    id.as_deref().filter(|id| !id.is_empty())
}

fn rollup_key(event: &Event) -> Option<RollupKey> {
    Some(RollupKey {
        window_start: hour_of(event.at),
        auth_id: present(&event.auth_id)?.to_owned(),
        resource_id: present(&event.resource_id)?.to_owned(),
        model_id: present(&event.model)?.to_owned(),
        price_class: STANDARD.to_owned(),
    })
}

fn usage(event: &Event) -> Option<Usage> {
    let count = |tokens: Option<i32>| tokens.filter(|tokens| *tokens >= 0).map(i64::from);
    Some(Usage {
        prompt: count(event.prompt_tokens)?,
        cached: count(event.cached_tokens)?,
        completion: count(event.completion_tokens)?,
    })
}

fn anomaly_key(kind: AnomalyKind, event: &Event) -> AnomalyKey {
    let id = |id: &Option<String>| id.clone().unwrap_or_default();
    AnomalyKey {
        window_start: hour_of(event.at),
        kind,
        auth_id: id(&event.auth_id),
        resource_id: id(&event.resource_id),
        model_id: id(&event.model),
    }
}
