//! Small unary calls: how many a second, and how long the slowest hundredth takes, for one caller, 16 and
//! 256, each with a connection of its own. Four services over one database take turns, round by round: a
//! plain one, one behind mutual TLS with an identities file, one that sends traces, metrics and logs to a
//! collector, and one with both. The ratios are to the plain one.
//!
//! The callers and the collector share the machine's cores with the services, in every column alike, but
//! what the collector takes counts as the price of telemetry.

mod ready;
mod sink;

use std::path::Path;
use std::time::{Duration, Instant};

use rater::embedded_postgres::{EmbeddedPostgres, Options};
use rater::proto::rating_service_client::RatingServiceClient;
use rater::proto::{GetRatedUsageRequest, GetRunRequest, UsageFilter};
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::Outcome;
use ready::{Ready, Site};
use sink::Sink;

const CALLERS: [usize; 3] = [1, 16, 256];
const SLICE: Duration = Duration::from_secs(1);
const MAX_ROUNDS: i64 = 5;

type Client = RatingServiceClient<Channel>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    GetRun,
    OneRow,
}

const CALLS: [Call; 2] = [Call::GetRun, Call::OneRow];

impl Call {
    fn name(self) -> &'static str {
        match self {
            Call::GetRun => "GetRun",
            Call::OneRow => "GetRatedUsage, one row",
        }
    }

    async fn make(self, client: &mut Client, run_id: &str) -> Outcome<()> {
        match self {
            Call::GetRun => {
                client.get_run(GetRunRequest { run_id: run_id.into() }).await?;
            }
            Call::OneRow => {
                let filter = UsageFilter { auth_ids: vec!["auth-1".into()], ..UsageFilter::default() };
                let request = GetRatedUsageRequest {
                    filter: Some(filter),
                    page_size: 1,
                    ..GetRatedUsageRequest::default()
                };
                let page = client.get_rated_usage(request).await?.into_inner();
                if page.rated_usage.len() != 1 {
                    return Err(format!("{} rows instead of one", page.rated_usage.len()).into());
                }
            }
        }
        Ok(())
    }
}

/// What a slice of time gave.
#[derive(Debug, Clone, Copy)]
struct Slice {
    a_second: f64,
    /// In milliseconds.
    p99: f64,
}

pub async fn measure(dir: &Path, rounds: i64) -> Outcome<()> {
    let dir = dir.join("unary");
    std::fs::create_dir(&dir)?;
    // Room for the connections of four services.
    let settings = [("max_connections", "300"), ("shared_buffers", "256MB"), ("jit", "off")];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let postgres = EmbeddedPostgres::start(Options { dir: dir.join("postgres"), durable: false, settings })?;
    let measured = with(&postgres.url(), &dir, rounds.min(MAX_ROUNDS)).await;
    postgres.stop();
    measured
}

async fn with(url: &str, dir: &Path, rounds: i64) -> Outcome<()> {
    let sink = Sink::start().await?;
    let site = Site::prepare(url, dir).await?;
    let services = site.services(&sink)?;
    let run_id = site.run_id(&services[0]).await?;
    println!("\nunary calls, {rounds} rounds of {} s each, in turn; a connection a caller", SLICE.as_secs());
    for callers in CALLERS {
        let mut slices = vec![vec![Vec::new(); services.len()]; CALLS.len()];
        for _ in 0..rounds {
            for (of, service) in services.iter().enumerate() {
                let clients = service.connect(callers).await?;
                for (what, call) in CALLS.into_iter().enumerate() {
                    // The first calls find caches and plans cold.
                    slice(&clients, call, &run_id, SLICE / 10).await?;
                    slices[what][of].push(slice(&clients, call, &run_id, SLICE).await?);
                }
            }
        }
        for (call, slices) in CALLS.into_iter().zip(&slices) {
            print(call, callers, &services, slices);
        }
    }
    sink.check()
}

/// All callers, one call after the other each.
async fn slice(clients: &[Client], call: Call, run_id: &str, time: Duration) -> Outcome<Slice> {
    let began = Instant::now();
    let mut callers = JoinSet::new();
    for client in clients {
        let (mut client, run_id) = (client.clone(), run_id.to_owned());
        callers.spawn(async move {
            let mut times = Vec::new();
            while began.elapsed() < time {
                let asked = Instant::now();
                call.make(&mut client, &run_id).await?;
                times.push(asked.elapsed().as_secs_f64() * 1000.0);
            }
            Outcome::Ok(times)
        });
    }
    let mut times = Vec::new();
    while let Some(caller) = callers.join_next().await {
        times.extend(caller??);
    }
    times.sort_by(f64::total_cmp);
    let a_second = times.len() as f64 / began.elapsed().as_secs_f64();
    Ok(Slice { a_second, p99: times[(times.len() * 99).div_ceil(100) - 1] })
}

fn print(call: Call, callers: usize, services: &[Ready], slices: &[Vec<Slice>]) {
    let title = format!("{}, {callers} caller{}", call.name(), if callers == 1 { "" } else { "s" });
    println!("{title:<36} calls a second        p99 in ms          of plain");
    println!("{:<36}   best  median      best  median       calls   p99", "");
    let best = |slices: &[Slice]| {
        let calls = slices.iter().map(|slice| slice.a_second).fold(0.0, f64::max);
        (calls, slices.iter().map(|slice| slice.p99).fold(f64::INFINITY, f64::min))
    };
    let (plain, plain_p99) = best(&slices[0]);
    for (service, slices) in services.iter().zip(slices) {
        let (calls, p99) = best(slices);
        println!(
            "  {:<34} {calls:>6.0}  {:>6.0}    {p99:>6.2}  {:>6.2}       {:>5.2} {:>5.2}",
            service.name,
            median(slices.iter().map(|slice| slice.a_second)),
            median(slices.iter().map(|slice| slice.p99)),
            calls / plain,
            p99 / plain_p99
        );
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
