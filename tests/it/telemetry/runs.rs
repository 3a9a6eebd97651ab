//! A run is one trace, whoever executes it, and however long after its call.

use std::time::Duration;

use nix::sys::signal::Signal;
use rater::proto::RateWindowRequest;

use super::receiver::Span;
use super::{CALLER, Receiver, TRACE, service, traced};
use crate::harness::Service;
use crate::stage::{Stage, hour, until, window};

const CALL: &str = "rating.v1.RatingService/RateWindow";

fn child_of<'s>(spans: &'s [Span], parent: &Span) -> Vec<&'s Span> {
    let mut children: Vec<_> = spans.iter().filter(|span| span.parent == parent.id).collect();
    children.sort_by_key(|span| span.name.clone());
    children
}

#[tokio::test]
async fn a_run_is_one_trace_with_its_chunks_and_their_steps() {
    let (stage, receiver) = (Stage::new().await, Receiver::start().await);
    stage.fill("e", 0, 2, 10).await;
    stage.sql("UPDATE billing_event SET model = 'acme/unknown' WHERE request_id = 'e-0-1'").await;
    let service = service(&stage, &receiver.url(), &[], &["--chunk-hours", "1"]).await;
    let answer = service.client_rating().await.rate_window(traced(window(0, 2))).await.unwrap().into_inner();
    let run = &receiver.wait_for("run", 1).await[0];
    receiver.wait_for(CALL, 1).await;
    let spans = receiver.spans();
    assert!(spans.iter().all(|span| span.trace == TRACE), "{spans:#?}");

    let call = &receiver.named(CALL)[0];
    assert_eq!((call.parent.as_str(), &run.parent), (CALLER, &call.id));
    let digest = run.attribute("rater.pricebook.digest");
    let said = |name: &str| run.attribute(name);
    assert_eq!(said("rater.run.id"), answer.run_id);
    assert_eq!((said("rater.run.trigger"), said("rater.run.rate_basis")), ("backfill", "pricebook"));
    assert_eq!(said("rater.window.start"), "2026-06-01T00:00:00Z");
    assert_eq!(said("rater.window.end"), "2026-06-01T02:00:00Z");
    assert_eq!((digest.len(), said("rater.run.state")), (64, "succeeded"));
    assert_eq!((said("rater.events"), said("rater.events.unpriced")), ("20", "1"));
    let result = answer.result.unwrap();
    assert_eq!(said("rater.rollups.inserted"), result.inserted_rollups.to_string());
    assert_eq!((said("rater.cost.total"), said("rater.currency")), (result.total_cost.as_str(), "USD"));

    let chunks: Vec<_> = child_of(&spans, run).into_iter().filter(|span| span.name == "chunk").collect();
    assert_eq!(chunks.len(), 2);
    let events: i64 =
        chunks.iter().map(|chunk| chunk.attribute("rater.events").parse::<i64>().unwrap()).sum();
    assert_eq!(events, 20);
    for chunk in chunks {
        let steps = child_of(&spans, chunk);
        let said = |step: &&Span| (step.attribute("rater.step").to_owned(), step.name.clone());
        let expected = [
            ("commit", "COMMIT"),
            ("S2", "INSERT rated_usage"),
            ("S3", "INSERT rating_run_chunk"),
            ("S1", "SELECT rating_lease"),
        ];
        let expected = expected.map(|(step, summary)| (step.to_owned(), summary.to_owned()));
        assert_eq!(steps.iter().map(said).collect::<Vec<_>>(), expected);
        assert!(steps.iter().all(|step| step.kind == 3 && step.attribute("db.system.name") == "postgresql"));
    }
    // The lease is taken before there is a run.
    let lease = &receiver.named("INSERT rating_lease")[0];
    assert_eq!((&lease.parent, lease.attribute("db.collection.name")), (&call.id, "rating_lease"));
    assert!(lease.attribute("db.namespace").starts_with("test_"), "{lease:#?}");

    // Each finding is one record, at its severity's level.
    let mut findings = Vec::new();
    until("the finding is told", Duration::from_secs(20), async || {
        findings = receiver.records().into_iter().filter(|r| r.attributes.contains_key("code")).collect();
        !findings.is_empty()
    })
    .await;
    assert_eq!(findings.len(), 1, "{findings:#?}");
    let finding = &findings[0];
    assert_eq!(
        (finding.severity.as_str(), finding.attributes["code"].as_str()),
        ("ERROR", "UNPRICED_EVENTS")
    );
    assert_eq!((&finding.attributes["run_id"], finding.attributes["count"].as_str()), (&answer.run_id, "1"));
    assert_eq!((finding.trace.as_str(), &finding.span), (TRACE, &run.id));
    let line = service.logs().into_iter().find(|line| line["code"] == "UNPRICED_EVENTS").unwrap();
    assert_eq!((&line["trace_id"], &line["span_id"]), (&TRACE.into(), &run.id.as_str().into()));
}

#[tokio::test]
async fn a_run_that_fails_says_why() {
    let (stage, receiver) = (Stage::new().await, Receiver::start().await);
    stage.fill("e", 0, 1, 3).await;
    let service = service(&stage, &receiver.url(), &[], &[]).await;
    let request = RateWindowRequest { expected_plan_hash: "0".repeat(64), ..window(0, 1) };
    service.client_rating().await.rate_window(traced(request)).await.unwrap_err();
    let run = &receiver.wait_for("run", 1).await[0];
    assert_eq!((run.attribute("rater.run.state"), run.attribute("error.type")), ("failed", "PLAN_CHANGED"));
    assert!(run.failed);
    // What its caller expected is its caller's: the service did well.
    assert!(!receiver.wait_for(CALL, 1).await[0].failed);
}

#[tokio::test]
async fn a_plan_is_told_like_a_run() {
    let (stage, receiver) = (Stage::new().await, Receiver::start().await);
    stage.fill("e", 0, 1, 3).await;
    let service = service(&stage, &receiver.url(), &[], &[]).await;
    let request = RateWindowRequest { dry_run: true, ..window(0, 1) };
    service.client_rating().await.rate_window(traced(request)).await.unwrap();
    let run = &receiver.wait_for("dry run", 1).await[0];
    assert_eq!((run.trace.as_str(), run.attribute("rater.events")), (TRACE, "3"));
    assert_eq!(run.attribute("rater.plan.hash").len(), 64);
    let chunks = receiver.wait_for("chunk", 1).await;
    assert_eq!(child_of(&receiver.spans(), &chunks[0])[0].name, "SELECT billing_event");
}

/// Lets nothing be committed until it is let go.
async fn hold(stage: &Stage) -> sqlx::Transaction<'static, sqlx::Postgres> {
    let mut hold = stage.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE rated_usage IN SHARE MODE").execute(&mut *hold).await.unwrap();
    hold
}

#[tokio::test]
async fn a_detached_run_stays_in_its_callers_trace_and_does_not_stretch_the_call() {
    let (stage, receiver) = (Stage::new().await, Receiver::start().await);
    stage.fill("e", 0, 1, 3).await;
    let service = service(&stage, &receiver.url(), &[], &[]).await;
    let hold = hold(&stage).await;
    let request = RateWindowRequest { detach: true, ..window(0, 1) };
    service.client_rating().await.rate_window(traced(request)).await.unwrap();
    // Its call has ended, and is told as such, while the run goes on.
    let call = receiver.wait_for(CALL, 1).await.remove(0);
    assert_eq!(receiver.named("run").len(), 0);
    hold.rollback().await.unwrap();
    let run = receiver.wait_for("run", 1).await.remove(0);
    assert_eq!((run.trace.as_str(), &run.parent), (TRACE, &call.id));
    assert_eq!(receiver.named(CALL).len(), 1);
}

#[tokio::test]
async fn a_run_that_another_process_takes_over_stays_in_its_callers_trace() {
    let (stage, receiver) = (Stage::new().await, Receiver::start().await);
    stage.fill("e", 0, 2, 3).await;
    let arguments = ["--chunk-hours", "1", "--lease-ttl", "1s"];
    let holder = service(&stage, &receiver.url(), &[], &arguments).await;
    let held = hold(&stage).await;
    let request = RateWindowRequest { detach: true, ..window(0, 2) };
    let run_id = holder.client_rating().await.rate_window(traced(request)).await.unwrap().into_inner().run_id;
    let call = receiver.wait_for(CALL, 1).await.remove(0);
    let taker = service(&stage, &receiver.url(), &[], &arguments).await;
    holder.signal(Signal::SIGKILL);
    held.rollback().await.unwrap();
    let run = receiver.wait_for("run", 1).await.remove(0);
    assert_eq!((run.trace.as_str(), &run.parent), (TRACE, &call.id));
    assert_eq!(
        (run.attribute("rater.run.id"), run.attribute("rater.run.state")),
        (run_id.as_str(), "succeeded")
    );
    assert_eq!(child_of(&receiver.spans(), &run).iter().filter(|span| span.name == "chunk").count(), 2);
    let told = taker.logs().into_iter().find(|line| line["message"] == "run succeeded").unwrap();
    assert_eq!(told["trace_id"], TRACE);
}

#[tokio::test]
async fn a_run_without_a_caller_that_is_traced_is_a_trace_of_its_own() {
    let (stage, receiver) = (Stage::new().await, Receiver::start().await);
    stage.fill("e", 0, 1, 3).await;
    let service = service(&stage, &receiver.url(), &[], &[]).await;
    let request = RateWindowRequest { since: Some(hour(0)), until: Some(hour(1)), ..Default::default() };
    service.client_rating().await.rate_window(request).await.unwrap();
    let (run, call) =
        (receiver.wait_for("run", 1).await.remove(0), receiver.wait_for(CALL, 1).await.remove(0));
    assert_eq!((call.parent.as_str(), &run.trace), ("", &call.trace));
    assert_ne!(run.trace, TRACE);
}

/// Reads are operations of the database, too; sweeps, heartbeats and probes make no traces.
#[tokio::test]
async fn what_nobody_asked_for_makes_no_trace() {
    let (stage, receiver) = (Stage::new().await, Receiver::start().await);
    let service: Service = service(&stage, &receiver.url(), &[], &["--lease-ttl", "1s"]).await;
    let mut health = tonic_health::pb::health_client::HealthClient::new(service.channel().await);
    for _ in 0..3 {
        let check = tonic_health::pb::HealthCheckRequest::default();
        health.check(traced(check)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    let mut client = service.client_rating().await;
    client.get_rated_usage(traced(rater::proto::GetRatedUsageRequest::default())).await.ok();
    receiver.wait_for("rating.v1.RatingService/GetRatedUsage", 1).await;
    let names: Vec<_> = receiver.spans().into_iter().map(|span| span.name).collect();
    let expected = ["rating.v1.RatingService/GetRatedUsage", "SELECT rated_usage"];
    assert!(names.iter().all(|name| expected.contains(&name.as_str())), "{names:?}");
}
