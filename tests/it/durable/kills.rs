//! A backfill of 30 days whose process is killed again and again, on each side of whatever it says
//! to the database: nothing is lost, nothing is billed twice, and at no moment does the record
//! say more than the table holds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rater::proto::RateWindowRequest;

use super::*;
use crate::events::Random;
use crate::harness::soak;
use crate::stage::{rate, window};

const FINISHED: &str = "SELECT count(*) FROM rating_run WHERE finished_at IS NOT NULL";
/// A chunk takes a moment, for heartbeats to come in between.
const SLOW: &str = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_sleep(0.03); RETURN NULL; END $$;
    CREATE TRIGGER slow BEFORE INSERT ON rating_run_chunk FOR EACH STATEMENT EXECUTE FUNCTION slow()";

/// When a process is killed.
#[derive(Debug, Clone, Copy)]
enum Kill {
    At(Spot),
    After(Duration),
}

fn at(statement: &'static str, nth: u32, side: Side) -> Kill {
    Kill::At(Spot { statement, nth, side })
}

/// The moments of a run with a plan, in an order in which each comes.
fn each_moment() -> Vec<Kill> {
    use Side::{After, Before, During};
    vec![
        at(COMMIT, 1, Before),
        at(COMMIT, 1, After),
        // The survey.
        at(S2, 3, During),
        at(STORE_PLAN, 1, After),
        at(HEARTBEAT, 1, During),
        // The first COMMIT is that of the takeover.
        at(COMMIT, 2, Before),
        at(COMMIT, 2, After),
        at(COMMIT, 4, During),
        at(S1, 2, After),
        at(S2, 2, During),
        at(S3, 1, Before),
        at(FEED, 2, After),
        at(TAKE, 1, After),
    ]
}

/// One that is still to come: of a run that begins, and of one that has no plan yet.
fn any_moment(random: &mut Random, begins: bool, plans: bool) -> Kill {
    let mut statements = vec![COMMIT, COMMIT, S1, S2, S3, FEED, HEARTBEAT, TAKE];
    statements.extend(begins.then_some(BEGIN));
    statements.extend(plans.then_some(STORE_PLAN));
    let side = [Side::Before, Side::During, Side::After][random.below(3) as usize];
    match random.below(4) {
        0 => Kill::After(Duration::from_micros(random.below(3_000_000))),
        _ => {
            let statement = statements[random.below(statements.len() as u64) as usize];
            let rare = matches!(statement, HEARTBEAT | TAKE | BEGIN | STORE_PLAN);
            at(statement, if rare { 1 } else { 1 + random.below(6) as u32 }, side)
        }
    }
}

/// A backfill that dies.
struct Backfill {
    stage: Stage,
    hours: i64,
    arguments: Vec<String>,
    request: RateWindowRequest,
    kills: BTreeMap<String, u32>,
}

impl Backfill {
    async fn new(hours: i64, an_hour: i64, chunk_hours: u32) -> Backfill {
        let stage = Stage::new().await;
        stage.fill("e", 0, hours, an_hour).await;
        stage.sql("ANALYZE billing_event").await;
        let arguments = format!("--lease-ttl 2s --chunk-hours {chunk_hours} --parallel 1");
        let arguments = arguments.split(' ').map(str::to_owned).collect();
        let request = RateWindowRequest { request_id: "the backfill".into(), ..window(0, hours) };
        Backfill { stage, hours, arguments, request, kills: BTreeMap::new() }
    }

    async fn serve(&self, proxy: &Proxy) -> Service {
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        self.stage.service_over(&proxy.url(&self.stage.url), &arguments).await
    }

    /// From now on it keeps to the plan that a dry run gives.
    async fn planned(mut self) -> Backfill {
        let service = self.serve(&Proxy::to(&self.stage.url).await).await;
        let plan =
            rate(&service, RateWindowRequest { dry_run: true, ..window(0, self.hours) }).await.unwrap();
        self.request.expected_plan_hash = plan.plan_hash;
        self
    }

    /// One process: goes on with the run until it is killed, or the run is done.
    async fn live(&mut self, kill: Kill) -> bool {
        let proxy = Proxy::to(&self.stage.url).await;
        let mut service = self.serve(&proxy).await;
        if let Kill::At(spot) = kill {
            proxy.strike(spot, Deed::Kill(service.pid()));
        }
        end_leases(&self.stage).await;
        let call = ask(&service, self.request.clone()).await;
        let done = async || self.stage.number(FINISHED).await == 1;
        let struck = match kill {
            Kill::At(_) => {
                until("killed, or done", SOON * 4, async || proxy.has_struck() || done().await).await;
                proxy.has_struck()
            }
            Kill::After(delay) => {
                tokio::time::sleep(delay).await;
                let struck = !done().await;
                if struck {
                    service.signal(Signal::SIGKILL);
                }
                struck
            }
        };
        if struck {
            service.wait(SOON).await;
            *self.kills.entry(name(kill)).or_default() += 1;
        }
        let answer = call.await.unwrap();
        assert!(struck || answer.is_ok(), "{kill:?} {answer:?}");
        drop(service);
        quiet(&self.stage).await;
        hold_leases(&self.stage).await;
        let faults = (self.stage.number(AHEAD).await, self.stage.feed_faults().await);
        assert_eq!(faults, (0, 0), "after {kill:?}: the record is ahead of the table");
        struck
    }

    /// A last process, that nobody kills, ends it; and it is as if there had been one.
    async fn finish(&self) {
        let service = self.serve(&Proxy::to(&self.stage.url).await).await;
        end_leases(&self.stage).await;
        rate(&service, self.request.clone()).await.expect("the run's result");
        stop(service).await;
        self.assert_whole().await;
    }

    async fn assert_whole(&self) {
        assert_billed_once(&self.stage).await;
        assert_eq!(self.stage.number(RUNS).await, 1);
        let hours =
            "SELECT (sum(extract(epoch FROM chunk_end - chunk_start)) / 3600)::bigint FROM rating_run_chunk";
        assert_eq!(self.stage.number(hours).await, self.hours);
        let events =
            "SELECT sum(events)::bigint - (SELECT count(*) FROM billing_event) FROM rating_run_chunk";
        assert_eq!(self.stage.number(events).await, 0);
    }

    async fn forget(&self) {
        let sql = "TRUNCATE rated_usage, rated_usage_change, change_batch, rating_run, rating_run_chunk,
            rating_anomaly, rating_lease";
        self.stage.sql(sql).await;
    }

    fn killed(&self) -> u32 {
        self.kills.values().sum()
    }
}

fn name(kill: Kill) -> String {
    match kill {
        Kill::At(Spot { statement, side, .. }) => format!("{side:?} {statement}"),
        Kill::After(_) => "at a random moment".into(),
    }
}

/// Looks again and again, while the processes come and go.
struct Watch {
    over: Arc<AtomicBool>,
    looks: JoinHandle<u32>,
}

impl Watch {
    fn over(stage: &Stage) -> Watch {
        let over = Arc::new(AtomicBool::new(false));
        let (ends, pool) = (over.clone(), stage.pool.clone());
        let looks = tokio::spawn(async move {
            let mut looks = 0;
            while !ends.load(Ordering::Relaxed) {
                let faults: i64 = sqlx::query_scalar(AHEAD).fetch_one(&pool).await.unwrap();
                assert_eq!(faults, 0, "the record is ahead of the table");
                looks += 1;
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            looks
        });
        Watch { over, looks }
    }

    async fn end(self) -> u32 {
        self.over.store(true, Ordering::Relaxed);
        self.looks.await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_each_moment_a_backfill_goes_on_and_bills_each_rollup_once() {
    let mut backfill = Backfill::new(720, 3, 24).await.planned().await;
    backfill.stage.sql(SLOW).await;
    let watch = Watch::over(&backfill.stage);
    for kill in each_moment() {
        assert!(backfill.live(kill).await, "{kill:?} did not come: {:?}", backfill.kills);
    }
    backfill.finish().await;
    println!("{} kills, {} looks: {:?}", backfill.killed(), watch.end().await, backfill.kills);
}

/// `RATER_SEED` repeats it.
#[tokio::test(flavor = "multi_thread")]
async fn killed_at_random_a_backfill_goes_on_and_bills_each_rollup_once() {
    let seed = std::env::var("RATER_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_120);
    let number = |name: &str| std::env::var(name).ok().and_then(|number| number.parse().ok());
    let (kills, hours, an_hour) = if soak() { (200, 720, 2_800) } else { (3, 96, 3) };
    let kills = number("RATER_KILLS").unwrap_or(kills);
    println!("to repeat it: RATER_SEED={seed}; {} events, {kills} kills", hours * an_hour);
    let begun = Instant::now();
    let mut backfill = Backfill::new(hours, an_hour, 6).await.planned().await;
    let mut random = Random(seed);
    let (mut runs, mut looks) = (0, 0);
    while backfill.killed() < kills {
        runs += 1;
        // One in two side by side, and one in two without a plan.
        backfill.arguments[5] = [1, 4][random.below(2) as usize].to_string();
        let plan = backfill.request.expected_plan_hash.clone();
        if random.below(2) == 0 {
            backfill.request.expected_plan_hash.clear();
        }
        let watch = Watch::over(&backfill.stage);
        loop {
            let begins = backfill.stage.number(RUNS).await == 0;
            let planned = "SELECT count(*) FROM rating_run WHERE hour_hashes IS NOT NULL";
            let plans =
                !backfill.request.expected_plan_hash.is_empty() && backfill.stage.number(planned).await == 0;
            let kill = any_moment(&mut random, begins, plans);
            let struck = backfill.live(kill).await;
            println!("{kill:?}: {struck} {:?}", begun.elapsed());
            if !struck {
                break backfill.assert_whole().await;
            }
            if backfill.killed() >= kills {
                break backfill.finish().await;
            }
        }
        looks += watch.end().await;
        backfill.request.expected_plan_hash = plan;
        println!("run {runs}: {} kills so far, after {:?}", backfill.killed(), begun.elapsed());
        backfill.forget().await;
    }
    println!("{} kills in {runs} runs, {looks} looks, seed {seed}: {:?}", backfill.killed(), backfill.kills);
}
