//! What an orchestrator may begin, and whose a run is.

use prost::Message;
use rater::grpc::client::{Channel, Failure};
use rater::proto::rating_service_client::RatingServiceClient;
use rater::proto::*;

use super::guarded::{Files, Guarded, subject, uri};
use crate::rig::{BOOK, backfill, routine};

async fn rate(channel: &Channel, request: RateWindowRequest) -> Result<RateWindowResponse, Failure> {
    let mut client = RatingServiceClient::new(channel.clone());
    Ok(client.rate_window(request).await?.into_inner())
}

async fn runs(rig: &Guarded) -> Vec<(String, Option<String>)> {
    sqlx::query_as("SELECT requested_by, request_id FROM rating_run ORDER BY created_at, run_id")
        .fetch_all(rig.db.pool())
        .await
        .unwrap()
}

#[tokio::test]
async fn an_orchestrator_begins_routine_runs_and_nothing_else() {
    let rig = Files::new().serve(&[]).await;
    let orchestrator = rig.connect(Some(&rig.files.certificate("orchestrator"))).await.unwrap();
    let window = RateWindowRequest::default;
    let refused = [
        ("a window without a trigger", backfill(10, 11)),
        ("half a window", RateWindowRequest { until: None, ..backfill(10, 11) }),
        ("a backfill", RateWindowRequest { trigger: Trigger::Backfill.into(), ..backfill(10, 11) }),
        ("a dry run", RateWindowRequest { dry_run: true, ..window() }),
        ("a dry routine run of a window", RateWindowRequest { dry_run: true, ..routine(10, 11) }),
        ("a candidate", RateWindowRequest { pricebook_yaml: BOOK.into(), dry_run: true, ..window() }),
        ("a candidate alone", RateWindowRequest { pricebook_yaml: BOOK.into(), ..window() }),
        ("a backfill that nobody waits for", RateWindowRequest { detach: true, ..backfill(10, 11) }),
    ];
    for (what, request) in refused {
        let failure = rate(&orchestrator, request).await.expect_err(what);
        assert_eq!((failure.code, failure.reason.as_str()), ("PERMISSION_DENIED", "ROLE_MISSING"), "{what}");
        assert_eq!(failure.metadata["roles"], "operator", "{what}");
    }
    assert_eq!(runs(&rig).await, []);
    // Two fields of the same trigger on the wire: the last one counts, and is what is looked at.
    let mut twice =
        RateWindowRequest { trigger: Trigger::Routine.into(), ..backfill(10, 11) }.encode_to_vec();
    twice.extend(RateWindowRequest { trigger: Trigger::Backfill.into(), ..window() }.encode_to_vec());
    let decoded = RateWindowRequest::decode(twice.as_slice()).unwrap();
    assert_eq!(rate(&orchestrator, decoded).await.expect_err("a backfill").code, "PERMISSION_DENIED");
    for request in [window(), routine(10, 11), RateWindowRequest { detach: true, ..window() }] {
        rate(&orchestrator, request).await.unwrap();
    }
    let operator = rig.connect(Some(&rig.files.certificate("operator"))).await.unwrap();
    rate(&operator, backfill(10, 11)).await.unwrap();
    rate(&operator, RateWindowRequest { dry_run: true, ..window() }).await.unwrap();
}

#[tokio::test]
async fn a_run_is_whose_name_was_shown_and_request_ids_are_each_callers_own() {
    let rig = Files::new().serve(&[]).await;
    let by_certificate = rig.connect(Some(&rig.files.certificate("orchestrator"))).await.unwrap();
    let request = || RateWindowRequest { request_id: "hourly".into(), ..routine(10, 11) };
    let first = rate(&by_certificate, request()).await.unwrap();
    let again = rate(&by_certificate, request()).await.unwrap();
    assert_eq!(first.run_id, again.run_id);
    // The same words of somebody else are another request.
    let bare = rig.connect(None).await.unwrap();
    let mut by_token = RatingServiceClient::new(bare);
    let mut request = tonic::Request::new(request());
    let token = rig.files.signer.token(&subject("orchestrator"));
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    let other = by_token.rate_window(request).await.unwrap().into_inner();
    assert_ne!(other.run_id, first.run_id);
    let id = Some("hourly".to_string());
    assert_eq!(runs(&rig).await, [(uri("orchestrator"), id.clone()), (subject("orchestrator"), id)]);
    let mut client = RatingServiceClient::new(by_certificate);
    let run = client.get_run(GetRunRequest { run_id: first.run_id }).await.unwrap().into_inner().run.unwrap();
    assert_eq!(run.requested_by, uri("orchestrator"));
}
