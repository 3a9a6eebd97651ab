//! What producers sent and were told, held against what stands in the database and in the dead
//! letters afterwards.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::Path;
use std::sync::Mutex;

use chrono::{DateTime, Utc};
use prost_types::Timestamp;
use rater::proto::BillingEvent;
use sqlx::postgres::{PgPool, PgRow};
use sqlx::{FromRow, Row};

use super::letters::{Letter, letters};
use crate::events::Random;

/// What a producer knows of an event that it sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// No answer came: it may be taken or not.
    Unknown,
    Acknowledged,
    /// The sender said that it was not taken.
    NotTaken,
}

struct Sent {
    event: BillingEvent,
    fate: Fate,
    /// It was sent before, and no answer came: it may be there whatever is said of it later.
    maybe: bool,
    /// How often it was sent.
    times: u32,
}

/// Every event that was sent, by its key.
#[derive(Default)]
pub struct Account(Mutex<HashMap<String, Sent>>);

/// What was found.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Figures {
    pub sent: usize,
    pub acknowledged: usize,
    pub stored: usize,
    pub letters: usize,
    /// Those of them that nobody was told are taken.
    pub unknown_but_there: usize,
    /// More letters, of events without a `request_id` that were sent again.
    pub without_id: usize,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Figures { sent, acknowledged, stored, letters, unknown_but_there, without_id } = self;
        write!(
            f,
            "{sent} events sent, {acknowledged} acknowledged, {stored} stored, {letters} letters, \
             {unknown_but_there} of them without an answer, 0 lost, 0 twice"
        )?;
        match without_id {
            0 => Ok(()),
            more => write!(f, ", {more} more letters of events without an id"),
        }
    }
}

impl Account {
    /// Before the first byte of it goes out.
    pub fn sends(&self, event: &BillingEvent) {
        let mut events = self.0.lock().unwrap();
        let new = || Sent { event: event.clone(), fate: Fate::Unknown, maybe: false, times: 0 };
        let sent = events.entry(event.adapter.clone()).or_insert_with(new);
        (sent.fate, sent.times) = (Fate::Unknown, sent.times + 1);
    }

    pub fn acknowledged(&self, key: &str) {
        self.0.lock().unwrap().get_mut(key).unwrap().fate = Fate::Acknowledged;
    }

    /// All that was sent.
    pub fn acknowledge_all(&self) {
        self.0.lock().unwrap().values_mut().for_each(|sent| sent.fate = Fate::Acknowledged);
    }

    /// The connection ended before the answer.
    pub fn unanswered(&self, key: &str) {
        self.0.lock().unwrap().get_mut(key).unwrap().maybe = true;
    }

    pub fn not_taken(&self, key: &str) {
        let mut events = self.0.lock().unwrap();
        let sent = events.get_mut(key).unwrap();
        if !sent.maybe {
            sent.fate = Fate::NotTaken;
        }
    }

    /// It was taken, and is damaged beyond repair since.
    pub fn lost(&self, key: &str) {
        self.0.lock().unwrap().get_mut(key).unwrap().fate = Fate::NotTaken;
    }

    pub fn count(&self, fate: Fate) -> usize {
        self.0.lock().unwrap().values().filter(|sent| sent.fate == fate).count()
    }

    /// Holds what must hold once everything was shipped: every acknowledged event is exactly
    /// once in the table or in the dead letters; any other at most once, and not at all if it
    /// was refused; each with its content; and there is nothing that nobody sent. One without an
    /// id is at most as often among the letters as it was sent.
    pub async fn settle(&self, pool: &PgPool, spool: &Path) -> Figures {
        match self.compare(&stored(pool).await, &letters(spool)) {
            Ok(figures) => figures,
            Err(faults) => {
                panic!("{} faults, such as {:#?}", faults.len(), &faults[..faults.len().min(10)]);
            }
        }
    }

    /// Every fault.
    fn compare(&self, stored: &[BillingEvent], letters: &[Letter]) -> Result<Figures, Vec<String>> {
        let events = self.0.lock().unwrap();
        let mut found: BTreeMap<&str, u32> = BTreeMap::new();
        let mut faults = Vec::new();
        for row in stored {
            *found.entry(&row.adapter).or_default() += 1;
            match events.get(&row.adapter) {
                Some(Sent { event, .. }) if event == row && !is_poison(&row.adapter) => {}
                Some(Sent { event, .. }) => faults.push(format!("stored as {row:?}, not {event:?}")),
                None => faults.push(format!("nobody sent {row:?}")),
            }
        }
        for letter in letters {
            let key = letter.event.adapter.as_str();
            *found.entry(key).or_default() += 1;
            match events.get(key) {
                Some(Sent { event, .. }) if *event == letter.event && key.ends_with(&letter.reason) => {}
                Some(Sent { event, .. }) => faults.push(format!("a letter of {event:?}: {letter:?}")),
                None => faults.push(format!("nobody sent {letter:?}")),
            }
        }
        let (mut unknown_but_there, mut without_id) = (0, 0);
        for (key, Sent { fate, event, times: sent, .. }) in events.iter() {
            let mut times = found.get(key.as_str()).copied().unwrap_or(0);
            // Nothing tells one that is sent again from another of the same content.
            if event.request_id.is_empty() && (2..=*sent).contains(&times) {
                without_id += times as usize - 1;
                times = 1;
            }
            match (fate, times) {
                (Fate::Acknowledged, 1) | (Fate::Unknown | Fate::NotTaken, 0) => {}
                (Fate::Unknown, 1) => unknown_but_there += 1,
                _ => faults.push(format!("{key}: {fate:?} and there {times} times")),
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(Figures {
            sent: events.len(),
            acknowledged: events.values().filter(|sent| sent.fate == Fate::Acknowledged).count(),
            stored: stored.len(),
            letters: letters.len() - without_id,
            unknown_but_there,
            without_id,
        })
    }
}

/// Why an event can never be stored. Its key ends with it.
pub const POISONS: [&str; 5] = ["NEGATIVE", "TOO_LARGE", "TOO_LONG", "MISSING", "NUL_CHARACTER"];

fn is_poison(key: &str) -> bool {
    POISONS.iter().chain([&"EVENT_CONFLICT"]).any(|reason| key.ends_with(reason))
}

/// An event of random content, whatever can be stored. Its key is its adapter.
pub fn any_event(random: &mut Random, key: &str) -> BillingEvent {
    const TEXTS: [&str; 6] = ["", "acme/large", "日本 \u{1F980}", "a\"b\\c\n\t", "\u{7f}\u{1}", " NULL "];
    let text = |random: &mut Random| TEXTS[random.below(TEXTS.len() as u64) as usize].to_string();
    let seconds = 1_780_272_000 + random.below(86_400) as i64;
    BillingEvent {
        request_id: format!("id-{key}"),
        auth_id: format!("auth-{}", random.below(9)),
        user_id: text(random),
        group_id: text(random),
        resource_id: text(random),
        resource_type: text(random),
        model: text(random),
        // Some are long, so that frames have all sizes.
        base_model: "m".repeat(random.below(256) as usize * usize::from(random.below(8) == 0)),
        adapter: key.into(),
        prompt_tokens: random.below(1 << 31) as i64,
        cached_tokens: random.below(100) as i64,
        completion_tokens: random.below(1_000) as i64,
        finish_reason: text(random),
        gpu_type: text(random),
        aborted: random.below(2) == 0,
        event_time: (random.below(9) > 0)
            .then(|| Timestamp { seconds, nanos: random.below(1_000_000) as i32 * 1_000 }),
    }
}

/// An event that can never be stored.
pub fn poison(random: &mut Random, key: &str) -> BillingEvent {
    let reason = POISONS[random.below(POISONS.len() as u64) as usize];
    let mut event = any_event(random, &format!("{key}-{reason}"));
    match reason {
        "NEGATIVE" => event.completion_tokens = -1,
        "TOO_LARGE" => event.prompt_tokens = 1 << 31,
        "TOO_LONG" => event.request_id = "r".repeat(256),
        "MISSING" => event.request_id.clear(),
        _ => event.model = "a\0b".into(),
    }
    event
}

/// As a line for the sender, with its end.
pub fn line(event: &BillingEvent) -> String {
    rater::proto_json::json_line("rating.v1.BillingEvent", event).unwrap() + "\n"
}

struct Stored(BillingEvent);

impl FromRow<'_, PgRow> for Stored {
    fn from_row(row: &PgRow) -> sqlx::Result<Stored> {
        let text = |name| row.try_get::<Option<String>, _>(name).map(Option::unwrap_or_default);
        let tokens = |name| row.try_get::<i32, _>(name).map(i64::from);
        let time: Option<DateTime<Utc>> = row.try_get("event_ts")?;
        Ok(Stored(BillingEvent {
            request_id: text("request_id")?,
            auth_id: text("auth_id")?,
            user_id: text("user_id")?,
            group_id: text("group_id")?,
            resource_id: text("resource_id")?,
            resource_type: text("resource_type")?,
            model: text("model")?,
            base_model: text("base_model")?,
            adapter: text("adapter")?,
            prompt_tokens: tokens("prompt_tokens")?,
            cached_tokens: tokens("cached_tokens")?,
            completion_tokens: tokens("completion_tokens")?,
            finish_reason: text("finish_reason")?,
            gpu_type: text("gpu_type")?,
            aborted: row.try_get::<Option<bool>, _>("aborted")?.unwrap_or_default(),
            event_time: time.map(|time| Timestamp {
                seconds: time.timestamp(),
                nanos: time.timestamp_subsec_nanos() as i32,
            }),
        }))
    }
}

/// Every event in the table, as it was sent.
pub async fn stored(pool: &PgPool) -> Vec<BillingEvent> {
    let rows: Vec<Stored> =
        sqlx::query_as("SELECT * FROM billing_event ORDER BY request_id").fetch_all(pool).await.unwrap();
    rows.into_iter().map(|Stored(event)| event).collect()
}

#[test]
fn the_account_sees_what_is_lost_doubled_altered_misplaced_or_made_up() {
    let (account, mut random) = (Account::default(), Random(1));
    let good: Vec<BillingEvent> = (0..4).map(|n| any_event(&mut random, &format!("{n}"))).collect();
    let bad = poison(&mut random, "4");
    good.iter().chain([&bad]).for_each(|event| account.sends(event));
    for key in ["0", "1", &bad.adapter] {
        account.acknowledged(key);
    }
    account.not_taken("3");
    let reason = bad.adapter.split_once('-').unwrap().1.to_string();
    let letter = |event: &BillingEvent| Letter {
        id: String::new(),
        event: event.clone(),
        reason: reason.clone(),
        tries: 1,
    };
    let (stored, letters) = (good[..2].to_vec(), vec![letter(&bad)]);
    let faults = |stored: &[BillingEvent], letters: &[Letter]| account.compare(stored, letters).is_err();
    let figures = account.compare(&good[..3], &letters).unwrap();
    assert_eq!((figures.acknowledged, figures.stored, figures.unknown_but_there), (3, 3, 1));
    assert!(!faults(&stored, &letters), "what got no answer may be there or not");
    assert!(faults(&stored[1..], &letters), "a lost one");
    assert!(faults(&stored, &[]), "a lost letter");
    assert!(faults(&[&stored[..], &stored[..1]].concat(), &letters), "one twice");
    assert!(faults(&stored, &[letter(&bad), letter(&bad)]), "one letter twice");
    assert!(faults(&good[..2], &[letters[0].clone(), letter(&good[0])]), "a letter of a good one");
    assert!(
        faults(&[&stored[..], std::slice::from_ref(&bad)].concat(), &[]),
        "a poison event that is stored"
    );
    assert!(faults(&good, &letters), "one that was refused");
    let altered = BillingEvent { prompt_tokens: good[0].prompt_tokens ^ 1, ..good[0].clone() };
    assert!(faults(&[altered, good[1].clone()], &letters), "another content");
    let other = any_event(&mut random, "other");
    assert!(faults(&[&stored[..], &[other]].concat(), &letters), "nobody sent it");
}
