//! Random pricebooks, as text: dated prices and premiums, rates that lie half-way between two
//! that can be billed, premiums that leave a residue. What the parser refuses is not drawn.

use std::fmt::{self, Write};

use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;
use proptest::sample::select;
use rater::domain::pricebook::{Pricebook, parse};

use super::script::slot_start;

/// Entries in order of their hour within the slot; the first may have none.
type Dated<T> = Vec<(Option<i64>, T)>;
type Terms = [&'static str; 3];

/// A pricebook whose times are relative to a slot.
#[derive(Clone)]
pub struct BookSpec {
    currency: &'static str,
    rate_scale: u32,
    per: u32,
    bases: Vec<(&'static str, Dated<Terms>)>,
    premium: Option<Dated<Premium>>,
    own: Option<Dated<Terms>>,
    derived_from: Option<&'static str>,
    /// Makes another digest of the same rates.
    floor: u32,
}

#[derive(Debug, Clone)]
enum Premium {
    Identity,
    Multiplier(&'static str),
    Markup(&'static str),
}

/// The books of a case, by their places: one, the same under another digest, another, and that
/// in another currency.
pub const ONE: usize = 0;
pub const AGAIN: usize = 1;
pub const OTHER: usize = 2;
pub const FOREIGN: usize = 3;

/// The books of a case.
pub fn books() -> impl Strategy<Value = Vec<BookSpec>> {
    (book(), book()).prop_map(|(one, other)| {
        let again = BookSpec { floor: 1, ..one.clone() };
        let foreign = BookSpec { currency: "EUR", ..other.clone() };
        vec![one, again, other, foreign]
    })
}

/// One model at one price.
pub fn plain() -> BookSpec {
    BookSpec {
        currency: "USD",
        rate_scale: 12,
        per: 1,
        bases: vec![("acme/large", vec![(None, ["0.000003", "0.0000003", "0.000015"])])],
        premium: None,
        own: None,
        derived_from: None,
        floor: 0,
    }
}

fn book() -> impl Strategy<Value = BookSpec> {
    let scale = prop_oneof![6 => Just(12u32), 1 => Just(9u32), 1 => Just(6u32)];
    let per = prop_oneof![6 => Just(1u32), 1 => Just(1_000u32), 1 => Just(1_000_000u32)];
    let main = dated(terms());
    let second = prop::option::weighted(0.9, dated(terms()));
    let third = prop::option::weighted(0.4, dated(terms()));
    let premium = prop::option::weighted(0.6, dated(premium()));
    let own = prop::option::weighted(0.7, dated(terms()));
    let derived_from = prop::option::weighted(0.7, Just("acme/large"));
    (scale, per, main, second, third, premium, own, derived_from).prop_filter_map(
        "a pricebook that the parser takes",
        |(rate_scale, per, main, second, third, premium, own, derived_from)| {
            let mut bases = vec![("acme/large", main)];
            bases.extend(second.map(|terms| ("mistral:7b|x", terms)));
            bases.extend(third.map(|terms| ("ACME/large", terms)));
            let currency = "USD";
            let spec = BookSpec { currency, rate_scale, per, bases, premium, own, derived_from, floor: 0 };
            parse(&spec.yaml(slot_start(0))).book.is_some().then_some(spec)
        },
    )
}

/// Mostly one entry from the beginning.
fn dated<T: std::fmt::Debug + Clone + 'static>(
    value: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<Dated<T>> {
    let starts = prop::collection::btree_set(select(vec![9i64, 10, 11, 12, 24, 34]), 0..3);
    let undated = prop::bool::weighted(0.85);
    (undated, starts, prop::collection::vec(value, 3))
        .prop_map(|(undated, starts, values)| {
            let undated = undated || starts.is_empty();
            let starts = undated.then_some(None).into_iter().chain(starts.into_iter().map(Some));
            starts.zip(values).collect()
        })
        .boxed()
}

fn terms() -> impl Strategy<Value = Terms> {
    let rate = select(vec![
        "0.000003",
        "0.0000002",
        "0.5",
        // Half-way at scale 12, from below and from above an even digit.
        "0.0000000000025",
        "0.0000000000015",
        "0.0000125",
        "12.3456789012345",
        "999.0000005",
        "0",
    ]);
    prop::array::uniform3(rate)
}

fn premium() -> impl Strategy<Value = Premium> {
    prop_oneof![
        1 => Just(Premium::Identity),
        3 => select(vec!["1.5", "1", "0.3333333333", "2.0000001"]).prop_map(Premium::Multiplier),
        2 => select(vec!["0.0000001", "0.0000000000005", "0"]).prop_map(Premium::Markup),
    ]
}

impl BookSpec {
    /// The book of a case whose slot starts then.
    pub fn book(&self, start: DateTime<Utc>) -> Pricebook {
        let yaml = self.yaml(start);
        parse(&yaml).book.unwrap_or_else(|| panic!("{:?}\n{yaml}", parse(&yaml).diagnostics))
    }

    pub fn yaml(&self, start: DateTime<Utc>) -> String {
        let Self { currency, rate_scale, per, floor, .. } = self;
        let mut yaml = format!(
            "version: 1\ncurrency: {currency}\nrate_scale: {rate_scale}\nper: {per}\n\
             gpu_floor_rates: {{x: \"{floor}\"}}\nbase_models:\n"
        );
        let terms = |[prompt, cached, completion]: &Terms| {
            format!("prompt: \"{prompt}\", cached: \"{cached}\", completion: \"{completion}\"")
        };
        for (name, entries) in &self.bases {
            writeln!(yaml, "  \"{name}\": {}", list(start, entries, terms)).unwrap();
        }
        if let Some(premium) = &self.premium {
            let premium = list(start, premium, |premium| match premium {
                Premium::Identity => "policy: identity".to_owned(),
                Premium::Multiplier(factor) => format!("policy: multiplier, factor: \"{factor}\""),
                Premium::Markup(markup) => format!("policy: markup, markup: \"{markup}\""),
            });
            writeln!(yaml, "fine_tune_premium: {premium}").unwrap();
        }
        yaml.push_str("fine_tunes:\n  \"ft:named\": {derived_from: \"acme/large\"}\n");
        if let Some(own) = &self.own {
            writeln!(yaml, "  \"ft:own\": {{rate: {}}}", list(start, own, terms)).unwrap();
        }
        if let Some(base) = self.derived_from {
            writeln!(yaml, "  \"ft:derived\": {{derived_from: \"{base}\"}}").unwrap();
        }
        yaml
    }
}

impl fmt::Debug for BookSpec {
    /// As it is written, in the first slot.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.yaml(slot_start(0)))
    }
}

fn list<T>(start: DateTime<Utc>, entries: &Dated<T>, fields: impl Fn(&T) -> String) -> String {
    let entry = |(hour, value): &(Option<i64>, T)| {
        let from = hour.map_or_else(String::new, |hour| {
            let from = start + TimeDelta::hours(hour);
            format!("effective_from: {}, ", from.format("%Y-%m-%dT%H:%M:%SZ"))
        });
        format!("{{{from}{}}}", fields(value))
    };
    format!("[{}]", entries.iter().map(entry).collect::<Vec<_>>().join(", "))
}
