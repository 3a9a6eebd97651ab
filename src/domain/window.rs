//! Windows of whole UTC hours (R14), and which window, trigger and basis a request gets: the
//! one table that every way in goes through. Only closed hours are rated (R15).

use std::cmp::Ordering;

use chrono::{DateTime, Datelike, TimeDelta, Timelike, Utc};

use super::violation::Violation;

/// Half-open `[start, end)`, both on a UTC hour, never empty, within the years 1 to 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Window {
    /// Inclusive.
    pub start: DateTime<Utc>,
    /// Exclusive.
    pub end: DateTime<Utc>,
}

/// An end of a window as a request gives it, by the name of its field.
pub type End = (&'static str, Option<DateTime<Utc>>);

impl Window {
    /// The window between two ends that a request has to give, or everything wrong with them.
    pub fn between(start: End, end: End) -> Result<Window, Vec<Violation>> {
        let missing = [start, end].into_iter().filter(|(_, time)| time.is_none());
        let message = "must be set: a full UTC hour, such as 2026-06-01T14:00:00Z";
        let mut wrong: Vec<_> = missing.map(|(field, _)| Violation::new(field, "MISSING", message)).collect();
        wrong.extend(check_ends(start, end));
        match (start.1, end.1) {
            (Some(start), Some(end)) if wrong.is_empty() => Ok(Window { start, end }),
            _ => Err(wrong),
        }
    }

    /// The window as its hours' starts, oldest first.
    pub fn hours(self) -> impl Iterator<Item = DateTime<Utc>> {
        (0..self.hour_count()).map(move |n| self.start + TimeDelta::hours(n))
    }

    /// How many hours it holds.
    pub fn hour_count(self) -> i64 {
        (self.end - self.start).num_hours()
    }

    /// What of it none of `done` covers, newest first; those lie within it and don't overlap.
    pub fn without(self, done: &[Window]) -> Vec<Window> {
        let mut done = done.to_vec();
        done.sort_by_key(|window| std::cmp::Reverse(window.start));
        let (mut end, mut left) = (self.end, Vec::new());
        for window in done {
            if window.end < end {
                left.push(Window { start: window.end, end });
            }
            end = window.start;
        }
        if self.start < end {
            left.push(Window { start: self.start, end });
        }
        left
    }

    /// Splits it into chunks of at most `hours`, newest first, so that a long backfill does not
    /// keep the hourly run waiting.
    pub fn chunks(self, hours: u32) -> impl Iterator<Item = Window> {
        let step = TimeDelta::hours(i64::from(hours.max(1)));
        let mut end = self.end;
        std::iter::from_fn(move || {
            (end > self.start).then(|| {
                let chunk = Window { start: self.start.max(end - step), end };
                end = chunk.start;
                chunk
            })
        })
    }
}

/// Why a run happens. It decides how loud a reconcile is, never what it does (R9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Trigger {
    /// A scheduled run.
    Routine,
    /// An operator's explicit window.
    Backfill,
}

/// Which rate a rollup that was billed before is billed at now (R10).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RateBasis {
    /// The rate frozen on its row.
    Frozen,
    /// The pricebook's rate for its hour.
    Pricebook,
}

impl Trigger {
    /// As it is stored and logged.
    pub fn as_str(self) -> &'static str {
        match self {
            Trigger::Routine => "routine",
            Trigger::Backfill => "backfill",
        }
    }

    /// From the record, whose CHECK knows the same names.
    pub fn parse(name: &str) -> Trigger {
        if name == "routine" { Trigger::Routine } else { Trigger::Backfill }
    }
}

impl RateBasis {
    /// As it is stored and logged.
    pub fn as_str(self) -> &'static str {
        match self {
            RateBasis::Frozen => "frozen",
            RateBasis::Pricebook => "pricebook",
        }
    }

    /// From the record, whose CHECK knows the same names.
    pub fn parse(name: &str) -> RateBasis {
        if name == "frozen" { RateBasis::Frozen } else { RateBasis::Pricebook }
    }
}

/// What a request said of its window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Asked {
    /// The window's start.
    pub since: Option<DateTime<Utc>>,
    /// The window's end.
    pub until: Option<DateTime<Utc>>,
    /// Unset: by the window.
    pub trigger: Option<Trigger>,
    /// Unset: by the trigger.
    pub basis: Option<RateBasis>,
}

impl Asked {
    /// The trigger that the request gets: a window that is given makes a backfill, unless it says
    /// otherwise.
    pub fn trigger(self) -> Trigger {
        let explicit = self.since.is_some() || self.until.is_some();
        self.trigger.unwrap_or(if explicit { Trigger::Backfill } else { Trigger::Routine })
    }
}

/// What it gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decided {
    /// The hours to rate.
    pub window: Window,
    /// How loud the reconcile is.
    pub trigger: Trigger,
    /// Which rate billed rollups keep.
    pub basis: RateBasis,
}

/// Why it gets nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// The request is wrong in itself.
    Invalid(Vec<Violation>),
    /// It reaches past the last closed hour (R15).
    NotClosed {
        /// The field that reaches too far.
        field: &'static str,
        /// Where closed hours end.
        closing_limit: DateTime<Utc>,
    },
}

/// Where closed hours end: the start of the current hour, by the database's clock less the
/// closing delay (R15).
pub fn closing_limit(now: DateTime<Utc>, closing_delay: TimeDelta) -> DateTime<Utc> {
    floor_hour(now - closing_delay)
}

fn floor_hour(time: DateTime<Utc>) -> DateTime<Utc> {
    let into = i64::from(time.minute()) * 60 + i64::from(time.second());
    time - TimeDelta::seconds(into) - TimeDelta::nanoseconds(i64::from(time.nanosecond()))
}

/// The one table: which window, trigger and basis a request gets.
pub fn decide(asked: Asked, closing_limit: DateTime<Utc>, trailing_hours: u32) -> Result<Decided, Refused> {
    let mut wrong = check_ends(("since", asked.since), ("until", asked.until));
    let explicit = asked.since.is_some() || asked.until.is_some();
    if asked.trigger == Some(Trigger::Backfill) && !explicit {
        wrong.push(Violation::new(
            "trigger",
            "NEEDS_WINDOW",
            "a backfill is quiet about what it deletes, so it needs a window: set since or until",
        ));
    }
    let trigger = asked.trigger();
    if trigger == Trigger::Routine && asked.basis == Some(RateBasis::Pricebook) {
        wrong.push(Violation::new(
            "rate_basis",
            "ROUTINE_KEEPS_RATES",
            "a routine run never reprices what was billed: use FROZEN, or a backfill",
        ));
    }
    if !wrong.is_empty() {
        return Err(Refused::Invalid(wrong));
    }
    let window = place(asked, closing_limit, TimeDelta::hours(i64::from(trailing_hours.max(1))))?;
    let basis = asked.basis.unwrap_or(match trigger {
        Trigger::Routine => RateBasis::Frozen,
        Trigger::Backfill => RateBasis::Pricebook,
    });
    Ok(Decided { window, trigger, basis })
}

/// What is wrong with the ends that are there.
fn check_ends(start: End, end: End) -> Vec<Violation> {
    let there = [start, end].into_iter().filter_map(|(field, time)| Some((field, time?)));
    let mut wrong: Vec<_> = there.filter_map(|(field, time)| check_bound(field, time)).collect();
    if let (Some(first), Some(last)) = (start.1, end.1) {
        wrong.extend(check_order(start.0, end.0, first.cmp(&last)));
    }
    wrong
}

fn check_bound(field: &'static str, time: DateTime<Utc>) -> Option<Violation> {
    // The end of the last hour of 9999 lies outside what a timestamp on the wire can say.
    if !(1..=9999).contains(&time.year()) {
        return Some(Violation::new(field, "OUT_OF_RANGE", "must lie within the years 1 to 9999"));
    }
    (floor_hour(time) != time).then(|| {
        Violation::new(field, "OFF_THE_HOUR", "must lie on a full UTC hour, such as 2026-06-01T14:00:00Z")
    })
}

fn check_order(start: &str, end: &'static str, order: Ordering) -> Option<Violation> {
    let (reason, what) = match order {
        Ordering::Less => return None,
        Ordering::Equal => ("EMPTY", "empty"),
        Ordering::Greater => ("INVERTED", "inverted"),
    };
    Some(Violation::new(end, reason, format!("the window is {what}: {end} must lie after {start}")))
}

fn place(asked: Asked, closing_limit: DateTime<Utc>, trailing: TimeDelta) -> Result<Window, Refused> {
    let end = asked.until.unwrap_or(closing_limit);
    if end > closing_limit {
        return Err(Refused::NotClosed { field: "until", closing_limit });
    }
    let start = asked.since.unwrap_or_else(|| {
        let first = chrono::NaiveDate::from_ymd_opt(1, 1, 1).unwrap_or_default().and_time(Default::default());
        (end - trailing).max(first.and_utc())
    });
    if start >= end {
        // Only an open end gets here: a given one was checked against since.
        return Err(Refused::NotClosed { field: "since", closing_limit });
    }
    Ok(Window { start, end })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().expect("a time")
    }

    fn limit() -> DateTime<Utc> {
        at("2026-06-02T10:00:00Z")
    }

    fn asked(since: &str, until: &str, trigger: Option<Trigger>) -> Asked {
        let bound = |text: &str| (!text.is_empty()).then(|| at(text));
        Asked { since: bound(since), until: bound(until), trigger, basis: None }
    }

    fn reasons(asked: Asked) -> Vec<(String, &'static str)> {
        match decide(asked, limit(), 24) {
            Err(Refused::Invalid(wrong)) => wrong.into_iter().map(|v| (v.field, v.reason)).collect(),
            other => panic!("not refused: {other:?}"),
        }
    }

    #[test]
    fn what_is_left_is_everything_that_is_not_done_newest_first() {
        let hours = |start: i64, end: i64| {
            let at = |hour| limit() + TimeDelta::hours(hour);
            Window { start: at(start), end: at(end) }
        };
        let left = |done: &[Window]| hours(0, 9).without(done);
        assert_eq!(left(&[]), [hours(0, 9)]);
        assert_eq!(left(&[hours(2, 4), hours(6, 9)]), [hours(4, 6), hours(0, 2)]);
        assert_eq!(left(&[hours(0, 1), hours(4, 6), hours(3, 4)]), [hours(6, 9), hours(1, 3)]);
        assert_eq!(left(&[hours(0, 9)]), []);
    }

    #[test]
    fn every_line_of_the_table_is_decided_as_it_says() {
        use RateBasis::{Frozen, Pricebook};
        use Trigger::{Backfill, Routine};
        let (a, b) = ("2026-06-01T03:00:00Z", "2026-06-01T05:00:00Z");
        let (limit, trailing) = ("2026-06-02T10:00:00Z", "2026-06-01T10:00:00Z");
        for (since, until, trigger, start, end, gets, basis) in [
            ("", "", None, trailing, limit, Routine, Frozen),
            ("", "", Some(Routine), trailing, limit, Routine, Frozen),
            (a, b, None, a, b, Backfill, Pricebook),
            (a, b, Some(Backfill), a, b, Backfill, Pricebook),
            (a, "", None, a, limit, Backfill, Pricebook),
            (a, "", Some(Backfill), a, limit, Backfill, Pricebook),
            ("", b, None, "2026-05-31T05:00:00Z", b, Backfill, Pricebook),
            ("", b, Some(Backfill), "2026-05-31T05:00:00Z", b, Backfill, Pricebook),
            (a, b, Some(Routine), a, b, Routine, Frozen),
            (a, "", Some(Routine), a, limit, Routine, Frozen),
            ("", b, Some(Routine), "2026-05-31T05:00:00Z", b, Routine, Frozen),
        ] {
            let got = decide(asked(since, until, trigger), super::tests::limit(), 24).expect("decided");
            let window = Window { start: at(start), end: at(end) };
            assert_eq!(got, Decided { window, trigger: gets, basis }, "{since} {until} {trigger:?}");
        }
        assert_eq!(reasons(asked("", "", Some(Backfill))), [("trigger".to_owned(), "NEEDS_WINDOW")]);
        let priced = Asked { basis: Some(Pricebook), ..asked(a, b, Some(Routine)) };
        assert_eq!(reasons(priced), [("rate_basis".to_owned(), "ROUTINE_KEEPS_RATES")]);
        let frozen = Asked { basis: Some(Frozen), ..asked(a, b, None) };
        assert_eq!(decide(frozen, super::tests::limit(), 24).expect("decided").basis, Frozen);
    }

    #[test]
    fn bounds_that_cannot_be_are_refused_by_name() {
        let whole = "2026-06-01T03:00:00Z";
        assert_eq!(
            reasons(asked("2026-06-01T03:00:00.000000001Z", "2026-06-01T03:30:00Z", None)),
            [("since".to_owned(), "OFF_THE_HOUR"), ("until".to_owned(), "OFF_THE_HOUR")]
        );
        assert_eq!(reasons(asked(whole, whole, None)), [("until".to_owned(), "EMPTY")]);
        assert_eq!(reasons(asked(whole, "2026-06-01T02:00:00Z", None)), [("until".to_owned(), "INVERTED")]);
        assert_eq!(
            reasons(asked(whole, "+10000-01-01T00:00:00Z", None)),
            [("until".to_owned(), "OUT_OF_RANGE")]
        );
    }

    #[test]
    fn a_window_that_must_be_given_names_all_that_is_wrong_with_it() {
        let window = |start: &str, end: &str| {
            let time = |text: &str| (!text.is_empty()).then(|| at(text));
            let between = Window::between(("w.start", time(start)), ("w.end", time(end)));
            between.map_err(|wrong| wrong.into_iter().map(|v| (v.field, v.reason)).collect::<Vec<_>>())
        };
        let (three, four) = ("2026-06-01T03:00:00Z", "2026-06-01T04:00:00Z");
        assert_eq!(window(three, four), Ok(Window { start: at(three), end: at(four) }));
        let (start, end) = ("w.start".to_owned(), "w.end".to_owned());
        assert_eq!(window("", ""), Err(vec![(start.clone(), "MISSING"), (end.clone(), "MISSING")]));
        assert_eq!(
            window("2026-06-01T03:00:01Z", ""),
            Err(vec![(end.clone(), "MISSING"), (start, "OFF_THE_HOUR")])
        );
        assert_eq!(window(four, three), Err(vec![(end.clone(), "INVERTED")]));
        assert_eq!(window(four, four), Err(vec![(end, "EMPTY")]));
    }

    #[test]
    fn r15_a_window_past_the_closing_limit_is_refused() {
        for (since, until, field) in [
            ("2026-06-01T03:00:00Z", "2026-06-02T11:00:00Z", "until"),
            ("2026-06-02T10:00:00Z", "", "since"),
            ("2026-07-02T10:00:00Z", "", "since"),
            ("", "2026-06-02T11:00:00Z", "until"),
        ] {
            let got = decide(asked(since, until, None), limit(), 24);
            assert_eq!(got, Err(Refused::NotClosed { field, closing_limit: limit() }), "{since} {until}");
        }
        let now = at("2026-06-02T10:04:59.999999Z");
        assert_eq!(closing_limit(now, TimeDelta::zero()), limit());
        assert_eq!(closing_limit(now, TimeDelta::minutes(5)), at("2026-06-02T09:00:00Z"));
        assert_eq!(
            closing_limit(at("1969-12-31T23:59:59.5Z"), TimeDelta::zero()),
            at("1969-12-31T23:00:00Z")
        );
    }

    #[test]
    fn chunks_cover_the_window_newest_first() {
        let window = Window { start: at("2026-06-01T00:00:00Z"), end: at("2026-06-03T05:00:00Z") };
        let chunks: Vec<Window> = window.chunks(24).collect();
        assert_eq!(chunks.iter().map(|c| c.hour_count()).collect::<Vec<_>>(), [24, 24, 5]);
        assert_eq!(chunks[0].end, window.end);
        assert!(chunks.windows(2).all(|pair| pair[0].start == pair[1].end));
        assert_eq!(chunks[2].start, window.start);
    }
}
