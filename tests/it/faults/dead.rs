//! The database dies and comes back.

use std::time::Duration;

use rater::proto::{BillingEvent, GetPricebookRequest, GetRatedUsageRequest, GetRatedUsageResponse};
use tonic::Code;

use super::{Server, serving};
use crate::harness::Service;
use crate::stage::{Refusal, Stage, assert_no_panic, event, rate, rate_until_done, record, until, window};

const SOON: Duration = Duration::from_secs(30);

async fn read(service: &Service) -> Result<GetRatedUsageResponse, Refusal> {
    let mut client = service.client_rating().await;
    let response = client.get_rated_usage(GetRatedUsageRequest::default()).await;
    response.map(tonic::Response::into_inner).map_err(Refusal::from)
}

#[tokio::test]
async fn a_database_that_dies_is_told_and_found_again_without_a_restart() {
    let mut server = Server::start().await;
    let stage = Stage::over(&server.url());
    let mut service = stage.service(&["--migrate", "--lease-ttl", "2s", "--chunk-hours", "1"]).await;
    let events: Vec<BillingEvent> = (0..50).map(|n| event(&format!("e-{n}"), n % 3)).collect();
    assert_eq!(record(&service, &events).await.unwrap().stored, 50);
    assert_eq!(rate(&service, window(0, 3)).await.unwrap().rated_events, 50);
    assert!(serving(&service).await);

    let (run, batch) = in_flight(&stage, &service).await;
    server.crash().await;
    let refused = batch.await.unwrap().unwrap_err();
    away(&refused);
    while_it_is_away(&service).await;
    let refused = run.await.unwrap().unwrap_err();
    away(&refused);
    assert_eq!(refused.metadata["hours_committed"], "0", "{refused:?}");

    server.start_again().await;
    stage.sql("DROP TRIGGER slow ON rated_usage").await;
    until("serving again", SOON, async || serving(&service).await).await;
    let batch: Vec<BillingEvent> = (0..10).map(|n| event(&format!("in-flight-{n}"), 1)).collect();
    let recorded = record(&service, &batch).await.unwrap();
    assert_eq!((recorded.stored, recorded.duplicates), (10, 0), "nothing of it was stored before");
    let (result, _) = rate_until_done(&service, window(0, 3), SOON).await;
    assert_eq!(result.rated_events, 60);
    assert_eq!(stage.mismatches().await, 0);
    assert_eq!(stage.feed_faults().await, 0);
    // The run that it interrupted has ended in the record, too.
    let running = "SELECT count(*) FROM rating_run WHERE finished_at IS NULL";
    until("every record has ended", SOON, async || stage.number(running).await == 0).await;
    assert_no_panic(&service);
    service.wait_for_log("not ready", Duration::from_secs(1)).await;
    drop(service);
    server.stop().await;
}

type Call<T> = tokio::task::JoinHandle<Result<T, Refusal>>;

/// A run in its first chunk's S2, and a batch that waits for another writer.
async fn in_flight(
    stage: &Stage,
    service: &Service,
) -> (Call<rater::proto::RateWindowResponse>, Call<rater::proto::RecordEventsResponse>) {
    stage
        .sql(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(60); END $$;
             CREATE TRIGGER slow BEFORE INSERT ON rated_usage FOR EACH STATEMENT EXECUTE FUNCTION slow()",
        )
        .await;
    let mut writer = stage.pool.begin().await.unwrap();
    sqlx::query("INSERT INTO billing_event (request_id) VALUES ('in-flight-7')")
        .execute(&mut *writer)
        .await
        .unwrap();
    let mut rating = service.client_rating().await;
    let run = tokio::spawn(async move {
        rating.rate_window(window(0, 3)).await.map(tonic::Response::into_inner).map_err(Refusal::from)
    });
    let mut taking = service.client_events().await;
    let events = (0..10).map(|n| event(&format!("in-flight-{n}"), 1)).collect();
    let batch = tokio::spawn(async move {
        let request = rater::proto::RecordEventsRequest { events, skip_invalid: false };
        taking.record_events(request).await.map(tonic::Response::into_inner).map_err(Refusal::from)
    });
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'rater'
        AND wait_event IN ('PgSleep', 'transactionid')";
    until("both are in flight", SOON, async || stage.number(waiting).await == 2).await;
    // It never commits, and goes down with the server.
    std::mem::forget(writer);
    (run, batch)
}

/// Every call that needs the database says so; one that does not is answered.
async fn while_it_is_away(service: &Service) {
    let events = [event("later", 1)];
    let (rated, recorded, read, _) = tokio::join!(
        rate(service, window(0, 1)),
        record(service, &events),
        read(service),
        until("unready", SOON, async || !serving(service).await),
    );
    away(&rated.unwrap_err());
    away(&recorded.unwrap_err());
    away(&read.unwrap_err());
    let mut client = service.client_rating().await;
    client.get_pricebook(GetPricebookRequest::default()).await.expect("the loaded one needs no database");
}

fn away(refused: &Refusal) {
    assert_eq!(refused.code, Code::Unavailable, "{refused:?}");
    assert_eq!(refused.reason, "DATABASE_UNAVAILABLE", "{refused:?}");
    assert!(refused.retry.is_some_and(|wait| !wait.is_zero()), "{refused:?}");
}
