//! What `/metrics` shows, for the collector: there is one account of what is counted, and it is
//! read for both. Every counter and gauge is there under its name (a counter's without `_total`,
//! as OpenTelemetry has it), with the same labels and, from the start, the same zeros. Histograms
//! can't be read back; whoever observes one does so for both.

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use opentelemetry::metrics::{AsyncInstrument, Meter};
use opentelemetry::{KeyValue, global};

/// How long one reading is good for: that of all instruments of a collection.
const FRESH: Duration = Duration::from_millis(500);
/// What was read in an earlier era is over, however fresh: at the end the last word counts.
static ERA: AtomicU64 = AtomicU64::new(0);
/// How often it is looked for families that were not there at the start.
const LOOK_EVERY: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
}

/// Series of one name.
#[derive(Debug, Clone, PartialEq)]
struct Found {
    name: String,
    kind: Kind,
    help: String,
    points: Vec<(Vec<KeyValue>, f64)>,
}

/// What is read, and when it last was.
struct Source<E> {
    encode: E,
    last: Mutex<Option<Reading>>,
}

struct Reading {
    at: Instant,
    era: u64,
    found: Arc<Vec<Found>>,
}

impl<E: Fn() -> Result<String, fmt::Error>> Source<E> {
    fn now(&self) -> Arc<Vec<Found>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let era = ERA.load(Ordering::Relaxed);
        match &*last {
            Some(last) if last.era == era && last.at.elapsed() < FRESH => last.found.clone(),
            _ => {
                let found = Arc::new((self.encode)().map(|text| read(&text)).unwrap_or_default());
                *last = Some(Reading { at: Instant::now(), era, found: found.clone() });
                found
            }
        }
    }

    fn observe(&self, name: &str, observer: &dyn AsyncInstrument<f64>) {
        for found in self.now().iter().filter(|found| found.name == name) {
            found.points.iter().for_each(|(labels, value)| observer.observe(*value, labels));
        }
    }
}

/// Sends what `encode` shows, in the OpenMetrics text format, with every export of metrics.
/// Nothing happens where none are exported.
pub fn export_metrics(encode: impl Fn() -> Result<String, fmt::Error> + Send + Sync + 'static) {
    let exported = super::EXPORTED.get().is_some_and(|exported| exported.metrics.is_some());
    if !exported {
        return;
    }
    let source = Arc::new(Source { encode, last: Mutex::default() });
    let mut known = HashSet::new();
    add(&source, &mut known);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            add(&source, &mut known);
        }
    });
}

/// What is exported from now on is read anew.
pub(super) fn look_again() {
    ERA.fetch_add(1, Ordering::Relaxed);
}

/// Makes an instrument of each name that has none yet.
fn add<E>(source: &Arc<Source<E>>, known: &mut HashSet<String>)
where
    E: Fn() -> Result<String, fmt::Error> + Send + Sync + 'static,
{
    let meter = global::meter("rater");
    for found in source.now().iter() {
        if known.insert(found.name.clone()) {
            instrument(&meter, found, source.clone());
        }
    }
}

fn instrument<E>(meter: &Meter, found: &Found, source: Arc<Source<E>>)
where
    E: Fn() -> Result<String, fmt::Error> + Send + Sync + 'static,
{
    let Found { name, kind, help, .. } = found.clone();
    let unit = if name.ends_with("_seconds") {
        "s"
    } else if name.ends_with("_bytes") {
        "By"
    } else {
        ""
    };
    // Names are the program's: they are right, and each is there once.
    match kind {
        Kind::Counter => {
            let instrument =
                meter.f64_observable_counter(name.clone()).with_description(help).with_unit(unit);
            instrument.with_callback(move |observer| source.observe(&name, observer)).build();
        }
        Kind::Gauge => {
            let instrument = meter.f64_observable_gauge(name.clone()).with_description(help).with_unit(unit);
            instrument.with_callback(move |observer| source.observe(&name, observer)).build();
        }
    }
}

/// The counters and gauges of an OpenMetrics text.
fn read(text: &str) -> Vec<Found> {
    let mut families: Vec<Found> = Vec::new();
    let mut help = "";
    for line in text.lines() {
        if let Some(said) = line.strip_prefix("# HELP ") {
            help = said.split_once(' ').map_or("", |(_, help)| help).trim_end_matches('.');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|said| said.split_once(' '))
        {
            let kind = match kind {
                "counter" => Kind::Counter,
                "gauge" => Kind::Gauge,
                _ => continue,
            };
            families.push(Found { name: name.into(), kind, help: help.into(), points: Vec::new() });
        } else if let Some(family) = families.last_mut() {
            family.points.extend(point(line, family));
        }
    }
    families
}

/// A line's labels and value, if it is one of this family's.
fn point(line: &str, family: &Found) -> Option<(Vec<KeyValue>, f64)> {
    let rest = line.strip_prefix(family.name.as_str())?;
    let rest = match family.kind {
        Kind::Counter => rest.strip_prefix("_total")?,
        Kind::Gauge => rest,
    };
    let (labels, value) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Vec::new(), rest),
    };
    Some((labels, value.strip_prefix(' ')?.split(' ').next()?.parse().ok()?))
}

/// What stands between the braces, and what comes after them.
fn labels(mut rest: &str) -> Option<(Vec<KeyValue>, &str)> {
    let mut labels = Vec::new();
    loop {
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, quoted) = rest.trim_start_matches(',').split_once("=\"")?;
        let mut value = String::new();
        let mut characters = quoted.char_indices();
        let end = loop {
            match characters.next()? {
                (at, '"') => break at,
                (_, '\\') => match characters.next()?.1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                (_, other) => value.push(other),
            }
        };
        labels.push(KeyValue::new(name.to_owned(), value));
        rest = &quoted[end + 1..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_page_shows_is_read_whole() {
        let text = "# HELP rater_runs Runs.\n# TYPE rater_runs counter\n\
            rater_runs_total{trigger=\"routine\",state=\"a \\\"b\\\" \\\\ \\n}\"} 3\nrater_runs_total 0\n\
            # HELP rater_took_seconds Took.\n# TYPE rater_took_seconds histogram\n# UNIT rater_took_seconds seconds\n\
            rater_took_seconds_sum 3.2\nrater_took_seconds_bucket{le=\"5.0\"} 1\n\
            # HELP rater_at_seconds At.\n# TYPE rater_at_seconds gauge\n# UNIT rater_at_seconds seconds\n\
            rater_at_seconds 1780000000\n# EOF\n";
        let found = read(text);
        let names: Vec<_> = found.iter().map(|found| (found.name.as_str(), found.kind)).collect();
        assert_eq!(names, [("rater_runs", Kind::Counter), ("rater_at_seconds", Kind::Gauge)]);
        let labels = vec![KeyValue::new("trigger", "routine"), KeyValue::new("state", "a \"b\" \\ \n}")];
        assert_eq!(found[0].points, [(labels, 3.0), (vec![], 0.0)]);
        assert_eq!((found[1].help.as_str(), &found[1].points[..]), ("At", &[(vec![], 1_780_000_000.0)][..]));
    }
}
