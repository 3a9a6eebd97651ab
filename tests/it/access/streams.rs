//! Streams end when their callers are known or allowed no more.

use std::time::Duration;

use chrono::Utc;
use rater::proto::rating_service_client::RatingServiceClient;
use rater::proto::*;
use serde_json::json;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};

use super::guarded::{Files, Guarded, LIST_RUNS, call, identities, subject, uri};
use super::pki::{Authority, Valid};
use super::tokens::{Signer, claims};
use crate::harness;
use crate::rig::{backfill, eventually};

type Changes = Streaming<StreamRatedUsageChangesResponse>;

/// Follows the changes, and gives the stream after its first message.
async fn follow(channel: &Channel, token: Option<&str>) -> Changes {
    let wanted = StreamRatedUsageChangesRequest { follow: true, ..Default::default() };
    let mut request = Request::new(wanted);
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    let mut client = RatingServiceClient::new(channel.clone());
    let mut changes = client.stream_rated_usage_changes(request).await.unwrap().into_inner();
    assert!(!changes.message().await.unwrap().expect("a message").cursor.is_empty());
    changes
}

/// How a stream ends that has none of its own.
async fn end(mut changes: Changes) -> (Code, String) {
    let ended = async {
        loop {
            match changes.message().await {
                Ok(Some(message)) => assert!(!message.cursor.is_empty()),
                Ok(None) => panic!("a good end"),
                Err(status) => return status,
            }
        }
    };
    let status: Status = tokio::time::timeout(Duration::from_secs(20), ended).await.expect("an end");
    (status.code(), rater::grpc::client::Failure::from(status).reason)
}

fn unknown() -> (Code, String) {
    (Code::Unauthenticated, "UNAUTHENTICATED".into())
}

/// A guarded service with changes to follow, and its operator.
async fn start() -> (Guarded, Channel) {
    let rig = Files::new().serve(&[]).await;
    harness::insert(rig.db.pool(), [harness::event("a")]).await;
    let operator = rig.connect(Some(&rig.files.certificate("operator"))).await.unwrap();
    RatingServiceClient::new(operator.clone()).rate_window(backfill(10, 11)).await.unwrap();
    (rig, operator)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_when_its_caller_is_known_or_allowed_no_more() {
    let (rig, operator) = start().await;
    let files = &rig.files;
    let reader = rig.connect(Some(&files.certificate("reader"))).await.unwrap();
    let bare = rig.connect(None).await.unwrap();
    let token = files.signer.token(&subject("reader"));
    let (by_certificate, by_token) = (follow(&reader, None).await, follow(&bare, Some(&token)).await);
    let mut stays = follow(&operator, None).await;
    // The name is given another role, and another one is taken out.
    let less = identities()
        .replace(
            &format!("\"{}\", roles: [reader]", uri("reader")),
            &format!("\"{}\", roles: [ingest]", uri("reader")),
        )
        .replace(&format!("\"{}\"", subject("reader")), "\"left@test\"");
    files.write("identities.yaml", &less);
    let missing = (Code::PermissionDenied, "ROLE_MISSING".to_string());
    assert_eq!(end(by_certificate).await, missing);
    assert_eq!(end(by_token).await, missing);
    files.write("identities.yaml", &identities());
    let again = async || call(reader.clone(), LIST_RUNS, &[], &[]).await.unwrap().0;
    assert_eq!(again().await, Code::PermissionDenied, "a reader lists no runs");
    eventually("the reader is one again", async || {
        let wanted = StreamRatedUsageChangesRequest::default();
        RatingServiceClient::new(reader.clone()).stream_rated_usage_changes(wanted).await.is_ok()
    })
    .await;
    // The key is taken out of the set, and the authority is exchanged.
    let (by_certificate, by_token) = (follow(&reader, None).await, follow(&operator, Some(&token)).await);
    files.write("jwks.json", &Signer::new("next").jwks(&[]));
    assert_eq!(end(by_token).await, unknown());
    // Whom none of that was about gets what comes.
    harness::insert(rig.db.pool(), [harness::event("b")]).await;
    RatingServiceClient::new(operator.clone()).rate_window(backfill(10, 11)).await.unwrap();
    while stays.message().await.unwrap().expect("a message").changes.is_empty() {}
    files.write("client-ca.pem", &Authority::new("another").certificate);
    assert_eq!(end(by_certificate).await, unknown());
    assert_eq!(end(stays).await, unknown());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_the_token_or_the_certificate_that_began_it() {
    let (rig, operator) = start().await;
    let mut soon = claims(&subject("reader"));
    // Clocks may differ by 30 s.
    soon["exp"] = json!(Utc::now().timestamp() - 26);
    let token = rig.files.signer.sign(&soon);
    let by_token = follow(&rig.connect(None).await.unwrap(), Some(&token)).await;
    let names = [format!("uri:{}", uri("reader"))];
    let pair = rig.files.client_ca.issue(&[&names[0]], Valid::For(Duration::from_secs(5)));
    let by_certificate = follow(&rig.connect(Some(&pair)).await.unwrap(), None).await;
    let stays = follow(&operator, None).await;
    assert_eq!(end(by_token).await, unknown());
    assert_eq!(end(by_certificate).await, unknown());
    let open = tokio::time::timeout(Duration::from_millis(500), end(stays)).await;
    assert!(open.is_err(), "another's has ended, too: {open:?}");
}
