//! The hourly job: a pod that is tried again finds the run that the one before it began.

use std::process::{Command, Stdio};

use super::text;
use super::yaml::documents;
use crate::harness::{event, rater};
use crate::rig::{Gate, Rig, eventually};

/// The job's own command line, by its name; to this server, and over no certificate.
fn pod(rig: &Rig, job: &str) -> Command {
    let cron = documents(&text("k8s/base/routine.yaml")).remove(0);
    let container = cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0].clone();
    let mut command = rater();
    for argument in container["args"].as_array().unwrap() {
        command.arg(argument.as_str().unwrap().replace("$(JOB_NAME)", job));
    }
    command.env("RATER_SERVER", rig.service.url()).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

/// The run that a pod told of, and how it ended.
fn ended(mut pod: Command) -> (serde_json::Value, Option<i32>) {
    let output = pod.output().unwrap();
    (serde_json::from_slice(&output.stdout).unwrap_or_default(), output.status.code())
}

#[tokio::test(flavor = "multi_thread")]
async fn r09_a_pod_that_is_tried_again_finds_its_run_and_its_findings_and_fails_alike() {
    let rig = Rig::start(crate::rig::BOOK, &[]).await;
    rig.insert([event("e-1").model("acme/unknown")]).await;
    // In the trailing window, an hour that has closed.
    rig.sql("UPDATE billing_event SET event_ts = date_trunc('hour', now()) - interval '30 minutes'").await;
    let gate = rig.gate(Gate::AT_RESULTS, "true").await;
    let mut first = pod(&rig, "rater-routine-29384756").spawn().unwrap();
    rig.until_blocked(1).await;
    // The node goes away with it, in the middle of its run.
    first.kill().unwrap();
    first.wait().unwrap();
    gate.open().await;
    eventually("the run ended without its client", async || {
        rig.one::<i64>("SELECT count(*) FROM rating_run WHERE state = 'succeeded'").await == 1
    })
    .await;
    let again = ended(pod(&rig, "rater-routine-29384756"));
    let once_more = ended(pod(&rig, "rater-routine-29384756"));
    // The failure is visible, and the same each time.
    assert_eq!(again.1, Some(2), "{}", again.0);
    assert_eq!(again, once_more);
    assert_eq!(again.0["result"]["findings"][0]["code"], "FINDING_CODE_UNPRICED_EVENTS");
    let runs: Vec<String> =
        sqlx::query_scalar("SELECT run_id FROM rating_run").fetch_all(rig.pool()).await.unwrap();
    assert_eq!([again.0["run_id"].as_str().unwrap()], *runs);
    // The next hour's job is another request.
    let next = ended(pod(&rig, "rater-routine-29384816"));
    assert_eq!((next.1, rig.count("rating_run").await), (Some(2), 2));
}
