//! The room that a backfill leaves to others: how long a page of rated usage and a batch of new
//! events take beside it, against the same calls without it, in alternating phases. Two clients
//! call at the same time, each with a pause after each call.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use chrono::Utc;
use rater::domain::window::Window;
use rater::grpc::client::events::EventSender;
use rater::grpc::client::rating::RatingClient;
use rater::proto::{BillingEvent, GetRatedUsageRequest, RecordEventsRequest, UsageFilter};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::backfill::{Backfills, Work};
use super::service::timestamp;
use super::{Outcome, verdict};

const LIMIT: f64 = 3.0;
const PAUSE: Duration = Duration::from_millis(10);
const ROWS: usize = 1_000;
const EVENTS: usize = 500;
const PHASES: usize = 3;

/// One client's calls.
trait Calls: Send + 'static {
    fn call(&mut self) -> impl Future<Output = Outcome<Duration>> + Send;
}

/// Reads the window page by page, again and again.
struct Pages {
    client: RatingClient,
    window: Window,
    page_token: String,
}

/// Stores events of now.
struct Batches {
    sender: EventSender,
}

struct Others {
    pages: Pages,
    batches: Batches,
}

/// How long calls took, in milliseconds.
#[derive(Default)]
struct Took {
    pages: Vec<f64>,
    batches: Vec<f64>,
}

pub async fn measure(backfills: &mut Backfills<'_>, full: bool) -> Outcome<()> {
    let calls = if full { 300 } else { 30 };
    let pages = Pages {
        client: RatingClient::new(backfills.connect().await?),
        window: backfills.quarter.window,
        page_token: String::new(),
    };
    let batches = Batches { sender: EventSender::new(backfills.connect().await?, Duration::from_secs(60)) };
    let mut others = Others { pages, batches };
    others = others.phase(calls / 10, &mut Took::default()).await?; // warms up
    println!(
        "\nroom for others beside a backfill of {} events in {} rollups, {calls} calls a phase",
        backfills.quarter.events, backfills.quarter.rollups
    );
    println!("{:<36} without it             beside it              ratio", "");
    println!("{:<36}    p50    p95    p99      p50    p95    p99    p50   p95   p99", "milliseconds");
    for work in [Work::ChangesNothing, Work::Rewrites] {
        if work == Work::Rewrites {
            backfills.reprice()?;
        }
        let (mut without, mut beside) = (Took::default(), Took::default());
        for phase in 0..=2 * PHASES {
            backfills.tidy().await?;
            if phase % 2 == 0 {
                others = others.phase(calls, &mut without).await?;
                continue;
            }
            let run = backfills.begin().await?;
            let enough = CancellationToken::new();
            let calling = async {
                let done = others.phase(calls, &mut beside).await;
                enough.cancel();
                done
            };
            let (done, rated) = tokio::join!(calling, backfills.go_on(run, work, &enough));
            rated?;
            others = done?;
        }
        let limit = full.then_some(LIMIT);
        println!("{}", work.name());
        print(&format!("  GetRatedUsage, {ROWS} rows"), without.pages, beside.pages, limit);
        print(&format!("  RecordEvents, {EVENTS} events"), without.batches, beside.batches, limit);
    }
    Ok(())
}

impl Others {
    /// At least so many calls of each kind, side by side to the end.
    async fn phase(self, calls: usize, took: &mut Took) -> Outcome<Others> {
        let short = Arc::new(AtomicUsize::new(2));
        let pages = tokio::spawn(steadily(self.pages, calls, short.clone()));
        let batches = tokio::spawn(steadily(self.batches, calls, short));
        let (pages, batches) =
            tokio::try_join!(async { pages.await.map_err(Into::into).flatten() }, async {
                batches.await.map_err(Into::into).flatten()
            })?;
        took.pages.extend(pages.1);
        took.batches.extend(batches.1);
        Ok(Others { pages: pages.0, batches: batches.0 })
    }
}

/// Calls until every client has made its calls; `short` of them are those that have not.
async fn steadily<C: Calls>(mut client: C, calls: usize, short: Arc<AtomicUsize>) -> Outcome<(C, Vec<f64>)> {
    let mut took = Vec::with_capacity(calls);
    while took.len() < calls || short.load(Ordering::Relaxed) > 0 {
        took.push(client.call().await?.as_secs_f64() * 1_000.0);
        if took.len() == calls {
            short.fetch_sub(1, Ordering::Relaxed);
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok((client, took))
}

impl Calls for Pages {
    async fn call(&mut self) -> Outcome<Duration> {
        let filter = UsageFilter {
            since: Some(timestamp(self.window.start)),
            until: Some(timestamp(self.window.end)),
            ..UsageFilter::default()
        };
        let page_token = std::mem::take(&mut self.page_token);
        let request =
            GetRatedUsageRequest { filter: Some(filter), page_size: i32::try_from(ROWS)?, page_token };
        let began = Instant::now();
        let page = self.client.rated_usage(request).await?;
        let took = began.elapsed();
        self.page_token = page.next_page_token;
        let whole = self.page_token.is_empty() || page.rated_usage.len() == ROWS;
        if whole { Ok(took) } else { Err("a page is short".into()) }
    }
}

impl Calls for Batches {
    async fn call(&mut self) -> Outcome<Duration> {
        let now = Some(timestamp(Utc::now()));
        let event = |n: usize| BillingEvent {
            request_id: Uuid::new_v4().to_string(),
            auth_id: format!("auth-{}", n % 100),
            resource_id: "project-0".into(),
            resource_type: "project".into(),
            model: format!("acme/model-{}", 10 + n % 30),
            prompt_tokens: 1_000,
            completion_tokens: 200,
            event_time: now,
            ..BillingEvent::default()
        };
        let batch = RecordEventsRequest { events: (0..EVENTS).map(event).collect(), skip_invalid: false };
        let mut refused = None;
        let began = Instant::now();
        let response = self.sender.send(batch, |failure| refused = Some(failure.clone())).await?;
        let took = began.elapsed();
        match refused {
            Some(failure) => Err(failure.into()),
            None if usize::try_from(response.stored) == Ok(EVENTS) => Ok(took),
            None => Err(format!("{} events stored", response.stored).into()),
        }
    }
}

fn print(name: &str, without: Vec<f64>, beside: Vec<f64>, limit: Option<f64>) {
    let [without, beside] = [without, beside].map(|mut times| {
        times.sort_by(f64::total_cmp);
        [50, 95, 99].map(|percent| times[(times.len() * percent).div_ceil(100) - 1])
    });
    let ratio = |at: usize| beside[at] / without[at];
    print!("{name:<36}");
    for times in [without, beside] {
        print!(" {:>6.1} {:>6.1} {:>6.1}  ", times[0], times[1], times[2]);
    }
    println!("{:>5.2} {:>5.2} {:>5.2}{}", ratio(0), ratio(1), ratio(2), verdict(ratio(1), limit));
}
