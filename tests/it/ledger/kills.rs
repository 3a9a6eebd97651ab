//! The consumer is killed again and again, at chosen statements and at random moments, while runs
//! insert, update and delete, and first copies begin anew: its totals are those of rated usage.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rater::proto::rating_service_client::RatingServiceClient;
use sqlx::AssertSqlSafe;
use tonic::transport::Channel;

use super::*;
use crate::events::Random;
use crate::harness::{Event, event, insert, soak};
use crate::proxy::{Deed, Proxy, Side, Spot};
use crate::rig::{backfill, dearer, hour, routine};

const HOURS: u64 = 12;

/// When it is killed.
#[derive(Debug, Clone, Copy)]
enum Kill {
    At(Spot),
    After(Duration),
}

fn at(statement: &'static str, nth: u32, side: Side) -> Kill {
    Kill::At(Spot { statement, nth, side })
}

const STEP: &str = "UPDATE consumer SET version";
const COPY: &str = "INSERT INTO rollup_copy";
const SETTLE: &str = "FETCH ";
const LINES: &str = "INSERT INTO ledger_line";
const HELD: &str = "INSERT INTO rollup SELECT";
const GONE: &str = "DELETE FROM rollup WHERE";

/// Each statement of a first copy, then each of a message, in an order in which each comes; `true`:
/// a first copy is begun before.
fn each_moment() -> Vec<(bool, Kill)> {
    use Side::{After, Before, During};
    vec![
        (true, at(COPY, 1, Before)),
        (false, at(COPY, 2, During)),
        (false, at("COMMIT", 2, Before)),
        (false, at("COMMIT", 2, After)),
        (false, at(SETTLE, 1, After)),
        (false, at("TRUNCATE", 1, During)),
        (true, at("COMMIT", 3, During)),
        (false, at(STEP, 1, After)),
        (false, at(LINES, 1, Before)),
        (false, at(LINES, 1, After)),
        (false, at(HELD, 2, During)),
        (false, at(GONE, 1, After)),
        (false, at("COMMIT", 1, Before)),
        (false, at("COMMIT", 1, During)),
        (false, at("COMMIT", 1, After)),
        (false, at(STEP, 3, Before)),
    ]
}

fn any_moment(random: &mut Random) -> (bool, Kill) {
    let begins = random.below(4) == 0;
    let side = [Side::Before, Side::During, Side::After][random.below(3) as usize];
    let statements: &[&str] = match begins {
        true => &["COMMIT", COPY, STEP, SETTLE, LINES],
        false => &["COMMIT", STEP, LINES, HELD, GONE],
    };
    let statement = statements[random.below(statements.len() as u64) as usize];
    let nth = if statement == SETTLE { 1 } else { 1 + random.below(5) as u32 };
    match random.below(3) {
        0 => (begins, Kill::After(Duration::from_micros(random.below(600_000)))),
        _ => (begins, at(statement, nth, side)),
    }
}

/// Runs that insert, update and delete, until they are told to stop.
struct Traffic {
    over: Arc<AtomicBool>,
    runs: Arc<AtomicU32>,
    task: tokio::task::JoinHandle<()>,
}

impl Traffic {
    fn on(rig: &Rig, seed: u64) -> Traffic {
        let (over, runs) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let (ends, counts) = (over.clone(), runs.clone());
        let (client, pool, path) = (rig.client(), rig.pool().clone(), rig.book_path());
        let task = tokio::spawn(async move {
            let mut random = Random(seed);
            while !ends.load(Ordering::Relaxed) {
                let number = counts.fetch_add(1, Ordering::Relaxed);
                one_run(client.clone(), &pool, &mut random, number).await;
                if number % 10 == 5 {
                    let book = if number % 20 == 5 { dearer() } else { BOOK.to_string() };
                    let new = path.with_extension("new");
                    std::fs::write(&new, book).unwrap();
                    std::fs::rename(new, &path).unwrap();
                }
                tokio::time::sleep(Duration::from_millis(random.below(60))).await;
            }
        });
        Traffic { over, runs, task }
    }

    async fn end(self) -> u32 {
        self.over.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
        self.runs.load(Ordering::Relaxed)
    }
}

fn any_event(random: &mut Random, name: String) -> Event {
    let below = |random: &mut Random, limit| random.below(limit) as i32;
    let model = ["acme/large", "acme/small", "ft:named"][random.below(3) as usize];
    event(&name)
        .auth(&format!("auth-{}", random.below(9)))
        .resource(&format!("res-{}", random.below(3)))
        .model(model)
        .tokens(below(random, 1_000), below(random, 500), below(random, 300))
        .at(&hour(random.below(HOURS) as u32))
}

/// Some events come, some go, and the hours of some are rated.
async fn one_run(mut client: RatingServiceClient<Channel>, pool: &PgPool, random: &mut Random, number: u32) {
    let count = 1 + random.below(20);
    let events: Vec<Event> = (0..count).map(|n| any_event(random, format!("t{number}-{n}"))).collect();
    insert(pool, events).await;
    let gone = format!(
        "DELETE FROM billing_event WHERE request_id IN (SELECT request_id FROM billing_event
         ORDER BY md5(request_id || '{number}') LIMIT {})",
        random.below(20)
    );
    sqlx::query(AssertSqlSafe(gone)).execute(pool).await.unwrap();
    let since = random.below(HOURS) as u32;
    let until = since + 1 + random.below(HOURS - u64::from(since)) as u32;
    let request = if random.below(3) == 0 { routine(since, until) } else { backfill(since, until) };
    client.rate_window(request).await.unwrap();
}

/// The consumer, which dies.
struct Mortal {
    rig: Rig,
    ledger: Consumer,
    kills: BTreeMap<String, u32>,
}

impl Mortal {
    /// One process, from its start to its end by a kill.
    async fn live(&mut self, (begins, kill_at): (bool, Kill)) {
        if begins {
            self.ledger.did("", &["copy-again"]).await;
        }
        let proxy = Proxy::to(&self.ledger.db.url).await;
        let arguments = ["follow", "--page-size", "25"];
        let mut command = self.ledger.command(&proxy.url(&self.ledger.db.url), &arguments);
        command.env("RATER_SERVER", self.rig.service.url()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let struck = match kill_at {
            Kill::At(spot) => {
                proxy.strike(spot, Deed::Kill(child.id()));
                // By the signal, and not by itself.
                ended(&mut child, Duration::from_secs(30)).await.is_some_and(|status| status.code().is_none())
            }
            Kill::After(delay) => {
                assert_eq!(ended(&mut child, delay).await, None, "it ended by itself");
                true
            }
        };
        kill(&mut child).await;
        assert!(struck, "{kill_at:?} did not come");
        let name = match kill_at {
            Kill::At(Spot { statement, side, .. }) => format!("{side:?} {statement}"),
            Kill::After(_) => "at a random moment".into(),
        };
        *self.kills.entry(name).or_default() += 1;
        // Whatever it was at: each rollup is what its lines add up to.
        assert_eq!(self.ledger.number(FAULTS).await, 0, "after {kill_at:?}");
    }
}

/// `RATER_SEED` repeats it.
#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_its_totals_are_those_of_rated_usage_to_the_last_digit() {
    let seed = std::env::var("RATER_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_120);
    let kills = if soak() { 100 } else { 8 };
    println!("to repeat it: RATER_SEED={seed}");
    let mut random = Random(seed);
    let (rig, ledger) = begun().await;
    rig.insert((0..400).map(|n| any_event(&mut random, format!("e{n}")))).await;
    rig.rated(backfill(0, HOURS as u32)).await;
    ledger.catch_up(&rig).await;
    let traffic = Traffic::on(&rig, seed ^ 1);
    let mut mortal = Mortal { rig, ledger, kills: BTreeMap::new() };
    let mut moments = each_moment();
    if !soak() {
        // Another few of them each time that the seed is another.
        random.shuffle(&mut moments);
        moments.truncate(5);
    }
    for moment in moments {
        mortal.live(moment).await;
    }
    while mortal.kills.values().sum::<u32>() < kills {
        mortal.live(any_moment(&mut random)).await;
    }
    let runs = traffic.end().await;
    let Mortal { rig, ledger, kills } = mortal;
    ledger.catch_up(&rig).await;
    ledger.assert_equals(&rig).await;
    let figures = "SELECT concat_ws(' ', count(*), 'lines,', count(*) FILTER (WHERE kind = 'correction'),
        'corrections,', count(*) FILTER (WHERE amount < 0), 'negative') FROM ledger_line";
    let figures = ledger.texts(figures).await;
    let changes = rig.count("rated_usage_change").await;
    let total = rig.one::<String>("SELECT trim_scale(sum(cost))::text FROM rated_usage").await;
    println!(
        "{} kills, {runs} runs, {changes} changes, {figures:?}, {total} in all, seed {seed}: {kills:?}",
        kills.values().sum::<u32>()
    );
}
