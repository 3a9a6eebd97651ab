//! Which events of a batch a rule of the database's refuses: the batch is inserted in parts, each
//! behind a savepoint. A part that fails is halved until the event at fault is alone; what follows
//! is taken in parts as long as the way was from the last one at fault. So one bad event costs about
//! a statement for each doubling of the batch, a batch of nothing else one for each event, and the
//! others are stored by the same few statements.
//!
//! Many that are refused while none is taken say more of the table than of themselves: the search
//! then tries some of the others, and ends where those are refused, too.
//!
//! What is put off until COMMIT is asked for at once, or it would refuse the batch and name nobody.
//! Rows are taken in the order of the ids here, too, so that batches wait for each other and never
//! in a circle.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use sqlx::{Postgres, Transaction};

use super::failure::{Broken, Failure};
use super::statements::{compare, insert, is_over_ours};
use super::{Inserted, OnConflict};
use crate::domain::event::Event;
use crate::store::Error;

/// A batch of 10,000 of which every other one is refused takes a third of it. A slow server must not
/// hold the batch's place for ever.
const LIMIT: Duration = Duration::from_secs(15);

/// A batch that is refused as a whole is not searched further: an answer lists no more. As many of
/// the others are tried before it is said that the database takes none.
const ENOUGH: usize = 50;

/// A search for what a batch's events break.
struct Search<'a, 't> {
    transaction: &'a mut Transaction<'t, Postgres>,
    events: &'a [Event],
    found: Inserted,
    /// Refused, unless they are stored already.
    suspects: Vec<(usize, &'static str)>,
    /// Indexes over nothing but what we write.
    ours: HashSet<String>,
}

/// The events that the database takes are inserted, and the others named.
pub(super) async fn insert_each(
    transaction: &mut Transaction<'_, Postgres>,
    events: &[Event],
    on_conflict: OnConflict,
) -> Result<Inserted, Failure> {
    say(transaction, "SET CONSTRAINTS ALL IMMEDIATE").await?;
    // A rule that refuses no row at all is no row's.
    insert(transaction, []).await.map_err(|error| match error.into() {
        Failure::Row(broken) => Failure::Store(broken.takes_none()),
        failure => failure,
    })?;
    say(transaction, "SAVEPOINT part").await?;
    let mut order: Vec<usize> = (0..events.len()).collect();
    // Stable: the first of an id stays the first.
    order.sort_by(|a, b| events[*a].request_id.cmp(&events[*b].request_id));
    let (found, suspects, ours) = (Inserted::default(), Vec::new(), HashSet::new());
    let mut search = Search { transaction, events, found, suspects, ours };
    search.run(&order, on_conflict).await?;
    let found = search.found;
    if let Some(broken) = found.broken.as_ref().filter(|_| found.taken() && !found.refused.is_empty()) {
        broken.tell(found.refused.len());
    }
    Ok(found)
}

impl Search<'_, '_> {
    async fn run(&mut self, order: &[usize], on_conflict: OnConflict) -> Result<(), Failure> {
        let until = Instant::now() + LIMIT;
        let (mut at, mut last_refused) = (0, 0);
        // Where a part ends that has failed, and begins here or before. The whole has.
        let mut fails_until = Some(order.len());
        let mut stride = order.len();
        while at < order.len() {
            if Instant::now() > until {
                return Err(Failure::Store(Error::SearchTooLong));
            }
            let size = fails_until.map_or(stride, |end| (end - at) / 2).clamp(1, order.len() - at);
            let Some(broken) = self.attempt(&order[at..at + size]).await? else {
                at += size;
                fails_until = fails_until.filter(|end| at < *end);
                continue;
            };
            if size > 1 {
                fails_until = Some(at + size);
                continue;
            }
            self.suspect(order[at], broken).await?;
            at += 1;
            // Or it would be held against the next one of its id, which came later.
            if order
                .get(at)
                .is_some_and(|&next| self.events[next].request_id == self.events[order[at - 1]].request_id)
            {
                self.judge().await?;
            }
            fails_until = None;
            stride = at - last_refused;
            last_refused = at;
            if self.found.refused.len() >= ENOUGH {
                self.found.tried = self.found.taken() || self.takes_another(&order[at..]).await?;
                self.found.ended = on_conflict == OnConflict::Refuse || !self.found.tried;
            }
            if self.found.ended {
                return Ok(());
            }
        }
        self.judge().await
    }

    /// Inserts a part, or gives the rule that it breaks.
    async fn attempt(&mut self, part: &[usize]) -> Result<Option<Broken>, Failure> {
        let broken = match insert(self.transaction, part.iter().map(|&at| &self.events[at])).await {
            Ok(ids) => {
                self.found.ids.extend(ids.unwrap_or_else(|| all(self.events, part)));
                None
            }
            Err(error) => match error.into() {
                Failure::Row(broken) => Some(broken),
                other => return Err(other),
            },
        };
        let next = if broken.is_some() { "ROLLBACK TO part" } else { "RELEASE part; SAVEPOINT part" };
        say(self.transaction, next).await?;
        match broken {
            Some(broken) if !self.is_ours(&broken).await? => Err(Failure::Store(broken.takes_none())),
            broken => Ok(broken),
        }
    }

    /// Whether it can be the event's fault: an id that the table gives out by itself, from a sequence
    /// that is behind, is not.
    async fn is_ours(&mut self, broken: &Broken) -> Result<bool, Failure> {
        let Some((schema, index)) = broken.index() else { return Ok(true) };
        if !self.ours.contains(index) {
            if !is_over_ours(self.transaction, schema, index).await? {
                return Ok(false);
            }
            self.ours.insert(index.to_owned());
        }
        Ok(true)
    }

    /// Whether the database takes one of those that are left, each on trial and by itself. They lie
    /// far apart, and out of turn: nothing is inserted yet that another batch could wait for.
    async fn takes_another(&mut self, left: &[usize]) -> Result<bool, Failure> {
        for &at in left.iter().step_by(left.len().div_ceil(ENOUGH).max(1)) {
            let taken = insert(self.transaction, [&self.events[at]]).await;
            say(self.transaction, "ROLLBACK TO part").await?;
            match taken.map_err(Failure::from) {
                Ok(None) => return Ok(true),
                Ok(Some(_)) | Err(Failure::Row(_)) => {}
                Err(failure) => return Err(failure),
            }
        }
        Ok(false)
    }

    /// What the database lacks a character of, it can't be asked for.
    async fn suspect(&mut self, at: usize, broken: Broken) -> Result<(), Failure> {
        if broken.is_unspeakable() {
            self.found.refused.insert(at, broken.field);
        } else {
            self.suspects.push((at, broken.field));
        }
        self.found.broken.get_or_insert(broken);
        if self.suspects.len() >= ENOUGH { self.judge().await } else { Ok(()) }
    }

    /// What is stored already, from before there was the rule, is a duplicate all the same.
    async fn judge(&mut self) -> Result<(), Failure> {
        let suspects = std::mem::take(&mut self.suspects);
        if suspects.is_empty() {
            return Ok(());
        }
        let found = compare(self.transaction, suspects.iter().map(|(at, _)| &self.events[*at])).await?;
        let known: HashSet<usize> = found.into_iter().map(|(position, _)| position).collect();
        let refused = suspects.into_iter().enumerate().filter(|(position, _)| !known.contains(position));
        self.found.refused.extend(refused.map(|(_, suspect)| suspect));
        Ok(())
    }
}

fn all(events: &[Event], part: &[usize]) -> HashSet<String> {
    part.iter().map(|&at| events[at].request_id.clone()).collect()
}

async fn say(transaction: &mut Transaction<'_, Postgres>, sql: &'static str) -> Result<(), Failure> {
    sqlx::raw_sql(sql).execute(&mut **transaction).await?;
    Ok(())
}
