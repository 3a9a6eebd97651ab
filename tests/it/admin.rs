//! The admin address: what machines see of the service, and what they don't.

use std::fs;
use std::io::{self, Seek};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rater::admin::{self, AdminState};
use rater::metrics::Metrics;
use rater::service::pricebooks::Pricebooks;
use rater::service::readiness::{self, Readiness, Timing};
use rater::store::DbOptions;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::instrument::WithSubscriber;

use crate::harness::{database, empty_database, temp_dir};

const GOOD: &str = "version: 1\nbase_models:\n  m: {prompt: \"1\", cached: \"0\", completion: \"0\"}\n";
// Logging in takes its time in a debug build on a busy machine.
const TIMING: Timing = Timing { every: Duration::from_millis(50), patience: Duration::from_secs(2) };
const WITHIN: Duration = Duration::from_secs(30);

/// A served admin address, with its parts.
struct Admin {
    dir: TempDir,
    address: String,
    metrics: Arc<Metrics>,
    pricebooks: Arc<Pricebooks>,
    readiness: watch::Sender<Readiness>,
    stop: CancellationToken,
    task: JoinHandle<()>,
    /// Of the readiness.
    log: Arc<fs::File>,
}

impl Admin {
    async fn serve() -> Admin {
        let dir = temp_dir();
        fs::write(dir.path().join("prices.yaml"), GOOD).unwrap();
        let pricebooks = Arc::new(Pricebooks::load(&dir.path().join("prices.yaml")).unwrap());
        let metrics = Arc::new(Metrics::new());
        let (readiness, seen) = watch::channel(Readiness::unknown());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let stop = CancellationToken::new();
        let (_, jobs) = watch::channel(Vec::new());
        let state =
            AdminState { metrics: metrics.clone(), readiness: seen, pricebooks: pricebooks.clone(), jobs };
        let task = tokio::spawn(admin::serve(listener, state, stop.clone()));
        let log = Arc::new(tempfile::tempfile().unwrap());
        Admin { dir, address, metrics, pricebooks, readiness, stop, task, log }
    }

    /// Serves what is found out about this database.
    async fn of(url: &str) -> Admin {
        let admin = Admin::serve().await;
        let options =
            DbOptions { url: url.into(), max_connections: 9, acquire_timeout: Duration::from_secs(60) };
        let to = tracing_subscriber::fmt().json().flatten_event(true).with_writer(admin.log.clone()).finish();
        let watch = readiness::watch(options, TIMING, admin.readiness.clone(), admin.stop.clone());
        tokio::spawn(watch.with_subscriber(to));
        admin
    }

    /// What the readiness said of itself; without what sqlx says.
    fn logged(&self) -> Vec<Value> {
        (&*self.log).rewind().unwrap();
        let lines = io::read_to_string(&*self.log).unwrap();
        let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line["target"] == "rater::service::readiness").collect()
    }

    /// The status, the head and the body of a page.
    async fn get(&self, page: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        let request = format!("GET {page} HTTP/1.1\r\nHost: rater\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), head.to_lowercase(), body.to_owned())
    }

    /// The body of `/readyz` once it has this status and says this.
    async fn ready(&self, status: u16, says: &str) -> String {
        let deadline = Instant::now() + WITHIN;
        loop {
            let (found, _, body) = self.get("/readyz").await;
            if found == status && body.contains(says) {
                return body;
            }
            assert!(Instant::now() < deadline, "still {found}: {body}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test]
async fn metrics_are_open_metrics() {
    let admin = Admin::serve().await;
    admin.metrics.lease_conflict();
    let (status, head, body) = admin.get("/metrics").await;
    assert_eq!(status, 200);
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(body.contains("\nrater_lease_conflicts_total 1\n") && body.ends_with("# EOF\n"), "{body}");
}

#[tokio::test]
async fn alive_is_not_ready() {
    let admin = Admin::serve().await;
    assert_eq!(admin.get("/healthz").await.0, 200);
    let (status, _, body) = admin.get("/readyz").await;
    assert_eq!(status, 503);
    assert!(body.starts_with("database: not checked yet\nschema: unknown\npricebook: ok"), "{body}");
}

#[tokio::test]
async fn a_service_with_its_schema_is_ready() {
    let database = database().await;
    let admin = Admin::of(&database.url).await;
    admin.ready(200, "database: ok\nschema: ok\npricebook: ok (digest ").await;
}

#[tokio::test]
async fn a_schema_that_is_missing_is_named_with_what_to_do() {
    let database = empty_database().await;
    let admin = Admin::of(&database.url).await;
    let body = admin.ready(503, "schema: the schema is at version 0").await;
    assert!(body.starts_with("database: ok\n") && body.contains("run `rater migrate up`"), "{body}");
}

#[tokio::test]
async fn a_refused_pricebook_is_told_and_the_service_stays_ready() {
    let admin = Admin::serve().await;
    let ready = Readiness { database: Ok(()), schema: Ok(()), stopping: false };
    admin.readiness.send_replace(ready);
    tokio::spawn(admin.pricebooks.clone().watch(admin.stop.clone(), |_| ()));
    fs::write(admin.dir.path().join("prices.yaml"), "secret: 0.1").unwrap();
    let deadline = Instant::now() + WITHIN;
    while admin.pricebooks.refused().is_none() {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (status, _, body) = admin.get("/readyz").await;
    assert_eq!(status, 200);
    assert!(body.contains("pricebook: ok, but the file was changed and is refused since 20"), "{body}");
    let findings = admin.pricebooks.refused().unwrap().first_line;
    assert!(!body.contains(&findings) && !body.contains(admin.dir.path().to_str().unwrap()), "{body}");
}

/// A way to a database that can be swallowed: connections stay, and nothing comes through.
async fn way_to(database_url: &str) -> (String, Arc<AtomicBool>) {
    let (before, rest) = database_url.split_once("127.0.0.1:").unwrap();
    let (port, after) = rest.split_once('/').unwrap();
    let target = format!("127.0.0.1:{port}");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("{before}{}/{after}", listener.local_addr().unwrap());
    let swallows = Arc::new(AtomicBool::new(false));
    let now = swallows.clone();
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let (target, now) = (target.clone(), now.clone());
            tokio::spawn(async move {
                let mut server = TcpStream::connect(target).await.unwrap();
                let swallowed = async {
                    while !now.load(Ordering::Relaxed) {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                };
                tokio::select! {
                    _ = copy_bidirectional(&mut client, &mut server) => return,
                    () = swallowed => {}
                }
                // For good: what was swallowed does not come back.
                std::future::pending::<()>().await;
            });
        }
    });
    (url, swallows)
}

#[tokio::test]
async fn a_database_that_the_network_swallows_is_away_until_it_answers() {
    let database = database().await;
    let (url, swallows) = way_to(&database.url).await;
    let admin = Admin::of(&url).await;
    admin.ready(200, "").await;
    swallows.store(true, Ordering::Relaxed);
    let body = admin.ready(503, "").await;
    assert!(body.starts_with("database: not available\nschema: unknown\n"), "{body}");
    swallows.store(false, Ordering::Relaxed);
    admin.ready(200, "").await;
}

#[tokio::test]
async fn what_the_database_says_is_in_the_log_once_and_stays_there() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    // One that hangs up, and one that does not let us in.
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    let hangs_up = format!("postgres://rater:secret@127.0.0.1:{port}/rater");
    let database = database().await;
    let wrong = database.url.replacen("rater:", "nobody:", 1);
    for (url, says) in [(hangs_up, "database: not available\n"), (wrong, "database: internal error; ")] {
        let admin = Admin::of(&url).await;
        let body = admin.ready(503, says).await;
        assert!(body.starts_with(says) && body.contains("\nschema: unknown\n"), "{body}");
        for word in ["127.0.0.1", &port, "secret", "nobody", "EOF", "password"] {
            assert!(!body.contains(word), "{body}");
        }
        // More looks that find the same.
        tokio::time::sleep(TIMING.every * 10).await;
        let log = admin.logged();
        assert_eq!((log.len(), &log[0]["message"]), (1, &"not ready".into()), "{log:#?}");
        assert_ne!(log[0]["detail"], "");
    }
}

#[tokio::test]
async fn a_service_on_its_way_out_is_not_ready() {
    let database = database().await;
    let admin = Admin::serve().await;
    let options =
        DbOptions { url: database.url.clone(), max_connections: 1, acquire_timeout: TIMING.patience };
    let leaving = CancellationToken::new();
    tokio::spawn(readiness::watch(options, TIMING, admin.readiness.clone(), leaving.clone()));
    admin.ready(200, "").await;
    leaving.cancel();
    let body = admin.ready(503, "service: stopping\n").await;
    assert!(body.starts_with("database: ok\n"), "{body}");
}

#[tokio::test]
async fn a_client_that_says_nothing_does_not_hold_a_stop() {
    let admin = Admin::serve().await;
    let mut silent = TcpStream::connect(&admin.address).await.unwrap();
    silent.write_all(b"GET /heal").await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    admin.stop.cancel();
    tokio::time::timeout(Duration::from_secs(10), admin.task).await.unwrap().unwrap();
}
