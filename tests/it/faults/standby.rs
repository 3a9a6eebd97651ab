//! A server in recovery: `rater` refuses to work on it.

use std::fs;
use std::time::Duration;

use tonic::Code;

use super::{Server, serving, start_at};
use crate::harness::run_in;
use crate::stage::{Stage, event, rate, record, until, window};

const SOON: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn a_server_in_recovery_is_refused_and_taken_up_once_it_is_promoted() {
    let mut server = Server::start().await;
    let stage = Stage::over(&server.url());
    let service = stage.service(&["--migrate"]).await;
    assert_eq!(record(&service, &[event("a", 0)]).await.unwrap().stored, 1);

    server.stop().await;
    fs::write(server.dir.path().join("data/standby.signal"), "").unwrap();
    // It comes back once the server is promoted: until then it is not "ready".
    let (dir, port) = (server.dir.path().to_path_buf(), server.port.clone());
    let promoted = tokio::spawn(async move { start_at(&dir, &port).await });
    let recovers = "SELECT pg_is_in_recovery()::int::bigint";
    until("it takes connections", SOON, async || {
        sqlx::query_scalar::<_, i64>(recovers).fetch_one(&stage.pool).await.is_ok_and(|yes| yes == 1)
    })
    .await;

    until("unready", SOON, async || !serving(&service).await).await;
    let refused = rate(&service, window(0, 1)).await.unwrap_err();
    assert_eq!((refused.code, refused.reason.as_str()), (Code::Unavailable, "DATABASE_UNAVAILABLE"));
    let refused = record(&service, &[event("b", 0)]).await.unwrap_err();
    assert_eq!((refused.code, refused.reason.as_str()), (Code::Unavailable, "DATABASE_UNAVAILABLE"));
    let (url, pricebook) = (stage.url.clone(), stage.pricebook());
    let started = tokio::task::spawn_blocking(move || {
        let arguments = ["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--pricebook"];
        run_in(&[("RATER_DATABASE_URL", &url)], &[&arguments[..], &[&pricebook]].concat(), "")
    });
    let started = started.await.unwrap();
    assert_eq!(started.code(), Some(1), "{started:?}");
    assert!(started.stderr.contains("recovery"), "{started:?}");

    stage.sql("SELECT pg_promote()").await;
    server.postgres = Some(promoted.await.unwrap());
    until("serving again", SOON, async || serving(&service).await).await;
    assert_eq!(record(&service, &[event("b", 0)]).await.unwrap().stored, 1);
    assert_eq!(rate(&service, window(0, 1)).await.unwrap().rated_events, 2);
    drop(service);
    server.stop().await;
}
