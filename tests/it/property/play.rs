//! Plays a case: changes what is stored, rates, and holds what came of it against the oracle,
//! step by step, in days that no other case has.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use rater::domain::rating::{self, Event, Operation, Outcome, Rollup, RollupKey, Run};
use rater::domain::window::{RateBasis, Trigger, Window};
use sqlx::PgConnection;

use super::check::{Observed, check};
use super::coverage::Coverage;
use super::elsewhere::{self, Checks};
use super::script::{Case, EventSpec, Mode, RunSpec, Step, slot_start};
use super::statement::{self, Execution};
use super::table::{self, Tables};

/// A database that cases are played in, and what they came across.
pub struct Player {
    pub connection: PgConnection,
    pub coverage: Coverage,
    /// Statements that were held against the oracle.
    pub runs: u64,
    checks: Checks,
    slots: i64,
    fence: i64,
}

/// Where a case is played, and what is stored there by now.
struct Stage<'c> {
    case: &'c Case,
    slot: i64,
    start: DateTime<Utc>,
    events: BTreeMap<String, EventSpec>,
    tables: Tables,
    names: usize,
}

impl Player {
    pub async fn new(mut connection: PgConnection) -> sqlx::Result<Player> {
        let checks = Checks::read(&mut connection).await?;
        Ok(Player { connection, coverage: Coverage::default(), runs: 0, checks, slots: 0, fence: 0 })
    }

    /// Plays a case to its end and gives what is stored then, or says what went wrong.
    pub async fn play(&mut self, case: &Case) -> Result<Tables, String> {
        self.slots += 1;
        let (slot, start) = (self.slots, slot_start(self.slots));
        let (events, tables) = (BTreeMap::new(), Tables::default());
        let mut stage = Stage { case, slot, start, events, tables, names: 0 };
        for (number, step) in case.steps.iter().enumerate() {
            self.step(&mut stage, step).await.map_err(|error| format!("step {number}: {error}"))?;
        }
        Ok(stage.tables)
    }

    async fn step(&mut self, stage: &mut Stage<'_>, step: &Step) -> Result<(), String> {
        self.store(stage, step).await.map_err(|error| format!("storing: {error}"))?;
        let elsewhere = stage.changed_elsewhere(step);
        let put = elsewhere::put(&mut self.connection, &self.checks, &elsewhere).await;
        put.map_err(|error| format!("putting rows from elsewhere: {error}"))?;
        let before = table::read(&mut self.connection, stage.start).await.map_err(|e| e.to_string())?;
        let outcome = self.run(stage, &step.run, before).await?;
        if outcome.foreign_currency.is_some() {
            return Ok(());
        }
        let before = stage.tables.clone();
        let again = self.run(stage, &step.run, before.clone()).await.map_err(|e| format!("again: {e}"))?;
        let kept = |operation| matches!(operation, Operation::Unchanged | Operation::Left);
        if again.rollups.values().any(|settled| !kept(settled.operation)) || before != stage.tables {
            return Err(format!("R6: the same run again wrote something: {again:#?}"));
        }
        Ok(())
    }

    /// Rates once, and checks all that came of it.
    async fn run(
        &mut self,
        stage: &mut Stage<'_>,
        spec: &RunSpec,
        before: Tables,
    ) -> Result<Outcome, String> {
        let book = stage.case.books[spec.book].book(stage.start);
        let from = stage.start + TimeDelta::hours(spec.from);
        let (trigger, basis) = match spec.mode {
            Mode::Routine => (Trigger::Routine, RateBasis::Frozen),
            Mode::Backfill => (Trigger::Backfill, RateBasis::Pricebook),
            Mode::FrozenBackfill => (Trigger::Backfill, RateBasis::Frozen),
        };
        let window = Window { start: from, end: from + TimeDelta::hours(spec.hours) };
        let run = Run { window, trigger, basis, book: &book };
        let held = before.rollups.iter().map(|(key, row)| (key.clone(), row.rollup.clone())).collect();
        let outcome = rating::rate(&run, &stage.metered(), &held).map_err(|error| error.to_string())?;
        self.coverage.observe(&run, &before, &outcome);
        if spec.hours > i64::from(spec.chunk_hours) {
            self.coverage.hit("run in chunks");
        }
        (self.runs, self.fence) = (self.runs + 1, self.fence + 1);
        let run_id = format!("run-{}", self.fence);
        let execution = Execution {
            run_id: &run_id,
            fence: self.fence,
            chunk_hours: spec.chunk_hours,
            time_zone: spec.time_zone,
            first_batch: u128::from(self.runs) << 64,
        };
        let report = statement::rate(&mut self.connection, &run, &execution).await;
        let report = report.map_err(|error| format!("the statement failed: {error}"))?;
        let seen = self.look(stage, &outcome, &report).await.map_err(|error| error.to_string())?;
        stage.tables = seen.0;
        let observed = Observed {
            run: &run,
            run_id: &run_id,
            fence: self.fence,
            before: &before,
            after: &stage.tables,
            report: &report,
            changes: &seen.1,
            ids: &seen.2,
        };
        check(&observed, &outcome)?;
        Ok(outcome)
    }

    async fn look(
        &mut self,
        stage: &Stage<'_>,
        outcome: &Outcome,
        report: &statement::Report,
    ) -> sqlx::Result<(Tables, Vec<(uuid::Uuid, i64, table::Change)>, BTreeMap<RollupKey, String>)> {
        let tables = table::read(&mut self.connection, stage.start).await?;
        let changes = table::changes(&mut self.connection, &report.batches).await?;
        let inserted = outcome.rollups.iter().filter(|(_, settled)| settled.operation == Operation::Insert);
        let keys: Vec<RollupKey> = inserted.map(|(key, _)| key.clone()).collect();
        let texts: Vec<String> = keys.iter().map(identity).collect();
        let ids = table::md5(&mut self.connection, &texts).await?;
        Ok((tables, changes, keys.into_iter().zip(ids).collect()))
    }

    async fn store(&mut self, stage: &mut Stage<'_>, step: &Step) -> sqlx::Result<()> {
        let mut gone = Vec::new();
        let mut come: Vec<(String, EventSpec)> = Vec::new();
        let known: Vec<String> = stage.events.keys().cloned().collect();
        if !known.is_empty() {
            gone.extend(step.remove.iter().map(|index| index.get(&known).clone()));
            for index in &step.rename {
                let id = index.get(&known);
                come.push((stage.request_id(), stage.events[id].clone()));
                gone.push(id.clone());
            }
            for index in &step.echo {
                let event = stage.events[index.get(&known)].clone();
                come.push((stage.request_id(), EventSpec { tokens: [Some(0); 3], ..event }));
            }
            for (index, which) in &step.nudge {
                let id = index.get(&known);
                let mut event = stage.events[id].clone();
                event.tokens[*which] = event.tokens[*which].map(|count| count.saturating_add(1));
                come.push((id.clone(), event));
            }
            come.extend(step.alter.iter().map(|(index, event)| (index.get(&known).clone(), event.clone())));
        }
        for event in &step.add {
            come.push((stage.request_id(), event.clone()));
        }
        let mut changed = Vec::new();
        for id in &gone {
            stage.events.remove(id);
            changed.push(id.clone());
        }
        for (id, event) in come {
            changed.push(id.clone());
            stage.events.insert(id, event);
        }
        sqlx::query("DELETE FROM billing_event WHERE request_id = ANY($1)")
            .bind(&changed)
            .execute(&mut self.connection)
            .await?;
        let stored: Vec<(&String, &EventSpec)> =
            stage.events.iter().filter(|(id, _)| changed.contains(id)).collect();
        insert(&mut self.connection, stage.start, &stored).await
    }
}

impl Stage<'_> {
    /// An id whose order by bytes is not that of the alphabet, nor that of its coming.
    fn request_id(&mut self) -> String {
        self.names += 1;
        let prefix = ["b", "A", "a", "é", "_", "B"][self.names * 7 % 6];
        format!("{prefix}{}-{}", self.slot, self.names)
    }

    /// The events, as the oracle takes them.
    fn metered(&self) -> Vec<Event> {
        let owned = |id: Option<&str>| id.map(str::to_owned);
        let event = |(request_id, event): (&String, &EventSpec)| Event {
            request_id: request_id.clone(),
            auth_id: owned(event.auth_id),
            resource_id: owned(event.resource_id),
            model: owned(event.model),
            base_model: owned(event.base_model),
            prompt_tokens: event.tokens[0],
            cached_tokens: event.tokens[1],
            completion_tokens: event.tokens[2],
            at: instant(self.start, event),
        };
        self.events.iter().map(event).collect()
    }

    /// What comes from elsewhere in a step, by its key: adopted, or changed from what is held.
    fn changed_elsewhere(&mut self, step: &Step) -> Vec<(RollupKey, Rollup, String)> {
        let mut rollups: BTreeMap<RollupKey, Rollup> = BTreeMap::new();
        let held: Vec<_> = self.tables.rollups.iter().collect();
        for (index, flaw) in step.tamper.iter().filter(|_| !held.is_empty()) {
            let (key, row) = index.get(&held);
            rollups.insert((*key).clone(), elsewhere::flawed(row.rollup.clone(), *flaw));
        }
        for adopted in &step.adopt {
            let key = RollupKey {
                window_start: self.start + TimeDelta::hours(adopted.hour),
                auth_id: adopted.auth_id.to_owned(),
                resource_id: adopted.resource_id.to_owned(),
                model_id: adopted.model_id.to_owned(),
                price_class: adopted.price_class.to_owned(),
            };
            rollups.insert(key, elsewhere::rollup(adopted));
        }
        let named = |(key, rollup)| {
            self.names += 1;
            (key, rollup, format!("elsewhere-{}-{}", self.slot, self.names))
        };
        rollups.into_iter().map(named).collect()
    }
}

fn instant(start: DateTime<Utc>, event: &EventSpec) -> DateTime<Utc> {
    start + TimeDelta::hours(event.hour) + TimeDelta::microseconds(event.micros)
}

/// What a rollup's id is the md5 of: lengths are in characters.
fn identity(key: &RollupKey) -> String {
    let part = |text: &str| format!("{}:{text}", text.chars().count());
    let [auth, resource, model] = [&key.auth_id, &key.resource_id, &key.model_id].map(|id| part(id));
    format!("{auth}|{resource}|{model}|{}", key.window_start.timestamp())
}

async fn insert(
    connection: &mut PgConnection,
    start: DateTime<Utc>,
    events: &[(&String, &EventSpec)],
) -> sqlx::Result<()> {
    let texts = |of: fn(&EventSpec) -> Option<&'static str>| -> Vec<Option<&'static str>> {
        events.iter().map(|(_, event)| of(event)).collect()
    };
    let tokens =
        |which: usize| -> Vec<Option<i32>> { events.iter().map(|(_, event)| event.tokens[which]).collect() };
    let at = |event: &EventSpec| instant(start, event);
    let timed: Vec<Option<DateTime<Utc>>> =
        events.iter().map(|(_, event)| (!event.untimed).then(|| at(event))).collect();
    // What has a time of its own was stored hours later.
    let stored: Vec<DateTime<Utc>> = events
        .iter()
        .map(|(_, event)| at(event) + TimeDelta::hours(if event.untimed { 0 } else { 2 }))
        .collect();
    let sql = "INSERT INTO billing_event (request_id, auth_id, resource_id, model, base_model,
            prompt_tokens, cached_tokens, completion_tokens, event_ts, created_at)
        SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[],
            $6::int4[], $7::int4[], $8::int4[], $9::timestamptz[], $10::timestamptz[])";
    sqlx::query(sql)
        .bind(events.iter().map(|(id, _)| (*id).clone()).collect::<Vec<_>>())
        .bind(texts(|event| event.auth_id))
        .bind(texts(|event| event.resource_id))
        .bind(texts(|event| event.model))
        .bind(texts(|event| event.base_model))
        .bind(tokens(0))
        .bind(tokens(1))
        .bind(tokens(2))
        .bind(timed)
        .bind(stored)
        .execute(connection)
        .await?;
    Ok(())
}
