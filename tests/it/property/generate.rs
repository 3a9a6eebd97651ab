//! Random cases. Pools of ids are small, so that events meet in rollups and runs meet rollups;
//! what is rare in life (a hostile id, a missing count, an hour's last microsecond) is not here.

use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::strategy::Union;

use super::books::{AGAIN, FOREIGN, ONE, OTHER, books};
use super::script::{Adopted, Case, EventSpec, Flaw, Mode, RunSpec, Step};

pub fn case() -> impl Strategy<Value = Case> {
    (books(), step(3..24), prop::collection::vec(step(0..5), 0..4))
        .prop_map(|(books, first, more)| Case { books, steps: std::iter::once(first).chain(more).collect() })
}

fn step(events: std::ops::Range<usize>) -> impl Strategy<Value = Step> {
    let index = any::<Index>;
    (
        prop::collection::vec(event(), events),
        prop::collection::vec(index(), 0..3),
        prop::collection::vec(index(), 0..2),
        prop::collection::vec(index(), 0..2),
        prop::collection::vec((index(), 0usize..3), 0..2),
        prop::collection::vec((index(), event()), 0..3),
        mostly_empty(adopted()),
        mostly_empty((index(), flaw())),
        (run(), crowd()),
    )
        .prop_map(|(mut add, remove, rename, echo, nudge, alter, adopt, tamper, (run, crowd))| {
            add.extend(crowd);
            Step { add, remove, rename, echo, nudge, alter, adopt, tamper, run }
        })
}

fn mostly_empty<T: std::fmt::Debug + Clone + 'static>(
    value: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<Vec<T>> {
    let some = prop::collection::vec(value, 1..4);
    prop_oneof![1 => Just(Vec::new()), 1 => some].boxed()
}

fn run() -> impl Strategy<Value = RunSpec> {
    let mode = weighted(&[(4, Mode::Routine), (4, Mode::Backfill), (2, Mode::FrozenBackfill)]);
    let hours = weighted(&[(6, 3), (3, 1), (3, 2), (3, 5), (2, 24), (2, 29)]);
    let chunk = weighted(&[(6, 24), (4, 5), (1, 1)]);
    let zone = select(vec![
        "UTC",
        "Asia/Kolkata",
        "Australia/Lord_Howe",
        "America/St_Johns",
        "Asia/Kathmandu",
        "Pacific/Apia",
    ]);
    let from = weighted(&[(8, 10), (1, 9), (2, 11), (1, 12)]);
    let book = weighted(&[(8, ONE), (4, AGAIN), (8, OTHER), (1, FOREIGN)]);
    (book, mode, from, hours, chunk, zone).prop_map(|(book, mode, from, hours, chunk_hours, time_zone)| {
        RunSpec { book, mode, from, hours, chunk_hours, time_zone }
    })
}

/// Weights are small: every hour with a malformed event is read another way, and hours without
/// one must stay common.
fn event() -> impl Strategy<Value = EventSpec> {
    let micros = prop_oneof![
        6 => 0i64..3_600_000_000,
        1 => Just(0i64),
        1 => Just(3_599_999_999i64),
    ];
    let time = (hour(), micros, prop::bool::weighted(0.2));
    (auth(), resource(), model(), base_model(), tokens(), time).prop_map(
        |(auth_id, resource_id, model, base_model, tokens, (hour, micros, untimed))| EventSpec {
            auth_id,
            resource_id,
            model,
            base_model,
            tokens,
            hour,
            micros,
            untimed,
        },
    )
}

/// Now and then, more base models on one rollup's events than an anomaly names.
fn crowd() -> impl Strategy<Value = Vec<EventSpec>> {
    const BASES: [&str; 12] = ["g0", "g1", "g2", "g3", "g4", "g5", "G6", "g10", "é7", "_8", "g 9", "G0"];
    (event(), prop::bool::weighted(0.04)).prop_map(|(event, crowded)| {
        let model = Some("ft:crowd");
        let one = |base| EventSpec { base_model: Some(base), model, ..event.clone() };
        BASES.into_iter().filter(|_| crowded).map(one).collect()
    })
}

fn hour() -> impl Strategy<Value = i64> {
    weighted(&[
        (20, 10),
        (8, 11),
        (3, 12),
        (2, 9),
        (1, 13),
        (1, 14),
        (1, 15),
        (1, 24),
        (1, 33),
        (1, 34),
        (1, 38),
    ])
}

/// Ids that a careless key runs together, and pairs that only a careful one keeps apart.
fn auth() -> impl Strategy<Value = Option<&'static str>> {
    weighted(&[
        (50, Some("a")),
        (3, Some("A")),
        (1, Some("a|1:b")),
        (1, Some("é")),
        (1, Some("e\u{301}")),
        (1, Some("o'brien\"\\")),
        (1, Some("日本語")),
        (1, Some(" ")),
        (1, Some("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\u{1f600}")),
        (1, Some("")),
        (1, None),
    ])
}

fn resource() -> impl Strategy<Value = Option<&'static str>> {
    weighted(&[
        (50, Some("r")),
        (2, Some("R")),
        (1, Some("1:b|r")),
        (1, Some("r ")),
        (1, Some("$1; --")),
        (1, Some("")),
        (1, None),
    ])
}

fn model() -> impl Strategy<Value = Option<&'static str>> {
    weighted(&[
        (18, Some("acme/large")),
        (24, Some("ft:x")),
        (3, Some("ft:own")),
        (3, Some("ft:derived")),
        (2, Some("ft:named")),
        (2, Some("mistral:7b|x")),
        (2, Some("ACME/large")),
        (1, Some("acme/large ")),
        (1, Some("FT:x")),
        (1, Some("ft:")),
        (1, Some("ftx")),
        (1, Some("ft:x'")),
        (1, Some("unknown")),
        (1, Some("")),
        (1, None),
    ])
}

fn base_model() -> impl Strategy<Value = Option<&'static str>> {
    weighted(&[
        (14, Some("acme/large")),
        (3, Some("mistral:7b|x")),
        (2, None),
        (1, Some("ACME/large")),
        (1, Some("acme/large ")),
        (1, Some("ghost")),
        (1, Some("Ghost")),
        (1, Some("ft:own")),
        (1, Some("")),
    ])
}

fn tokens() -> impl Strategy<Value = [Option<i32>; 3]> {
    let prompt = prop_oneof![20 => 0..2_000, 1 => Just(i32::MAX)];
    let cached = prop_oneof![6 => Just(0), 4 => 0..500, 2 => 0..3_000, 1 => Just(i32::MAX)];
    let completion = prop_oneof![20 => 0..2_000, 1 => Just(i32::MAX)];
    let none = prop::bool::weighted(0.08);
    let bad = weighted(&[(60, None), (1, Some(None)), (1, Some(Some(-1))), (1, Some(Some(i32::MIN)))]);
    (prompt, cached, completion, none, bad, 0usize..3).prop_map(
        |(prompt, cached, completion, none, bad, which)| {
            let mut tokens = [Some(prompt), Some(cached), Some(completion)];
            if none {
                tokens = [Some(0); 3];
            }
            if let Some(count) = bad {
                tokens[which] = count;
            }
            tokens
        },
    )
}

fn adopted() -> impl Strategy<Value = Adopted> {
    let auth_id = select(vec!["a", "A", "elsewhere"]);
    let resource_id = weighted(&[(6, "r"), (1, "R")]);
    let model_id = select(vec!["acme/large", "ft:x", "ft:own", "unknown"]);
    let hour = weighted(&[(4, 10), (3, 11), (2, 12), (1, 9), (1, 34)]);
    let price_class = weighted(&[(5, "standard"), (1, "batch")]);
    let tokens = (0i64..5_000, 0i64..3_000, 0i64..5_000_000_000);
    let rates = prop::array::uniform3(select(vec!["0.000003", "0", "0.125", "0.000000000001"]));
    (auth_id, resource_id, model_id, hour, price_class, tokens, 0i64..6, rates, flaw()).prop_map(
        |(auth_id, resource_id, model_id, hour, price_class, tokens, event_count, rates, flaw)| Adopted {
            auth_id,
            resource_id,
            model_id,
            hour,
            price_class,
            tokens: tokens.into(),
            event_count,
            rates,
            flaw,
        },
    )
}

fn flaw() -> impl Strategy<Value = Flaw> {
    weighted(&[
        (4, Flaw::None),
        (4, Flaw::OtherRates),
        (2, Flaw::CostOff),
        (1, Flaw::NoCost),
        (1, Flaw::NoRate(0)),
        (1, Flaw::NoRate(1)),
        (1, Flaw::NoRate(2)),
        (4, Flaw::NoBillable),
        (1, Flaw::BillableLost),
        (1, Flaw::NoPrompt),
        (2, Flaw::NoPromptAtAll),
        (1, Flaw::NoCached),
        (1, Flaw::NoCompletion),
        (1, Flaw::NoCount),
        (2, Flaw::TooFine),
        (2, Flaw::Negative),
        (2, Flaw::MoreEvents),
        (4, Flaw::NoDigest),
        (2, Flaw::NoCurrency),
        (1, Flaw::ForeignCurrency),
    ])
}

fn weighted<T: std::fmt::Debug + Clone + 'static>(values: &[(u32, T)]) -> Union<BoxedStrategy<T>> {
    Union::new_weighted(values.iter().map(|(weight, value)| (*weight, Just(value.clone()).boxed())).collect())
}
