//! The rating statement against the bare aggregate: the same events, the same process of the
//! server, in alternating rounds, of which the best counts. Time that the process was on a core
//! is printed beside the time that passed: on a busy machine only the first says much.

use std::fs;
use std::time::{Duration, Instant};

use rater::domain::pricebook::Pricebook;
use rater::domain::window::{RateBasis, Trigger};
use rater::store::{Begun, Db, NewRun, Rules, Wanted};
use sqlx::{AssertSqlSafe, Executor, PgConnection, Row};
use uuid::Uuid;

use super::data::Filled;
use super::{FULL, Outcome, empty, verdict};

/// What a first run and one that changes nothing may take, in bare aggregates.
const FIRST_LIMIT: f64 = 1.7;
const AGAIN_LIMIT: f64 = 1.3;
const LEASE: Duration = Duration::from_secs(600);

/// How long something took: on the clock, and on a core of the server's.
#[derive(Clone, Copy)]
struct Took {
    wall: Duration,
    cpu: Duration,
}

/// One thing that is measured, over all rounds.
#[derive(Default)]
struct Series(Vec<Took>);

#[derive(Clone, Copy)]
struct Kind {
    trigger: Trigger,
    basis: RateBasis,
}

const BACKFILL: Kind = Kind { trigger: Trigger::Backfill, basis: RateBasis::Pricebook };
const ROUTINE: Kind = Kind { trigger: Trigger::Routine, basis: RateBasis::Frozen };

/// The chunks of one kind of run, and of each the statement alone.
#[derive(Default)]
struct Runs {
    chunks: Series,
    statements: Series,
}

impl Runs {
    fn add(&mut self, (chunk, statement): (Took, Took)) {
        self.chunks.0.push(chunk);
        self.statements.0.push(statement);
    }

    fn print(&self, name: &str, bare: &Series, limit: Option<f64>) {
        self.chunks.print(&format!("{name}, chunk"), Some(bare), limit);
        self.statements.print(&format!("{name}, statement"), Some(bare), limit);
    }
}

pub async fn measure(
    db: &Db,
    connection: &mut PgConnection,
    day: Filled,
    book: &Pricebook,
    rounds: i64,
) -> Outcome<()> {
    let bench = Bench { db, day, book };
    let mut bare = Series::default();
    let [mut first, mut backfill, mut routine] = [(); 3].map(|()| Runs::default());
    bench.round(connection, 0).await?; // warms up
    for round in 1..=rounds {
        let took = bench.round(connection, round).await?;
        bare.0.push(took.bare);
        first.add(took.first);
        backfill.add(took.backfill);
        routine.add(took.routine);
    }
    let again = (day.events >= FULL).then_some(AGAIN_LIMIT);
    println!("\n{} events in {} rollups, {rounds} rounds", day.events, day.rollups);
    println!("{:<42} on a core       on the clock    ratio of the best", "");
    println!("{:<42}   best median     best median     core clock", "seconds");
    bare.print("the bare aggregate", None, None);
    first.print("first run", &bare, again.map(|_| FIRST_LIMIT));
    backfill.print("backfill that changes nothing", &bare, again);
    routine.print("routine run that changes nothing", &bare, again);
    if again.is_none() {
        println!("the limits are for {FULL} events: a rollup has its price, however few it holds");
    }
    Ok(())
}

/// What one round took; a run's chunk, and of it the statement.
struct Round {
    bare: Took,
    first: (Took, Took),
    backfill: (Took, Took),
    routine: (Took, Took),
}

struct Bench<'a> {
    db: &'a Db,
    day: Filled,
    book: &'a Pricebook,
}

impl Bench<'_> {
    /// Everything once. The two runs that change nothing take turns at being the earlier one.
    async fn round(&self, connection: &mut PgConnection, number: i64) -> Outcome<Round> {
        let bare = self.bare(connection).await?;
        empty(connection).await?;
        let first = self.rate(connection, BACKFILL, true).await?;
        // As autovacuum would.
        connection.execute("VACUUM ANALYZE rated_usage").await?;
        let earlier = match number % 2 {
            1 => Some(self.rate(connection, ROUTINE, false).await?),
            _ => None,
        };
        let backfill = self.rate(connection, BACKFILL, false).await?;
        let routine = match earlier {
            Some(took) => took,
            None => self.rate(connection, ROUTINE, false).await?,
        };
        Ok(Round { bare, first, backfill, routine })
    }

    /// The least that any rating must do: every event summed up by its group, hour by hour.
    async fn bare(&self, connection: &mut PgConnection) -> Outcome<Took> {
        let sql = format!(
            "SELECT sum(a), sum(b), sum(c), sum(d), sum(n), count(*)
             FROM generate_series('{first}'::timestamptz, '{last}'::timestamptz, '1 hour') h, LATERAL (
                 SELECT auth_id, resource_id, model, base_model,
                     sum(prompt_tokens) a, sum(cached_tokens) b, sum(completion_tokens) c,
                     sum(greatest(prompt_tokens - cached_tokens, 0)) d, count(*) n
                 FROM billing_event
                 WHERE coalesce(event_ts, created_at) >= h
                     AND coalesce(event_ts, created_at) < h + '1 hour'
                 GROUP BY 1, 2, 3, 4) g",
            first = self.day.window.start.to_rfc3339(),
            last = (self.day.window.end - chrono::TimeDelta::hours(1)).to_rfc3339(),
        );
        let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut *connection).await?;
        let (began, cpu) = (Instant::now(), on_core(&[pid])?);
        let row = connection.fetch_one(AssertSqlSafe(sql)).await?;
        let took = Took { wall: began.elapsed(), cpu: on_core(&[pid])?.saturating_sub(cpu) };
        let groups: i64 = row.try_get(5)?;
        let rollups = self.day.rollups;
        if groups != rollups {
            return Err(format!("{groups} groups instead of {rollups}").into());
        }
        Ok(took)
    }

    /// A run of one chunk, as the service does it: the chunk's whole transaction, and of it the
    /// statement alone.
    async fn rate(&self, connection: &mut PgConnection, kind: Kind, first: bool) -> Outcome<(Took, Took)> {
        let run = self.run(kind);
        let Begun::Started(lease, _) = self.db.begin_run(&run).await? else {
            return Err("another run holds the window".into());
        };
        self.db.now().await?; // there is a connection for work now
        let pids = workers(connection).await?;
        let rules = Rules { book: self.book, trigger: kind.trigger, basis: kind.basis };
        let (began, cpu) = (Instant::now(), on_core(&pids)?);
        let mut chunk = self.db.begin_chunk(&lease, self.day.window, LEASE).await?;
        let (statement_began, statement_cpu) = (Instant::now(), on_core(&pids)?);
        let rated = chunk.rate(rules, Wanted::default()).await?;
        let statement =
            Took { wall: statement_began.elapsed(), cpu: on_core(&pids)?.saturating_sub(statement_cpu) };
        chunk.commit(&rated, None).await?;
        let counts = rated.counts;
        let whole = Took { wall: began.elapsed(), cpu: on_core(&pids)?.saturating_sub(cpu) };
        let rollups = self.day.rollups;
        let as_expected = match first {
            true => counts.inserted_rollups == rollups && counts.rollups() == rollups,
            false => counts.unchanged_rollups == rollups && counts.rollups() == rollups,
        };
        if !as_expected || counts.rated_events != counts.events {
            return Err(format!("the run did something else: {counts:?}").into());
        }
        Ok((whole, statement))
    }

    fn run(&self, kind: Kind) -> NewRun {
        NewRun {
            run_id: Uuid::now_v7().to_string(),
            window: self.day.window,
            trigger: kind.trigger,
            basis: kind.basis,
            pricebook_digest: self.book.digest().to_owned(),
            pricebook_yaml: self.book.yaml().to_owned(),
            currency: self.book.currency().to_owned(),
            requested_by: String::new(),
            request_id: None,
            request_hash: String::new(),
            reason: None,
            expected_plan_hash: None,
            traceparent: None,
            lease_ttl: LEASE,
        }
    }
}

/// The server's processes that work for `rater`.
async fn workers(connection: &mut PgConnection) -> Outcome<Vec<i32>> {
    let sql = "SELECT pid FROM pg_stat_activity WHERE application_name = 'rater'";
    Ok(sqlx::query_scalar(sql).fetch_all(connection).await?)
}

/// How long these processes were on a core so far; Linux alone tells to the nanosecond.
fn on_core(pids: &[i32]) -> Outcome<Duration> {
    let mut sum = Duration::ZERO;
    for pid in pids {
        let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
        sum += Duration::from_nanos(text.split(' ').next().unwrap_or_default().parse().unwrap_or(0));
    }
    Ok(sum)
}

impl Series {
    fn best(&self, of: impl Fn(&Took) -> Duration) -> f64 {
        self.0.iter().map(of).min().unwrap_or_default().as_secs_f64()
    }

    fn median(&self, of: impl Fn(&Took) -> Duration) -> f64 {
        let mut all: Vec<Duration> = self.0.iter().map(of).collect();
        all.sort();
        all.get(all.len() / 2).copied().unwrap_or_default().as_secs_f64()
    }

    fn print(&self, name: &str, against: Option<&Series>, limit: Option<f64>) {
        let (cpu, wall) = (|took: &Took| took.cpu, |took: &Took| took.wall);
        print!(
            "{name:<42} {:>6.3} {:>6.3}   {:>6.3} {:>6.3}",
            self.best(cpu),
            self.median(cpu),
            self.best(wall),
            self.median(wall)
        );
        let Some(bare) = against else { return println!() };
        let ratio = |of: fn(&Took) -> Duration| self.best(of) / bare.best(of);
        print!("   {:>6.2} {:>5.2}", ratio(cpu), ratio(wall));
        // Where no time on a core is told, the clock must do.
        let decides = if bare.best(cpu) > 0.0 { ratio(cpu) } else { ratio(wall) };
        println!("{}", verdict(decides, limit));
    }
}
