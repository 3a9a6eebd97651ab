//! Storing billing events: a batch is one transaction of two statements.
//!
//! 1. `sql/insert_events.sql` inserts what is not there yet. It waits for other writers of
//!    the same ids until they commit or roll back.
//! 2. `sql/compare_events.sql`, only when something was there already. A statement of its
//!    own on purpose: in READ COMMITTED its snapshot is newer than the writers that the first
//!    one waited for, whose rows the first one's own snapshot can't see.
//!
//! An id that was neither inserted nor found was deleted in between: the whole batch is tried
//! again, a few times; one that is still neither is dropped by a trigger of the database's, and
//! refused. When an event breaks a rule of the database's own, the batch is stored once more,
//! step by step, to find out which ([`search`]). It is held against an event only where the same
//! statements took another one of the batch that was new; a table that takes nothing today would
//! otherwise refuse good events for good. `created_at` is not compared; an event without a time of
//! its own is rated by it.
//!
//! What is told as stored is on the database's disk, whatever it lets others leave in memory. A
//! network that swallows everything costs a batch its time and its connection, and nobody else
//! theirs: the server ends a session that says nothing, and gives up the rows that it held.

mod failure;
mod search;
mod statements;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::{Connection, PgConnection, Postgres, Transaction};

use super::{Db, Error};
use crate::domain::event::Event;
use failure::{Broken, Failure};
use statements::{compare, insert};

/// In one go. 10,000 events take well under a second; a statement that takes longer waits for
/// another writer of the same ids, which is not us: between two statements we say nothing for
/// milliseconds, and a session that is silent for longer has lost us. So rows that it holds are free
/// again before a statement of another instance that waits for them is given up. A commit that is
/// only in memory is none; what waits for standbys, too, stays.
const BEGIN: &str = "BEGIN; SET LOCAL statement_timeout = '20s';
    SET LOCAL idle_in_transaction_session_timeout = '10s';
    SELECT set_config('client_connection_check_interval',
        CASE WHEN version() LIKE '%linux%' THEN '5s' ELSE '0' END, true);
    SELECT set_config('synchronous_commit', 'on', true)
        WHERE current_setting('synchronous_commit') IN ('off', 'local')";

/// How long one attempt may take, its COMMIT included, unless asked otherwise: longer than any two
/// statements of it do, or the search. What takes longer has lost its server.
pub const PATIENCE: Duration = Duration::from_secs(45);

/// How often a batch is tried whose ids vanish under it, or that another writer, who takes
/// rows in another order than ours, drew into a deadlock.
const ATTEMPTS: usize = 5;

/// What to do with an event that can't be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnConflict {
    /// Store nothing of the batch.
    Refuse,
    /// Store the others.
    Skip,
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It was inserted.
    Stored,
    /// Its id is stored with the same content.
    Duplicate,
    /// Its id is stored with other content.
    Conflict,
    /// A rule of the database's own refuses it: the field that it names, or nothing.
    Refused(&'static str),
}

impl Fate {
    /// Whether it keeps a batch from being stored that must be stored as a whole.
    fn is_bad(self) -> bool {
        matches!(self, Fate::Conflict | Fate::Refused(_))
    }
}

/// What the first statement came to.
#[derive(Default)]
struct Inserted {
    ids: HashSet<String>,
    /// Places in the batch whose events are neither stored nor can be, with the field at fault.
    refused: HashMap<usize, &'static str>,
    /// So many are refused that the search for more was ended.
    ended: bool,
    /// Another event was taken on trial, and given back.
    tried: bool,
    /// The first rule that was broken.
    broken: Option<Broken>,
}

impl Inserted {
    /// Whether the database took an event that it did not have: then it is not the table that
    /// refuses the others.
    fn taken(&self) -> bool {
        self.tried || !self.ids.is_empty()
    }

    fn takes_none(&self) -> Error {
        let dropped = || Error::TakesNone("rows are dropped without a word".into());
        self.broken.as_ref().map_or_else(dropped, Broken::takes_none)
    }
}

/// Stores a batch, and says for each event, in its order, what became of it. An id may occur
/// more than once: its first event that the database takes is the one to insert, and every other
/// is compared with what is stored in the end. With [`OnConflict::Refuse`] and any fate that is
/// [`Fate::Conflict`] or [`Fate::Refused`], nothing was stored, whatever the others say.
pub async fn record(db: &Db, events: &[Event], on_conflict: OnConflict) -> Result<Vec<Fate>, Error> {
    record_within(db, events, on_conflict, PATIENCE).await
}

/// The same with another limit on each attempt.
pub async fn record_within(
    db: &Db,
    events: &[Event],
    on_conflict: OnConflict,
    patience: Duration,
) -> Result<Vec<Fate>, Error> {
    db.observed("INSERT billing_event", attempts(db, events, on_conflict, patience)).await
}

async fn attempts(
    db: &Db,
    events: &[Event],
    on_conflict: OnConflict,
    patience: Duration,
) -> Result<Vec<Fate>, Error> {
    let mut searching = false;
    let mut left = ATTEMPTS;
    loop {
        left -= 1;
        let committing = AtomicBool::new(false);
        let attempt = Attempt { events, on_conflict, searching, last: left == 0, committing };
        match attempt.within(db, patience).await {
            Ok(Some(fates)) => return Ok(fates),
            Ok(None) => {}
            // Not one of the attempts: it was no accident.
            Err(Failure::Row(_)) if !searching => (searching, left) = (true, ATTEMPTS),
            Err(failure) if left > 0 && failure.was_rolled_back() => {}
            Err(failure) => return Err(failure.into()),
        }
    }
}

/// One transaction.
struct Attempt<'a> {
    events: &'a [Event],
    on_conflict: OnConflict,
    /// Whether an event breaks a rule of the database's, and must be found.
    searching: bool,
    /// What is neither inserted nor found is refused, instead of tried again.
    last: bool,
    /// Whether COMMIT may have been sent.
    committing: AtomicBool,
}

impl Attempt<'_> {
    /// A connection that has not answered until then is closed, not given back: nobody would ever
    /// get an answer on it, and its place in the pool is another's.
    async fn within(&self, db: &Db, patience: Duration) -> Result<Option<Vec<Fate>>, Failure> {
        let mut connection = db.pool.acquire().await?;
        let Ok(ended) = tokio::time::timeout(patience, self.run(&mut connection)).await else {
            connection.close_on_drop();
            let committing = self.committing.load(Ordering::Relaxed);
            return Err(Failure::Store(if committing { Error::no_answer() } else { Error::gone() }));
        };
        ended
    }

    /// None when an id was neither inserted nor found.
    async fn run(&self, connection: &mut PgConnection) -> Result<Option<Vec<Fate>>, Failure> {
        let mut transaction = connection.begin_with(BEGIN).await?;
        let inserted = if self.searching {
            search::insert_each(&mut transaction, self.events, self.on_conflict).await?
        } else {
            let Some(ids) = insert(&mut transaction, self.events).await? else {
                self.commit(transaction).await?;
                return Ok(Some(vec![Fate::Stored; self.events.len()]));
            };
            Inserted { ids, ..Inserted::default() }
        };
        let fates = self.fates(&mut transaction, &inserted).await?;
        let Some(fates) = fates else {
            transaction.rollback().await?;
            return Ok(None);
        };
        if !inserted.taken() && fates.iter().any(|fate| matches!(fate, Fate::Refused(_))) {
            return Err(Failure::Store(inserted.takes_none()));
        }
        if self.on_conflict == OnConflict::Refuse && fates.iter().any(|fate| fate.is_bad()) {
            transaction.rollback().await?;
        } else {
            self.commit(transaction).await?;
        }
        Ok(Some(fates))
    }

    async fn commit(&self, transaction: Transaction<'_, Postgres>) -> Result<(), Failure> {
        self.committing.store(true, Ordering::Relaxed);
        transaction.commit().await.map_err(Failure::at_commit)
    }

    async fn fates(
        &self,
        transaction: &mut Transaction<'_, Postgres>,
        inserted: &Inserted,
    ) -> Result<Option<Vec<Fate>>, Failure> {
        let firsts = self.firsts(inserted);
        let mut fates = vec![Fate::Stored; self.events.len()];
        let mut compared = Vec::new();
        for (at, event) in self.events.iter().enumerate() {
            if let Some(field) = inserted.refused.get(&at) {
                fates[at] = Fate::Refused(field);
            } else if inserted.ended {
                // Nothing will be stored, and the fates of the others say nothing.
            } else if !inserted.ids.contains(&event.request_id) {
                compared.push(at);
            } else if let Some(&first) = firsts.get(event.request_id.as_str()).filter(|first| **first != at) {
                fates[at] = same(*event == self.events[first]);
            }
        }
        if compared.is_empty() {
            return Ok(Some(fates));
        }
        let found = compare(transaction, compared.iter().map(|&at| &self.events[at])).await?;
        if found.len() < compared.len() {
            if !self.last {
                return Ok(None);
            }
            compared.iter().for_each(|&at| fates[at] = Fate::Refused(""));
        }
        for (position, fate) in found {
            fates[compared[position]] = fate;
        }
        Ok(Some(fates))
    }

    /// Where each id occurs first with an event that the database takes.
    fn firsts(&self, inserted: &Inserted) -> HashMap<&str, usize> {
        let mut firsts = HashMap::with_capacity(self.events.len());
        for (at, event) in self.events.iter().enumerate() {
            if !inserted.refused.contains_key(&at) {
                firsts.entry(event.request_id.as_str()).or_insert(at);
            }
        }
        firsts
    }
}

fn same(same: bool) -> Fate {
    if same { Fate::Duplicate } else { Fate::Conflict }
}
