//! The same through gRPC: every field arrives, and errors name what is wrong.

use rater::grpc::client::events::EventSender;
use rater::grpc::client::{Failure, Server, connect};
use rater::grpc::events::EventServer;
use rater::proto::{BillingEvent, RecordEventsRequest, RecordEventsResponse};
use sqlx::Row;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;

use super::{Fixture, fixture};

async fn sender(f: &Fixture) -> EventSender {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = tonic::transport::Server::builder().add_service(EventServer::new(f.intake.clone()));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    EventSender::new(connect(&Server { url, ..Server::default() }).await.unwrap(), Duration::from_secs(10))
}

async fn send(
    sender: &mut EventSender,
    events: &[BillingEvent],
    skip_invalid: bool,
) -> Result<RecordEventsResponse, Failure> {
    sender.send(RecordEventsRequest { events: events.to_vec(), skip_invalid }, |_| {}).await
}

fn event(request_id: &str) -> BillingEvent {
    BillingEvent {
        request_id: request_id.into(),
        auth_id: "auth".into(),
        user_id: "user".into(),
        group_id: "group".into(),
        resource_id: "resource".into(),
        resource_type: "type".into(),
        model: "model".into(),
        base_model: "base".into(),
        adapter: "adapter".into(),
        prompt_tokens: 3,
        cached_tokens: 2,
        completion_tokens: 1,
        finish_reason: "stop".into(),
        gpu_type: "gpu".into(),
        aborted: true,
        event_time: Some(prost_types::Timestamp { seconds: -1, nanos: 999_999_999 }),
    }
}

#[tokio::test]
async fn every_field_arrives_in_its_column() {
    let f = fixture().await;
    let mut sender = sender(&f).await;
    let sent = send(&mut sender, &[event("a")], false).await.unwrap();
    assert_eq!((sent.stored, sent.duplicates), (1, 0));
    let again = send(&mut sender, &[event("a")], false).await.unwrap();
    assert_eq!((again.stored, again.duplicates), (0, 1));
    let row = sqlx::query(
        "SELECT concat_ws('|', request_id, auth_id, user_id, group_id, resource_id, resource_type, model,
            base_model, adapter, prompt_tokens, cached_tokens, completion_tokens, finish_reason, gpu_type,
            aborted, extract(epoch FROM event_ts)) AS all
        FROM billing_event",
    )
    .fetch_one(f.other())
    .await
    .unwrap();
    let expected = "a|auth|user|group|resource|type|model|base|adapter|3|2|1|stop|gpu|t|-0.000001";
    assert_eq!(row.get::<String, _>("all"), expected);
}

#[tokio::test]
async fn a_refusal_names_index_and_field() {
    let f = fixture().await;
    let mut sender = sender(&f).await;
    let bad = BillingEvent { cached_tokens: -1, ..event("b") };
    let failure = send(&mut sender, &[event("a"), bad.clone()], false).await.unwrap_err();
    assert_eq!(failure.code, "INVALID_ARGUMENT");
    assert_eq!(failure.violations[0].0, "events[1].cached_tokens");

    let rejected = send(&mut sender, &[bad, event("a")], true).await.unwrap().rejected;
    assert_eq!((rejected[0].index, rejected[0].request_id.as_str()), (0, "b"));
    assert_eq!((rejected[0].field.as_str(), rejected[0].reason.as_str()), ("cached_tokens", "NEGATIVE"));

    let other = BillingEvent { model: "other".into(), ..event("a") };
    let failure = send(&mut sender, &[other], false).await.unwrap_err();
    assert_eq!((failure.code, failure.reason.as_str()), ("ALREADY_EXISTS", "EVENT_CONFLICT"));
    assert_eq!(failure.violations[0].0, "events[0].request_id");
}

#[tokio::test]
async fn a_database_that_takes_none_of_a_batch_is_told_from_bad_events() {
    let f = fixture().await;
    sqlx::query("ALTER TABLE billing_event ADD CHECK (model <> 'poison')").execute(f.other()).await.unwrap();
    let mut sender = sender(&f).await;
    let poison = BillingEvent { model: "poison".into(), ..event("p") };
    for skip_invalid in [false, true] {
        let failure = send(&mut sender, std::slice::from_ref(&poison), skip_invalid).await.unwrap_err();
        let told = (failure.code, failure.reason.as_str(), failure.violations.len());
        assert_eq!(told, ("INTERNAL", "REFUSED_BY_DATABASE", 0), "{failure:?}");
    }
    let rejected = send(&mut sender, &[event("a"), poison], true).await.unwrap().rejected;
    assert_eq!((rejected[0].index, rejected[0].reason.as_str()), (1, "REFUSED_BY_DATABASE"));
}
