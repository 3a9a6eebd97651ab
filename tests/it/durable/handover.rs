//! A service that stops hands its runs over at once, and what a run found is told once, by who
//! ends it.

use std::time::Instant;

use super::*;
use crate::rig::http_get;
use crate::stage::{assert_no_panic, rate, window};

const HOURS: i64 = 12;
const SLOW: &str = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_sleep(0.1); RETURN NULL; END $$;
    CREATE TRIGGER slow BEFORE INSERT ON rated_usage FOR EACH STATEMENT EXECUTE FUNCTION slow()";

/// How many unpriced events the services' logs tell of, line by line.
async fn told(services: &[&Service]) -> Vec<i64> {
    let lines = logged(services, "code", "UNPRICED_EVENTS").await;
    lines.iter().map(|line| field(line, "count").as_i64().unwrap()).collect()
}

/// What one counts, of a series that is written so.
async fn counted(service: &Service, series: &str) -> i64 {
    let text = http_get(service.admin_address(), "/metrics").await;
    let line = text.lines().find_map(|line| line.strip_prefix(series));
    line.map_or(0, |value| value.trim().parse().unwrap())
}

const UNPRICED: &str = r#"rater_findings_total{code="UNPRICED_EVENTS",severity="error",trigger="backfill"}"#;
const SUCCEEDED: &str = r#"rater_runs_total{trigger="backfill",state="succeeded"}"#;

/// An event an hour that nobody can price.
async fn filled(hours: i64) -> Stage {
    let stage = Stage::new().await;
    stage.fill("e", 0, hours, 10).await;
    stage.sql("UPDATE billing_event SET model = 'nobody/knows' WHERE request_id LIKE 'e-%-1'").await;
    stage
}

#[tokio::test]
async fn a_stopped_services_run_goes_on_in_another_which_tells_all_that_it_found() {
    let stage = filled(HOURS).await;
    stage.sql(SLOW).await;
    let arguments = ["--chunk-hours", "1", "--lease-ttl", "3s"];
    let (mut first, second) = (stage.service(&arguments).await, stage.service(&arguments).await);
    let request = RateWindowRequest { request_id: "handed over".into(), ..window(0, HOURS) };
    let run = ask(&first, request.clone()).await;
    until("some chunks are committed", SOON, async || stage.number(CHUNKS).await >= 3).await;
    let asked_again = ask(&second, request).await;
    first.signal(Signal::SIGTERM);
    let begun = Instant::now();
    let refused = run.await.unwrap().unwrap_err();
    assert_eq!(refused.reason, "SHUTTING_DOWN");
    let resumed = "SELECT count(*) FROM rating_run WHERE resumed_at IS NOT NULL";
    until("the other goes on", SOON, async || stage.number(resumed).await == 1).await;
    println!("the other goes on after {:?}", begun.elapsed());
    assert_eq!(first.wait(SOON).await.code(), Some(0));

    let result = asked_again.await.unwrap().expect("the result of the run");
    assert_eq!((result.events, result.unpriced_events), (HOURS * 10, HOURS));
    assert_eq!((result.inserted_rollups, stage.number(RUNS).await), (HOURS * 9, 1));
    assert_eq!(told(&[&first, &second]).await, [HOURS]);
    assert_eq!((counted(&second, UNPRICED).await, counted(&second, SUCCEEDED).await), (HOURS, 1));
    assert_billed_once(&stage).await;
    assert_no_panic(&first);
    assert_no_panic(&second);
}

/// The answer to the last COMMIT is lost: the run has succeeded, and nobody else is there to say
/// so.
#[tokio::test]
async fn a_run_whose_last_answer_was_lost_tells_what_it_found() {
    let stage = filled(2).await;
    let proxy = Proxy::to(&stage.url).await;
    let service = stage.service_over(&proxy.url(&stage.url), &["--chunk-hours", "1"]).await;
    proxy.cut(3, Side::After);
    let result = rate(&service, window(0, 2)).await.expect("the run has succeeded");
    assert!(proxy.has_struck());
    assert_eq!(result.unpriced_events, 2);
    assert_eq!(told(&[&service]).await, [2]);
    assert_eq!((counted(&service, UNPRICED).await, counted(&service, SUCCEEDED).await), (2, 1));
    assert!(lines(&[&service], "message", "run failed").is_empty());
}

/// The answer to another COMMIT is lost: the run goes on, does not rate that chunk again, and what
/// it tells in the end knows of it.
#[tokio::test]
async fn a_run_that_lost_an_answer_goes_on_after_the_chunk_that_was_committed() {
    let stage = filled(2).await;
    let proxy = Proxy::to(&stage.url).await;
    let arguments = ["--chunk-hours", "1", "--lease-ttl", "3s"];
    let service = stage.service_over(&proxy.url(&stage.url), &arguments).await;
    proxy.cut(2, Side::After);
    let refused = rate(&service, window(0, 2)).await.unwrap_err();
    assert_eq!(refused.reason, "OUTCOME_UNKNOWN");
    assert!(refused.retry.is_some(), "the same request finds it again");
    let run_id = &refused.metadata["run"];
    until("it is done", SOON, async || record(&stage, run_id).await.state == "succeeded").await;
    until("it is told", SOON, async || told(&[&service]).await == [2]).await;
    // Nobody is called for a run that goes on.
    assert!(lines(&[&service], "message", "run failed").is_empty());
    assert_eq!(lines(&[&service], "message", "the run waits to go on").len(), 1);
    assert_eq!(stage.number(CHUNKS).await, 2);
    assert_billed_once(&stage).await;
    assert_eq!((stage.number(AHEAD).await, stage.feed_faults().await), (0, 0));
}

/// Its process was killed when its last chunk was committed, and nothing of it was told.
#[tokio::test]
async fn what_a_killed_process_had_not_told_is_told_by_another_and_once() {
    let dead = Dead::after(2, filled(2).await, window(0, 2), &["--chunk-hours", "1"]).await;
    assert_eq!(dead.record().await.state, "succeeded");
    let arguments = ["--chunk-hours", "1", "--lease-ttl", "2s"];
    let (second, third) = (dead.stage.service(&arguments).await, dead.stage.service(&arguments).await);
    assert_eq!(told(&[&second, &third]).await, [2]);
    // Both have looked again.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(told(&[&second, &third]).await, [2]);
    assert_eq!(counted(&second, SUCCEEDED).await + counted(&third, SUCCEEDED).await, 1);
}
