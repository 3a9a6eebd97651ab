//! What a case does: a few steps, each of which changes what is stored and rates a window.
//! Times are relative, so that each case can have days of its own in one database.

use std::fmt;

use chrono::{DateTime, TimeDelta, Utc};
use proptest::sample::Index;

use super::books::BookSpec;

/// The hours that a case has for itself.
pub const SLOT_HOURS: i64 = 48;

/// A case: the pricebooks that its steps choose from, and the steps.
#[derive(Debug, Clone)]
pub struct Case {
    pub books: Vec<BookSpec>,
    pub steps: Vec<Step>,
}

#[derive(Debug, Clone)]
pub struct Step {
    pub add: Vec<EventSpec>,
    /// Events that vanish.
    pub remove: Vec<Index>,
    /// Events that another takes the place of, the same but for its request id.
    pub rename: Vec<Index>,
    /// Events that another like them comes beside, which used no tokens.
    pub echo: Vec<Index>,
    /// Events with one more token of a kind.
    pub nudge: Vec<(Index, usize)>,
    /// Events that come again with other content.
    pub alter: Vec<(Index, EventSpec)>,
    /// Rollups that come from elsewhere.
    pub adopt: Vec<Adopted>,
    /// Rollups that are not what we wrote.
    pub tamper: Vec<(Index, Flaw)>,
    pub run: RunSpec,
}

/// A run, and how it is carried out.
#[derive(Debug, Clone)]
pub struct RunSpec {
    pub book: usize,
    pub mode: Mode,
    pub from: i64,
    pub hours: i64,
    pub chunk_hours: u32,
    pub time_zone: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Routine,
    Backfill,
    FrozenBackfill,
}

/// An event; what its ids are is the generator's choice.
#[derive(Clone)]
pub struct EventSpec {
    pub auth_id: Option<&'static str>,
    pub resource_id: Option<&'static str>,
    pub model: Option<&'static str>,
    pub base_model: Option<&'static str>,
    pub tokens: [Option<i32>; 3],
    pub hour: i64,
    pub micros: i64,
    /// It has no time of its own and counts when it was stored.
    pub untimed: bool,
}

/// A rollup from elsewhere; explained by its rates, but for its flaw.
#[derive(Debug, Clone)]
pub struct Adopted {
    pub auth_id: &'static str,
    pub resource_id: &'static str,
    pub model_id: &'static str,
    pub hour: i64,
    pub price_class: &'static str,
    pub tokens: [i64; 3],
    pub event_count: i64,
    pub rates: [&'static str; 3],
    pub flaw: Flaw,
}

/// What is not as we would write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    None,
    /// The cost is a little more than its rates explain.
    CostOff,
    NoCost,
    /// One of the three.
    NoRate(usize),
    /// Kept from before there were billable tokens: what the cached ones leave is billed.
    NoBillable,
    /// The same, but the cost is still that of the billable tokens that were there.
    BillableLost,
    NoPrompt,
    /// Without a prompt and its billable part; the cost is that of the rest.
    NoPromptAtAll,
    NoCached,
    NoCompletion,
    NoCount,
    /// More events than there are.
    MoreEvents,
    /// A rate that is finer than one of ours can be, and the cost that it comes to.
    TooFine,
    /// Fewer tokens than none, and the cost that they come to.
    Negative,
    /// Other rates, and the cost that they come to.
    OtherRates,
    NoDigest,
    NoCurrency,
    ForeignCurrency,
}

impl fmt::Debug for EventSpec {
    /// On one line: a failing case lists many.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { auth_id, resource_id, model, base_model, tokens: [p, c, o], hour, micros, untimed } = self;
        write!(
            f,
            "event {auth_id:?} {resource_id:?} {model:?} base {base_model:?} tokens {p:?} {c:?} {o:?} \
             at {hour}h+{micros}us{}",
            if *untimed { " untimed" } else { "" }
        )
    }
}

/// The start of a slot.
pub fn slot_start(slot: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(978_307_200, 0).unwrap() + TimeDelta::hours(slot * SLOT_HOURS)
}
