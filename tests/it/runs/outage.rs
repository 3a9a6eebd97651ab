//! WatchRun while the database is away.

use std::time::{Duration, Instant};

use rater::proto::*;
use tonic::Code;

use super::standing;
use crate::faults::{Server, serving};
use crate::harness::soak;
use crate::stage::{Refusal, Stage, assert_no_panic, until};

const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_watch_outlives_an_outage_of_the_database() {
    let mut server = Server::start().await;
    let stage = Stage::over(&server.url());
    let service = stage.service(&["--migrate"]).await;
    standing(&stage.pool, "run-1", "running").await;
    let mut client = service.client_rating().await;
    let request = WatchRunRequest { run_id: "run-1".into() };
    let mut stream = client.watch_run(request.clone()).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap().run.unwrap();
    assert_eq!(first.state(), RunState::Running);

    server.crash().await;
    until("it is told to be away", SOON, async || !serving(&service).await).await;
    let refused = client.watch_run(request).await.map(drop).map_err(Refusal::from).unwrap_err();
    assert_eq!(refused.reason, "DATABASE_UNAVAILABLE", "a new one is refused");
    server.start_again().await;
    let again = stream.message().await.expect("the stream lives on").unwrap().run.unwrap();
    assert_eq!((again.run_id, again.progress), (first.run_id, first.progress));

    if soak() {
        server.crash().await;
        let away = Instant::now();
        let ended = loop {
            match stream.message().await.map_err(Refusal::from) {
                Ok(told) => assert!(told.is_some(), "it does not end as if the run had"),
                Err(refused) => break refused,
            }
        };
        assert_eq!((ended.code, ended.reason.as_str()), (Code::Unavailable, "DATABASE_UNAVAILABLE"));
        assert!(away.elapsed() > Duration::from_secs(29), "{:?}", away.elapsed());
        assert!(away.elapsed() < Duration::from_secs(60), "{:?}", away.elapsed());
        server.start_again().await;
    }
    assert_no_panic(&service);
    drop(service);
    server.stop().await;
}
