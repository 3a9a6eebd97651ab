//! Every call has a deadline, its caller's or the service's, and is answered before it passes, with
//! DEADLINE_EXCEEDED. A stream ends with it after its last message, and whoever follows goes on.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rater::grpc::client::Failure;
use rater::proto::*;
use tonic::{Request, Status};

use crate::harness::{Process, event, rater};
use crate::rig::{BOOK, Rig, backfill, eventually, hour};
use crate::stage;

const SOON: Duration = Duration::from_secs(20);

fn within<T>(message: T, timeout: Option<Duration>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(timeout) = timeout {
        request.set_timeout(timeout);
    }
    request
}

/// What each call comes to while nobody can read a table, and how long that takes.
async fn answers(rig: &Rig, timeout: Option<Duration>) -> Vec<(&'static str, Result<(), Status>, Duration)> {
    let mut answers = Vec::new();
    macro_rules! call {
        ($client:expr, $rpc:ident, $message:expr) => {
            let began = Instant::now();
            let answer = $client.$rpc(within($message, timeout)).await.map(drop);
            answers.push((stringify!($rpc), answer, began.elapsed()));
        };
    }
    let mut client = rig.client();
    let run_id = "00000000-0000-7000-8000-000000000000".to_string();
    let (since, until) = (backfill(10, 11).since, backfill(10, 11).until);
    let filter = Some(UsageFilter { since, until, ..Default::default() });
    call!(client, get_run, GetRunRequest { run_id: run_id.clone() });
    call!(client, list_runs, ListRunsRequest::default());
    call!(client, watch_run, WatchRunRequest { run_id: run_id.clone() });
    call!(client, cancel_run, CancelRunRequest { run_id });
    call!(client, get_rated_usage, GetRatedUsageRequest { filter: filter.clone(), ..Default::default() });
    call!(client, summarize_rated_usage, SummarizeRatedUsageRequest { filter, ..Default::default() });
    call!(client, stream_rated_usage_changes, StreamRatedUsageChangesRequest::default());
    call!(client, list_anomalies, ListAnomaliesRequest::default());
    let digest = "0".repeat(64);
    call!(client, get_pricebook, GetPricebookRequest { digest });
    let against = Some(Window { start: since, end: until });
    let impact = ValidatePricebookRequest { pricebook_yaml: BOOK.into(), against };
    call!(client, validate_pricebook, impact);
    call!(client, rate_window, backfill(10, 11));
    let mut events = rig.service.client_events().await;
    let batch = RecordEventsRequest { events: vec![stage::event("late", 10)], skip_invalid: false };
    call!(events, record_events, batch);
    answers
}

/// Nobody reads a table of ours until it is rolled back.
async fn lock_all(rig: &Rig) -> sqlx::Transaction<'static, sqlx::Postgres> {
    let mut hold = rig.pool().begin().await.unwrap();
    let tables = "LOCK TABLE rating_run, rated_usage, rated_usage_change, change_batch, rating_anomaly,
        billing_event, rating_lease, pricebook IN ACCESS EXCLUSIVE MODE";
    sqlx::query(tables).execute(&mut *hold).await.unwrap();
    hold
}

async fn all_end(rig: &Rig, timeout: Option<Duration>, within: std::ops::Range<u64>) {
    let hold = lock_all(rig).await;
    let answers = answers(rig, timeout).await;
    hold.rollback().await.unwrap();
    assert_eq!(answers.len(), 12, "every RPC");
    for (rpc, answer, took) in answers {
        let failure = Failure::from(answer.expect_err(rpc));
        let reason = if rpc == "rate_window" { "RUN_CONTINUES" } else { "DEADLINE_PASSED" };
        assert_eq!(
            (failure.code, failure.reason.as_str()),
            ("DEADLINE_EXCEEDED", reason),
            "{rpc} {failure:?}"
        );
        assert!(within.contains(&(took.as_millis() as u64)), "{rpc}: {took:?}");
    }
}

#[tokio::test]
async fn every_call_is_answered_before_its_callers_deadline_passes() {
    let rig = Rig::with_events([event("a")]).await;
    all_end(&rig, Some(Duration::from_millis(800)), 600..800).await;
}

#[tokio::test]
async fn every_call_ends_after_the_services_time_where_its_caller_sets_none_or_more() {
    let rig = Rig::start(BOOK, &["--max-call-time", "1s"]).await;
    all_end(&rig, None, 900..2_500).await;
    all_end(&rig, Some(Duration::from_secs(3600)), 900..2_500).await;
}

#[tokio::test]
async fn a_stream_ends_at_its_deadline_with_a_cursor_that_goes_on() {
    let rig = Rig::with_events([event("a"), event("b").at(&hour(11))]).await;
    rig.rated(backfill(10, 11)).await;
    let follow = |cursor: &str| StreamRatedUsageChangesRequest {
        cursor: cursor.into(),
        follow: true,
        ..Default::default()
    };
    let mut client = rig.client();
    let request = within(follow(""), Some(Duration::from_secs(1)));
    let mut stream = client.stream_rated_usage_changes(request).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap();
    assert_eq!(first.changes.len(), 1);
    let end = Failure::from(stream.message().await.unwrap_err());
    assert_eq!((end.code, end.reason.as_str()), ("DEADLINE_EXCEEDED", "DEADLINE_PASSED"), "{end:?}");
    rig.rated(backfill(11, 12)).await;
    let mut stream = client.stream_rated_usage_changes(follow(&first.cursor)).await.unwrap().into_inner();
    let next = stream.message().await.unwrap().unwrap();
    assert_eq!(next.changes.len(), 1, "the second, and not the first again");
}

/// Over several ends of its streams, told nothing of them.
#[tokio::test(flavor = "multi_thread")]
async fn our_own_followers_go_on_over_the_ends_of_their_streams() {
    let rig = Rig::start(BOOK, &["--max-call-time", "1s"]).await;
    let mut command = rater();
    command.env("RATER_SERVER", rig.service.url()).args(["usage", "changes", "--follow", "-o", "json"]);
    let mut changes = Process::spawn(command);
    rig.insert([event("slow").at(&hour(22))]).await;
    let hold = rig.hold_writes().await;
    let slow = tonic::Request::new(RateWindowRequest { detach: true, ..backfill(22, 23) });
    let run_id = rig.client().rate_window(slow).await.unwrap().into_inner().run_id;
    let mut command = rater();
    command.env("RATER_SERVER", rig.service.url()).args(["runs", "watch", "--quiet", &run_id]);
    let mut watch = Process::spawn(command);
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    hold.rollback().await.unwrap();
    assert_eq!(watch.wait(SOON).await.code(), Some(0), "{:?}", watch.logs());
    assert!(watch.logs().is_empty(), "{:?}", watch.logs());
    for h in 10..13 {
        rig.insert([event(&format!("e{h}")).at(&hour(h))]).await;
        rig.rated(backfill(h, h + 1)).await;
        tokio::time::sleep(Duration::from_millis(1_100)).await;
    }
    eventually("all is told", async || rig.count("rated_usage_change").await == 4).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    changes.signal(Signal::SIGINT);
    changes.wait(SOON).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    // But how to go on, now that it was told to stop.
    assert_eq!(changes.logs().len(), 1, "{:?}", changes.logs());
    let told = changes.stdout();
    assert_eq!(told.lines().count(), 4, "{told}");
}
