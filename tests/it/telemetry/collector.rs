//! A collector that is away, slow, late or not wanted costs nobody anything; one that is there has
//! all of it when the process ends.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rater::proto::GetRunRequest;
use tokio::net::TcpListener;
use tonic::transport::{Identity, Server, ServerTlsConfig};

use super::{CALLER, Receiver, TRACE, service, traced};
use crate::harness::{Service, run_in, temp_dir};
use crate::stage::{Stage, rate, until, window};

/// Nothing is sent before the end.
const LATE: [(&str, &str); 3] = [
    ("OTEL_BSP_SCHEDULE_DELAY", "600000"),
    ("OTEL_BLRP_SCHEDULE_DELAY", "600000"),
    ("OTEL_METRIC_EXPORT_INTERVAL", "600000"),
];

async fn stop(service: &mut Service) -> Duration {
    let asked = Instant::now();
    service.signal(Signal::SIGTERM);
    assert_eq!(service.wait(Duration::from_secs(30)).await.code(), Some(0));
    asked.elapsed()
}

#[tokio::test]
async fn what_was_not_sent_yet_is_sent_at_the_end() {
    let (stage, receiver) = (Stage::new().await, Receiver::start().await);
    stage.fill("e", 0, 1, 3).await;
    let mut service = service(&stage, &receiver.url(), &LATE, &[]).await;
    service.client_rating().await.rate_window(traced(window(0, 1))).await.unwrap();
    assert!(receiver.spans().is_empty() && receiver.records().is_empty());
    stop(&mut service).await;
    assert_eq!(receiver.named("run").len(), 1);
    assert!(receiver.records().iter().any(|record| record.body == "run succeeded"));
    assert!(receiver.records().iter().any(|record| record.body == "stopped"));
    let runs = r#"rater_runs{"state": "succeeded", "trigger": "backfill"}"#;
    assert_eq!(receiver.series().get(runs), Some(&1.0));
}

/// How many lines say that it does not work, and how many that it works again.
fn said(service: &Service) -> (usize, usize) {
    let logs = service.logs();
    let count = |what: &str| logs.iter().filter(|line| line["message"].to_string().contains(what)).count();
    (count("telemetry does not reach its collector"), count("the collector takes telemetry again"))
}

/// It is there, takes connections, and never answers.
async fn black_hole() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

#[tokio::test]
async fn a_collector_that_never_answers_slows_nobody_down() {
    let stage = Stage::new().await;
    stage.fill("e", 0, 1, 3).await;
    let (_hole, url) = black_hole().await;
    // Queues that are full at once.
    let small = [("OTEL_BSP_MAX_QUEUE_SIZE", "16"), ("OTEL_BLRP_MAX_QUEUE_SIZE", "16")];
    let mut service = service(&stage, &url, &small, &[]).await;
    rate(&service, window(0, 1)).await.unwrap();
    let mut client = service.client_rating().await;
    let mut slowest = Duration::ZERO;
    for _ in 0..500 {
        let began = Instant::now();
        client.get_run(GetRunRequest { run_id: "none".into() }).await.unwrap_err();
        slowest = slowest.max(began.elapsed());
    }
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    until("it is told", Duration::from_secs(30), async || said(&service).0 == 3).await;
    assert!(stop(&mut service).await < Duration::from_secs(10));
    assert_eq!(said(&service), (3, 0), "once a signal");
}

#[tokio::test]
async fn a_collector_that_comes_late_gets_what_comes_then() {
    let stage = Stage::new().await;
    let (hole, url) = black_hole().await;
    let address = hole.local_addr().unwrap().to_string();
    drop(hole);
    let mut service = service(&stage, &url, &[], &[]).await;
    until("it is told", Duration::from_secs(30), async || said(&service).0 >= 1).await;
    let receiver = Receiver::start_at(&address, Server::builder()).await;
    let mut client = service.client_rating().await;
    until("it is there", Duration::from_secs(30), async || {
        client.get_run(traced(GetRunRequest { run_id: "none".into() })).await.unwrap_err();
        !receiver.named("rating.v1.RatingService/GetRun").is_empty()
    })
    .await;
    stop(&mut service).await;
    let (bad, good) = said(&service);
    assert!(bad <= 3 && good >= 1, "{bad} {good}");
}

#[tokio::test]
async fn a_command_ends_without_its_collector_too() {
    let stage = Stage::new().await;
    let service = stage.service(&[]).await;
    let (_hole, url) = black_hole().await;
    let server = service.url();
    let took = tokio::task::spawn_blocking(move || {
        let began = Instant::now();
        let environment = [("RATER_SERVER", server.as_str()), ("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str())];
        let output = run_in(&environment, &["runs", "list"], "");
        assert_eq!((output.code(), output.stderr.as_str()), (Some(0), ""));
        // A probe has no time for it.
        let health = Instant::now();
        assert_eq!(run_in(&environment, &["health"], "").code(), Some(0));
        assert!(health.elapsed() < Duration::from_secs(3), "{:?}", health.elapsed());
        began.elapsed()
    });
    assert!(took.await.unwrap() < Duration::from_secs(12));
}

#[tokio::test]
async fn who_is_not_sampled_makes_no_spans_and_has_its_trace_in_the_log() {
    let (stage, receiver) = (Stage::new().await, Receiver::start().await);
    stage.fill("e", 0, 1, 3).await;
    let off = [("OTEL_TRACES_SAMPLER", "always_off")];
    let (never, asked) =
        (service(&stage, &receiver.url(), &off, &[]).await, service(&stage, &receiver.url(), &[], &[]).await);
    never.client_rating().await.rate_window(traced(window(0, 1))).await.unwrap();
    let mut request = traced(window(0, 1));
    let not_sampled = format!("00-{TRACE}-{CALLER}-00").parse().unwrap();
    request.metadata_mut().insert("traceparent", not_sampled);
    asked.client_rating().await.rate_window(request).await.unwrap();
    until("both are told", Duration::from_secs(20), async || {
        let told = receiver.records().into_iter().filter(|record| record.body == "run succeeded");
        told.filter(|record| record.trace == TRACE).count() == 2
    })
    .await;
    assert!(receiver.spans().is_empty(), "{:#?}", receiver.spans());
}

#[tokio::test]
async fn what_is_switched_off_is_not_sent() {
    let (stage, receiver) = (Stage::new().await, Receiver::start().await);
    stage.fill("e", 0, 1, 3).await;
    let quiet = [("OTEL_LOGS_EXPORTER", "none"), ("OTEL_METRICS_EXPORTER", "none")];
    let mut traces_alone = service(&stage, &receiver.url(), &quiet, &[]).await;
    let mut disabled = service(&stage, &receiver.url(), &[("OTEL_SDK_DISABLED", "true")], &[]).await;
    for service in [&traces_alone, &disabled] {
        service.client_rating().await.rate_window(traced(window(0, 1))).await.unwrap();
    }
    stop(&mut traces_alone).await;
    stop(&mut disabled).await;
    assert_eq!(receiver.named("run").len(), 1);
    assert!(receiver.records().is_empty() && receiver.series().is_empty());
    assert!(disabled.logs().iter().all(|line| line.get("trace_id").is_none()));
}

#[tokio::test]
async fn a_collector_behind_tls_is_known_by_its_authority() {
    let stage = Stage::new().await;
    let authority = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let (certificate, key) = (authority.cert.pem(), authority.signing_key.serialize_pem());
    let tls = ServerTlsConfig::new().identity(Identity::from_pem(&certificate, key));
    let receiver = Receiver::start_at("127.0.0.1:0", Server::builder().tls_config(tls).unwrap()).await;
    let dir = temp_dir();
    let path = dir.path().join("ca.pem");
    std::fs::write(&path, certificate).unwrap();
    let url = format!("https://localhost:{}", receiver.port());
    let known = [("OTEL_EXPORTER_OTLP_CERTIFICATE", path.to_str().unwrap())];
    let mut service = service(&stage, &url, &known, &[]).await;
    rate(&service, window(0, 1)).await.unwrap();
    stop(&mut service).await;
    assert!(receiver.records().iter().any(|record| record.body == "listening"));
}
