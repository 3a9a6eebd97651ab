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

use super::letters::letters;
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
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Figures { sent, acknowledged, stored, letters, unknown_but_there } = self;
        write!(
            f,
            "{sent} events sent, {acknowledged} acknowledged, {stored} stored, {letters} letters, \
             {unknown_but_there} of them without an answer, 0 lost, 0 twice"
        )
    }
}

impl Account {
    /// Before the first byte of it goes out.
    pub fn sends(&self, event: &BillingEvent) {
        let mut events = self.0.lock().unwrap();
        let new = || Sent { event: event.clone(), fate: Fate::Unknown, maybe: false };
        events.entry(event.adapter.clone()).or_insert_with(new).fate = Fate::Unknown;
    }

    pub fn acknowledged(&self, key: &str) {
        self.0.lock().unwrap().get_mut(key).unwrap().fate = Fate::Acknowledged;
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
    /// was refused; each with its content; and there is nothing that nobody sent.
    pub async fn settle(&self, pool: &PgPool, spool: &Path) -> Figures {
        let stored = stored(pool).await;
        let letters = letters(spool);
        let events = self.0.lock().unwrap();
        let mut found: BTreeMap<&str, u32> = BTreeMap::new();
        let mut faults = Vec::new();
        for row in &stored {
            *found.entry(&row.adapter).or_default() += 1;
            match events.get(&row.adapter) {
                Some(Sent { event, .. }) if event == row && !is_poison(&row.adapter) => {}
                Some(Sent { event, .. }) => faults.push(format!("stored as {row:?}, not {event:?}")),
                None => faults.push(format!("nobody sent {row:?}")),
            }
        }
        for letter in &letters {
            let key = letter.event.adapter.as_str();
            *found.entry(key).or_default() += 1;
            match events.get(key) {
                Some(Sent { event, .. }) if *event == letter.event && key.ends_with(&letter.reason) => {}
                Some(Sent { event, .. }) => faults.push(format!("a letter of {event:?}: {letter:?}")),
                None => faults.push(format!("nobody sent {letter:?}")),
            }
        }
        let mut unknown_but_there = 0;
        for (key, Sent { fate, .. }) in events.iter() {
            let times = found.get(key.as_str()).copied().unwrap_or(0);
            match (fate, times) {
                (Fate::Acknowledged, 1) | (Fate::Unknown | Fate::NotTaken, 0) => {}
                (Fate::Unknown, 1) => unknown_but_there += 1,
                _ => faults.push(format!("{key}: {fate:?} and there {times} times")),
            }
        }
        let (count, some) = (faults.len(), &faults[..faults.len().min(10)]);
        assert!(faults.is_empty(), "{count} faults of {} events, such as {some:#?}", events.len());
        Figures {
            sent: events.len(),
            acknowledged: events.values().filter(|sent| sent.fate == Fate::Acknowledged).count(),
            stored: stored.len(),
            letters: letters.len(),
            unknown_but_there,
        }
    }
}

/// Why an event can never be stored. Its key ends with it.
pub const POISONS: [&str; 5] = ["NEGATIVE", "TOO_LARGE", "TOO_LONG", "MISSING", "NUL_CHARACTER"];

fn is_poison(key: &str) -> bool {
    POISONS.iter().any(|reason| key.ends_with(reason))
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
        resource_id: text(random),
        model: text(random),
        // Some are long, so that frames have all sizes.
        base_model: "m".repeat(random.below(256) as usize * usize::from(random.below(8) == 0)),
        adapter: key.into(),
        prompt_tokens: random.below(1 << 31) as i64,
        cached_tokens: random.below(100) as i64,
        completion_tokens: random.below(1_000) as i64,
        aborted: random.below(2) == 0,
        event_time: (random.below(9) > 0)
            .then(|| Timestamp { seconds, nanos: random.below(1_000_000) as i32 * 1_000 }),
        ..BillingEvent::default()
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
