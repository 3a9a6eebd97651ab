//! The service's largest memory while it rates: that it does not grow with the window.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use rater::domain::window::Window;
use rater::grpc::client::rating::RatingClient;
use rater::grpc::client::{Server, connect};
use rater::proto::RateWindowRequest;
use sqlx::{Executor, PgConnection};

use super::Outcome;
use super::data::{self, ROLLUPS_AN_HOUR};

pub async fn measure(url: &str, dir: &Path, connection: &mut PgConnection, month: Window) -> Outcome<()> {
    connection.execute("TRUNCATE rated_usage, rated_usage_change, change_batch").await?;
    let pricebook = dir.join("pricebook.yaml");
    fs::write(&pricebook, data::pricebook())?;
    println!("\nthe service's memory, {ROLLUPS_AN_HOUR} rollups an hour; a process each, chunks of 24 hours");
    for (name, hours) in [("1 hour", 1), ("24 hours", 24), ("30 days", month.hour_count())] {
        let window = Window { start: month.end - TimeDelta::hours(hours), end: month.end };
        let mut service = Service::start(url, &pricebook)?;
        let before = service.peak()?;
        let began = Instant::now();
        let rollups = rate(&service.address, window).await?;
        println!(
            "{name:<10} {rollups:>9} rollups in {:>6.1} s: at most {:>6.1} MiB ({before:.1} before)",
            began.elapsed().as_secs_f64(),
            service.peak()?
        );
        service.stop()?;
    }
    Ok(())
}

async fn rate(address: &str, window: Window) -> Outcome<i64> {
    let channel = connect(&Server { url: format!("http://{address}"), tls_ca: None }).await?;
    let time = |time: chrono::DateTime<chrono::Utc>| {
        Some(prost_types::Timestamp { seconds: time.timestamp(), nanos: 0 })
    };
    let request = RateWindowRequest {
        since: time(window.start),
        until: time(window.end),
        request_id: uuid::Uuid::new_v4().to_string(),
        ..RateWindowRequest::default()
    };
    let response = RatingClient::new(channel).rate(request, Duration::ZERO, |_| {}).await?;
    let result = response.result.unwrap_or_default();
    let expected = ROLLUPS_AN_HOUR * window.hour_count();
    match result.rollups == expected && result.rated_events == result.events {
        true => Ok(result.rollups),
        false => Err(format!("{} rollups instead of {expected}", result.rollups).into()),
    }
}

/// The service, killed when it is dropped.
struct Service {
    child: Child,
    address: String,
}

impl Service {
    fn start(url: &str, pricebook: &Path) -> Outcome<Service> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_rater"))
            .args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--pricebook"])
            .arg(pricebook)
            .env("RATER_DATABASE_URL", url)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let log = BufReader::new(child.stderr.take().ok_or("no log")?);
        let mut service = Service { child, address: String::new() };
        let mut lines = log.lines().map_while(Result::ok);
        for line in &mut lines {
            let line: serde_json::Value = serde_json::from_str(&line)?;
            if line["message"] == "listening" {
                service.address = line["address"].as_str().unwrap_or_default().to_owned();
                break;
            }
        }
        // Read on, or the service would wait for a reader of its log.
        std::thread::spawn(move || lines.for_each(drop));
        if service.address.is_empty() { Err("the service did not start".into()) } else { Ok(service) }
    }

    /// The most memory that was resident so far, in MiB.
    fn peak(&self) -> Outcome<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
        let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kib / 1024.0)
    }

    fn stop(&mut self) -> Outcome<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It has ended already, or ends now.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
