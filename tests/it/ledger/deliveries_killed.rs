//! `deliver` is killed again and again, in its statements and at random moments, while lines come,
//! invoices become final, requests are refused and answers are lost, and days pass. What the API
//! has counted is what the ledger has told, to the last digit, and never less than nothing.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use super::*;
use crate::events::Random;
use crate::harness::{soak, temp_dir};
use crate::proxy::{Deed, Proxy, Side, Spot};
use crate::rig::eventually;

const CUSTOMERS: u64 = 4;

/// The API's side of the outbox: of requests with one identifier it counts the first, for a day.
struct Api {
    outbox: PathBuf,
    /// After how many lines a day went by, and it forgot what it had.
    days: Vec<usize>,
    /// After how many lines which customer's hours before which one were on a final invoice.
    finals: Vec<(usize, String, i64)>,
}

impl Api {
    fn lines(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.outbox).unwrap_or_default();
        text.split_inclusive('\n').map(String::from).collect()
    }

    /// How often each identifier was counted, and what of each customer, in units.
    fn counted(&self) -> (BTreeMap<String, u32>, BTreeMap<String, i128>) {
        let (mut known, mut counted, mut owed) = (HashMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut metered: HashMap<String, i128> = HashMap::new();
        for (at, line) in self.lines().iter().enumerate() {
            if self.days.contains(&at) {
                known.clear();
            }
            // A line that was torn never came whole.
            let Ok(request) = serde_json::from_str::<Value>(line) else { continue };
            let (id, body) = (request["id"].as_str().unwrap().to_string(), request["body"].clone());
            if let Some(first) = known.get(&id) {
                assert_eq!(first, &body, "another body of {id}");
                continue;
            }
            let (customer, units): (_, i128) = match request["channel"].as_str().unwrap() {
                "meter" => {
                    let is_final = |(from, customer, until): &(usize, String, i64)| {
                        *from <= at
                            && body["payload"]["stripe_customer_id"] == **customer
                            && body["timestamp"].as_i64() < Some(*until)
                    };
                    if self.finals.iter().any(is_final) {
                        continue; // and nobody is ever billed for it
                    }
                    let value = body["payload"]["value"].as_str().unwrap().parse().unwrap();
                    let hour = format!("{} {}", body["payload"]["stripe_customer_id"], body["timestamp"]);
                    let sum = metered.entry(hour).or_default();
                    *sum += value;
                    assert!(*sum >= 0, "the meter has {sum} after {line}");
                    (&body["payload"]["stripe_customer_id"], value)
                }
                _ => (&body["customer"], meter::units(body["amount"].as_str().unwrap(), 12).unwrap().into()),
            };
            *owed.entry(customer.as_str().unwrap().to_string()).or_default() += units;
            *counted.entry(id.clone()).or_default() += 1;
            known.insert(id, body);
        }
        (counted, owed)
    }
}

struct World {
    ledger: Consumer,
    api: Api,
    random: Random,
    /// What each rollup costs by now, by its customer and the age of its hour.
    costs: HashMap<(u64, u64), i64>,
    lines: u64,
}

impl World {
    /// Rollups come, change and go.
    async fn lines_come(&mut self) {
        let mut values = Vec::new();
        for _ in 0..1 + self.random.below(20) {
            // A third of them are too old for the meter.
            let key = (self.random.below(CUSTOMERS), 1 + self.random.below(60) * 20);
            let held = self.costs.get(&key).copied().unwrap_or(0);
            let now =
                if held > 0 && self.random.below(2) == 0 { 0 } else { self.random.below(1 << 40) as i64 };
            self.costs.insert(key, now);
            self.lines += 1;
            let (line, (customer, age), units) = (self.lines, key, now - held);
            values.push(format!("({line}, {customer}, {age}, {units})"));
        }
        let sql = "INSERT INTO ledger_line (line_id, auth_id, resource_id, model_id, window_start, price_class,
                currency, prompt_tokens, cached_tokens, completion_tokens, event_count, amount, kind)
            SELECT 'line-' || line, 'auth-' || customer, 'r', 'm', (SELECT hour FROM today) - make_interval(hours => age),
                'standard', 'USD', 0, 0, 0, 0, units * 0.000000000001, 'usage'
            FROM (VALUES {}) lines (line, customer, age, units) ORDER BY line";
        self.ledger.sql(&sql.replace("{}", &values.join(", "))).await;
    }

    /// One process, to its end; `true`: by the kill.
    async fn live(&mut self) -> bool {
        let proxy = Proxy::to(&self.ledger.db.url).await;
        let outbox = self.api.outbox.to_str().unwrap().to_string();
        let mut arguments = vec!["deliver", "--to", &outbox];
        if self.random.below(3) == 0 {
            arguments.extend(["--refuse", r#""value":"7"#]);
        }
        if self.random.below(3) == 0 {
            arguments.extend(["--lose", r#""value":"3"#]);
        }
        let mut command = self.ledger.command(&proxy.url(&self.ledger.db.url), &arguments);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let statements = [
            "COMMIT",
            "INSERT INTO delivery",
            "UPDATE ledger_line SET",
            "WITH taken AS",
            "SET sent_at",
            "SET refused",
        ];
        let within = match self.random.below(3) {
            0 => Duration::from_micros(self.random.below(200_000)),
            _ => {
                let statement = statements[self.random.below(statements.len() as u64) as usize];
                let side = [Side::Before, Side::During, Side::After][self.random.below(3) as usize];
                let nth = 1 + self.random.below(3) as u32;
                proxy.strike(Spot { statement, nth, side }, Deed::Kill(child.id()));
                Duration::from_secs(30)
            }
        };
        ended(&mut child, within).await;
        let killed = kill(&mut child).await.code().is_none();
        // Its session may outlive it for a moment, and has the lock.
        let held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        eventually("its session ends", async || self.ledger.number(held).await == 0).await;
        killed
    }

    /// What happens between two of them.
    async fn time_goes_by(&mut self) {
        if self.random.below(3) == 0 {
            self.tear().await;
        }
        if self.random.below(4) == 0 {
            self.api.days.push(self.api.lines().len());
            self.ledger
                .sql("UPDATE delivery SET claimed_at = claimed_at - interval '1 day' WHERE sent_at IS NULL")
                .await;
        }
        if self.random.below(8) == 0 {
            self.an_invoice_is_final().await;
        }
        if self.random.below(2) == 0 {
            self.see_to_what_is_left().await;
        }
    }

    /// One with the oldest hour of which the meter was told, or was about to be, and did not answer.
    async fn an_invoice_is_final(&mut self) {
        let oldest = "FROM ledger_line l JOIN delivery d ON d.id = delivery_id
            WHERE sent_at IS NULL AND channel = 'meter' ORDER BY window_start, auth_id LIMIT 1";
        let customer = self.ledger.texts(&format!("SELECT auth_id {oldest}")).await;
        let Some(customer) = customer.first() else { return };
        let until = format!("SELECT extract(epoch FROM window_start)::bigint + 3600 {oldest}");
        let until = self.ledger.number(&until).await;
        let customer_id = customer.replace("auth", "cus");
        self.api.finals.push((self.api.lines().len(), customer_id, until));
        let sql = format!(
            "UPDATE customer SET billed_until = to_timestamp({until}) WHERE auth_id = '{customer}'
            AND billed_until IS NULL OR billed_until < to_timestamp({until}) AND auth_id = '{customer}'"
        );
        self.ledger.sql(&sql).await;
    }

    /// As if the last line had been torn by the kill: it is not whole, if nobody confirmed it.
    async fn tear(&mut self) {
        let lines = self.api.lines();
        let Some(last) = lines.last() else { return };
        let Ok(request) = serde_json::from_str::<Value>(last) else { return };
        let id = request["id"].as_str().unwrap();
        let open = format!("SELECT count(*) FROM delivery WHERE id = '{id}' AND sent_at IS NULL");
        if self.ledger.number(&open).await == 1 {
            let text = lines.concat();
            std::fs::write(&self.api.outbox, &text[..text.len() - 2]).unwrap();
        }
    }

    /// A person does what `status` says; the API's books tell what arrived.
    async fn see_to_what_is_left(&mut self) {
        let status = self.ledger.did("", &["status"]).await;
        let (counted, _) = self.api.counted();
        for line in status.lines().filter(|line| line.contains("invoice_ledger settle ")) {
            let (id, _) = line.split_once(':').unwrap();
            let found = if counted.contains_key(id) { "arrived" } else { "missing" };
            self.ledger.did("", &["settle", id, found]).await;
        }
    }
}

/// `RATER_SEED` repeats it, but for what happens at random moments.
#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_what_the_api_has_counted_is_what_the_ledger_has_told() {
    let seed = std::env::var("RATER_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_121);
    let kills = if soak() { 200 } else { 8 };
    println!("to repeat it: RATER_SEED={seed}");
    let dir = temp_dir();
    let api = Api { outbox: dir.path().join("outbox"), days: Vec::new(), finals: Vec::new() };
    let ledger = Consumer::new().await;
    ledger.did("", &["status"]).await;
    ledger.sql("INSERT INTO consumer DEFAULT VALUES; CREATE TABLE today AS SELECT date_trunc('hour', now()) AS hour").await;
    for customer in 0..CUSTOMERS {
        ledger.did("", &["customer", &format!("auth-{customer}"), &format!("cus-{customer}")]).await;
    }
    let mut world = World { ledger, api, random: Random(seed), costs: HashMap::new(), lines: 0 };
    let (mut killed, mut lives) = (0, 0);
    while killed < kills {
        world.lines_come().await;
        killed += u32::from(world.live().await);
        lives += 1;
        world.time_goes_by().await;
        assert!(lives < kills * 5, "{killed} of {lives} were killed");
    }
    world.see_to_what_is_left().await;
    let outbox = world.api.outbox.to_str().unwrap().to_string();
    world.ledger.did("", &["deliver", "--to", &outbox]).await;

    let (counted, owed) = world.api.counted();
    assert_eq!(counted.values().max(), Some(&1), "something was counted twice");
    let told: Vec<String> = world
        .ledger
        .texts("SELECT id FROM delivery WHERE sent_at IS NOT NULL ORDER BY id COLLATE \"C\"")
        .await;
    assert_eq!(told, counted.into_keys().collect::<Vec<_>>());
    let untold = "SELECT count(*) FROM ledger_line LEFT JOIN delivery ON id = delivery_id WHERE sent_at IS NULL AND amount <> 0";
    assert_eq!(world.ledger.number(untold).await, 0);
    let sums = "SELECT replace(auth_id, 'auth', 'cus') || ' ' || trim_scale(sum(amount) * 1000000000000) FROM ledger_line GROUP BY auth_id ORDER BY 1";
    let owed: Vec<String> = owed.into_iter().map(|(customer, units)| format!("{customer} {units}")).collect();
    assert_eq!(world.ledger.texts(sums).await, owed);
    println!(
        "{killed} kills in {lives} lives, {} lines, {} requests, {} days, seed {seed}",
        world.lines,
        world.api.lines().len(),
        world.api.days.len()
    );
}
