//! Bulk: all of a million rows through GetRatedUsage, page by page, against `psql`'s `\copy` of the
//! same query to a file, in alternating rounds, of which the best count; and the service's memory
//! meanwhile.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rater::embedded_postgres::EmbeddedPostgres;
use rater::grpc::client::rating::RatingClient;
use rater::proto::{GetRatedUsageRequest, UsageFilter};
use sqlx::PgConnection;

use super::data::{self, Filled};
use super::service::{Service, timestamp};
use super::{Outcome, empty, verdict};

/// What reading through the service may take, in `\copy`s, and how much memory, in MiB.
const LIMIT: f64 = 3.0;
const MEMORY_LIMIT: f64 = 100.0;

/// The columns of GetRatedUsage in the same forms, in the order of its pages.
const QUERY: &str = r#"SELECT id, auth_id, resource_id, model_id, window_start, window_end,
    prompt_tokens, cached_tokens, completion_tokens, billable_prompt_tokens, event_count, currency_code,
    trim_scale(cost)::text, trim_scale(applied_prompt_rate)::text, trim_scale(applied_cached_rate)::text,
    trim_scale(applied_completion_rate)::text, pricebook_digest, run_id, rated_at, price_class
    FROM rated_usage
    ORDER BY window_start, auth_id COLLATE "C", resource_id COLLATE "C", model_id COLLATE "C",
        price_class COLLATE "C""#;

pub async fn measure(
    postgres: &EmbeddedPostgres,
    dir: &Path,
    connection: &mut PgConnection,
    full: bool,
    rounds: i64,
) -> Outcome<()> {
    let rounds = if full { rounds.min(3) } else { 1 };
    let rows = if full { 1_000_000 } else { 100_000 };
    println!("\nbulk: every row through GetRatedUsage in pages of 10,000, {rounds} rounds");
    println!("{:<36}    psql \\copy     GetRatedUsage   ratio of    service's memory", "");
    println!("{:<36}   best median     best median   the best    idle  at most  more", "seconds");
    for rows_an_hour in [data::ROLLUPS_AN_HOUR, 41_667] {
        empty(connection).await?;
        let filled = data::fill_rated(connection, rows, rows_an_hour).await?;
        // A process of its own, which has done nothing else.
        let service = Service::start(&postgres.url(), &dir.join("pricebook.yaml"))?;
        let idle = service.peak()?;
        let [mut copies, mut reads] = [(); 2].map(|()| Vec::new());
        for _ in 0..rounds {
            copies.push(copy(postgres, &dir.join("copy"), filled.rollups)?.as_secs_f64());
            reads.push(read(&service, filled).await?.as_secs_f64());
        }
        let ([copy, copy_median], [read, read_median]) = (told(copies), told(reads));
        let more = service.peak()? - idle;
        print!(
            "{:<36} {copy:>6.2} {copy_median:>6.2}   {read:>6.2} {read_median:>6.2}     {:>6.2}",
            format!("{} rows, {rows_an_hour} an hour", filled.rollups),
            read / copy,
        );
        print!("{}", verdict(read / copy, full.then_some(LIMIT)));
        print!("  {idle:>6.1}   {:>6.1} {more:>5.1} MiB", idle + more);
        println!("{}", verdict(more, full.then_some(MEMORY_LIMIT)));
    }
    Ok(())
}

/// To a file, through `psql`, on the clock.
fn copy(postgres: &EmbeddedPostgres, file: &Path, rows: i64) -> Outcome<Duration> {
    let query = QUERY.split_whitespace().collect::<Vec<_>>().join(" ");
    let began = Instant::now();
    let output = Command::new(postgres.bin_dir().join("psql"))
        .args(["-X", "-v", "ON_ERROR_STOP=1", "-c", &format!("\\copy ({query}) TO '{}'", file.display())])
        .arg(postgres.url())
        .stdin(Stdio::null())
        .output()?;
    let took = began.elapsed();
    let told = String::from_utf8_lossy(&output.stdout);
    match output.status.success() && told.trim() == format!("COPY {rows}") {
        true => Ok(took),
        false => Err(format!("psql: {told} {}", String::from_utf8_lossy(&output.stderr)).into()),
    }
}

/// Through the service, one page after the other.
async fn read(service: &Service, filled: Filled) -> Outcome<Duration> {
    let mut client = RatingClient::new(service.connect().await?);
    let filter = UsageFilter {
        since: Some(timestamp(filled.window.start)),
        until: Some(timestamp(filled.window.end)),
        ..UsageFilter::default()
    };
    let mut request =
        GetRatedUsageRequest { filter: Some(filter), page_size: 10_000, page_token: String::new() };
    let (mut rows, mut events) = (0, 0);
    let began = Instant::now();
    loop {
        let page = client.rated_usage(request.clone()).await?;
        rows += i64::try_from(page.rated_usage.len())?;
        events += page.rated_usage.iter().map(|row| row.event_count).sum::<i64>();
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    let took = began.elapsed();
    match (rows, events) == (filled.rollups, filled.events) {
        true => Ok(took),
        false => Err(format!("{rows} rows of {events} events instead of {}", filled.rollups).into()),
    }
}

/// The best and the median.
fn told(mut times: Vec<f64>) -> [f64; 2] {
    times.sort_by(f64::total_cmp);
    [times[0], times[times.len() / 2]]
}
