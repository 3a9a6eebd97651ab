//! Intake: events through RecordEvents in batches of 1,000, stored and committed, against `COPY` of
//! the same rows into the same table with its indexes, from `psql`; in alternating rounds on a
//! server of its own that is durable, so that each batch waits for its fsync as `COPY` does once.
//! The table is emptied before each, and must hold the same rows after each.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use rater::embedded_postgres::{EmbeddedPostgres, Options};
use rater::proto::event_service_client::EventServiceClient;
use rater::proto::{BillingEvent, RecordEventsRequest};
use rater::service::schema;
use rater::store::{Db, DbOptions};
use sqlx::{Connection, Executor, PgConnection};

use super::service::{Service, timestamp};
use super::{Outcome, data};

/// Of what `COPY` stores in the same time, RecordEvents must store at least this share.
const LIMIT: f64 = 0.5;
const BATCH: usize = 1_000;
/// How many batches are in flight at once, each over a connection of its own.
const SENDERS: [usize; 4] = [1, 4, 8, 16];

/// The columns that are sent, in the order of the file.
const COLUMNS: &str = "request_id, auth_id, user_id, group_id, resource_id, resource_type, model, base_model,
    adapter, prompt_tokens, cached_tokens, completion_tokens, finish_reason, gpu_type, aborted, event_ts";

/// A durable server with the service on it.
struct Bench {
    postgres: EmbeddedPostgres,
    connection: PgConnection,
    service: Service,
    batches: Arc<Vec<RecordEventsRequest>>,
    file: std::path::PathBuf,
    events: usize,
    /// What the table must hold: a sum of hashes of its rows.
    rows: Option<String>,
}

pub async fn measure(dir: &Path, full: bool, rounds: i64) -> Outcome<()> {
    let rounds = if full { rounds.min(5) } else { 1 };
    let mut bench = Bench::start(dir, if full { 200_000 } else { 50_000 }).await?;
    let mut copies = Vec::new();
    let mut sends = SENDERS.map(|_| Vec::new());
    for _ in 0..rounds {
        copies.push(bench.copy().await?);
        for (senders, took) in SENDERS.iter().zip(&mut sends) {
            took.push(bench.send(*senders).await?);
        }
    }
    println!(
        "\nintake: {} events, stored and committed, fsync on, the median of {rounds} rounds",
        bench.events
    );
    println!("{:<42} events a second   ratio", "");
    let copy = bench.rate(copies);
    println!("{:<42} {copy:>15.0}", "psql \\copy, one transaction");
    let rates: Vec<f64> = sends.into_iter().map(|took| bench.rate(took)).collect();
    let best = rates.iter().copied().fold(0.0, f64::max);
    for (senders, rate) in SENDERS.iter().zip(rates) {
        let ratio = rate / copy;
        let name = format!("RecordEvents, batches of {BATCH}, {senders} in flight");
        let limit = if full && rate >= best { verdict(ratio) } else { String::new() };
        println!("{name:<42} {rate:>15.0} {ratio:>7.2}{limit}");
    }
    bench.stop();
    Ok(())
}

fn verdict(ratio: f64) -> String {
    format!("   {} {LIMIT}", if ratio >= LIMIT { "at least" } else { "BELOW" })
}

impl Bench {
    async fn start(dir: &Path, events: usize) -> Outcome<Bench> {
        let settings = [
            ("shared_buffers", "1GB"),
            ("max_wal_size", "16GB"),
            ("checkpoint_timeout", "1h"),
            ("autovacuum", "off"),
        ];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let options = Options { dir: dir.join("durable"), durable: true, settings };
        let postgres = EmbeddedPostgres::start(options)?;
        let (url, acquire_timeout) = (postgres.url(), Duration::from_secs(60));
        schema::up(&Db::new(&DbOptions { url: url.clone(), max_connections: 2, acquire_timeout })?).await?;
        let book = dir.join("intake.yaml");
        std::fs::write(&book, data::pricebook(data::EDITION))?;
        let all: Vec<BillingEvent> = (0..events as u64).map(event).collect();
        let file = dir.join("intake.copy");
        std::fs::write(&file, lines(&all)?)?;
        let batches = all
            .chunks(BATCH)
            .map(|events| RecordEventsRequest { events: events.to_vec(), skip_invalid: true })
            .collect();
        let connection = PgConnection::connect(&url).await?;
        let service = Service::start(&url, &book)?;
        Ok(Bench { postgres, connection, service, batches: Arc::new(batches), file, events, rows: None })
    }

    /// Through `psql`, on the clock.
    async fn copy(&mut self) -> Outcome<Duration> {
        self.empty().await?;
        let columns = COLUMNS.split_whitespace().collect::<Vec<_>>().join(" ");
        let copy = format!("\\copy billing_event ({columns}) FROM '{}'", self.file.display());
        let began = Instant::now();
        let output = Command::new(self.postgres.bin_dir().join("psql"))
            .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-c", &copy])
            .arg(self.postgres.url())
            .stdin(Stdio::null())
            .output()?;
        let took = began.elapsed();
        if !output.status.success() {
            return Err(format!("psql: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        self.check().await?;
        Ok(took)
    }

    /// Through the service, so many batches in flight at once.
    async fn send(&mut self, senders: usize) -> Outcome<Duration> {
        self.empty().await?;
        let mut clients = Vec::new();
        for _ in 0..senders {
            clients.push(EventServiceClient::new(self.service.connect().await?));
        }
        let next = Arc::new(AtomicUsize::new(0));
        let began = Instant::now();
        let sending = clients.into_iter().map(|mut client| {
            let (batches, next) = (self.batches.clone(), next.clone());
            tokio::spawn(async move {
                while let Some(batch) = batches.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let stored = client.record_events(batch.clone()).await?.into_inner().stored;
                    if stored != i64::try_from(batch.events.len())? {
                        return Err(format!("{stored} stored of a batch of {BATCH}").into());
                    }
                }
                Outcome::Ok(())
            })
        });
        for sender in sending.collect::<Vec<_>>() {
            sender.await??;
        }
        let took = began.elapsed();
        self.check().await?;
        Ok(took)
    }

    async fn empty(&mut self) -> Outcome<()> {
        self.connection.execute("TRUNCATE billing_event").await?;
        self.connection.execute("CHECKPOINT").await?;
        Ok(())
    }

    /// The same rows as after the first time.
    async fn check(&mut self) -> Outcome<()> {
        let sql = format!(
            "SELECT format('%s rows, %s', count(*), sum(hashtextextended(ROW ({COLUMNS})::text, 0)))
             FROM billing_event"
        );
        let rows: String =
            sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&mut self.connection).await?;
        let expected = self.rows.get_or_insert_with(|| rows.clone());
        match *expected == rows && rows.starts_with(&format!("{} rows", self.events)) {
            true => Ok(()),
            false => Err(format!("the table holds {rows} instead of {expected}").into()),
        }
    }

    /// Events a second, of the median.
    fn rate(&self, mut took: Vec<Duration>) -> f64 {
        took.sort();
        self.events as f64 / took[took.len() / 2].as_secs_f64()
    }

    fn stop(self) {
        drop(self.service);
        self.postgres.stop();
    }
}

/// An event of a chat completion, whose id sorts nowhere near its neighbours', as ids in real life.
fn event(n: u64) -> BillingEvent {
    let random = (n + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let id = uuid::Uuid::from_u64_pair(random ^ (random >> 29), random.wrapping_mul(0xBF58_476D_1CE4_E5B9));
    let at = time() + TimeDelta::microseconds((n * 1_237).cast_signed());
    BillingEvent {
        request_id: format!("chatcmpl-{id}"),
        auth_id: format!("auth-{}", n % 250),
        user_id: format!("user-{}", n % 5_000),
        resource_id: format!("project-{}", n % 500),
        resource_type: "project".into(),
        model: format!("acme/model-{}", n % 40),
        prompt_tokens: (200 + n * 31 % 3_000).cast_signed(),
        cached_tokens: (n * 17 % 200).cast_signed(),
        completion_tokens: (n * 13 % 800).cast_signed(),
        finish_reason: "stop".into(),
        gpu_type: "H100-80GB".into(),
        event_time: Some(prost_types::Timestamp {
            nanos: at.timestamp_subsec_nanos().cast_signed(),
            ..timestamp(at)
        }),
        ..BillingEvent::default()
    }
}

fn time() -> DateTime<Utc> {
    DateTime::from_timestamp(1_780_272_000, 0).unwrap_or_default()
}

/// The same events for `COPY`, in its text format. No text here needs escaping.
fn lines(events: &[BillingEvent]) -> Outcome<String> {
    let mut lines = String::new();
    let null = |text: &str| if text.is_empty() { "\\N".to_owned() } else { text.to_owned() };
    for e in events {
        let at = e.event_time.and_then(|at| DateTime::from_timestamp(at.seconds, at.nanos.cast_unsigned()));
        let at = at.ok_or("no time")?.to_rfc3339_opts(SecondsFormat::Micros, true);
        let texts = [&e.auth_id, &e.user_id, &e.group_id, &e.resource_id, &e.resource_type, &e.model];
        let more = [&e.base_model, &e.adapter].map(|text| null(text)).join("\t");
        let last = [&e.finish_reason, &e.gpu_type].map(|text| null(text)).join("\t");
        writeln!(
            lines,
            "{}\t{}\t{more}\t{}\t{}\t{}\t{last}\t{}\t{at}",
            e.request_id,
            texts.map(|text| null(text)).join("\t"),
            e.prompt_tokens,
            e.cached_tokens,
            e.completion_tokens,
            e.aborted,
        )?;
    }
    Ok(lines)
}
