//! The service's largest memory while it rates: that it does not grow with the window.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use rater::domain::window::Window;
use rater::grpc::client::rating::RatingClient;
use sqlx::PgConnection;

use super::data::{self, ROLLUPS_AN_HOUR};
use super::service::{self, Service};
use super::{Outcome, empty};

pub async fn measure(url: &str, dir: &Path, connection: &mut PgConnection, month: Window) -> Outcome<()> {
    empty(connection).await?;
    let pricebook = dir.join("pricebook.yaml");
    fs::write(&pricebook, data::pricebook(data::EDITION))?;
    println!("\nthe service's memory, {ROLLUPS_AN_HOUR} rollups an hour; a process each, chunks of 24 hours");
    for (name, hours) in [("1 hour", 1), ("24 hours", 24), ("30 days", month.hour_count())] {
        let window = Window { start: month.end - TimeDelta::hours(hours), end: month.end };
        let mut service = Service::start(url, &pricebook)?;
        let before = service.peak()?;
        let began = Instant::now();
        let rollups = rate(&service, window).await?;
        println!(
            "{name:<10} {rollups:>9} rollups in {:>6.1} s: at most {:>6.1} MiB ({before:.1} before)",
            began.elapsed().as_secs_f64(),
            service.peak()?
        );
        service.stop()?;
    }
    Ok(())
}

async fn rate(service: &Service, window: Window) -> Outcome<i64> {
    let mut client = RatingClient::new(service.connect().await?);
    let response = client.rate(service::rate(window), Duration::ZERO, |_| {}).await?;
    let result = response.result.unwrap_or_default();
    let expected = ROLLUPS_AN_HOUR * window.hour_count();
    match result.rollups == expected && result.rated_events == result.events {
        true => Ok(result.rollups),
        false => Err(format!("{} rollups instead of {expected}", result.rollups).into()),
    }
}
