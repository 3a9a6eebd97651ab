//! Paths, headers and names that are written otherwise, and what nobody needs to be known for.

use tonic::Code;

use super::guarded::{Files, GET_RUN, LIST_RUNS, call, subject, uri};
use super::pki::Valid;

const HEALTH: &str = "/grpc.health.v1.Health/Check";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
const REFLECTION_ALPHA: &str = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";

#[tokio::test]
async fn a_path_that_is_written_otherwise_leads_nowhere() {
    let rig = Files::new().serve(&[]).await;
    let bare = rig.connect(None).await.unwrap();
    let operator = rig.connect(Some(&rig.files.certificate("operator"))).await.unwrap();
    for path in [
        "/rating.v1.RatingService/getrun",
        "/rating.v1.RatingService/GetRun/",
        "/rating.v1.RatingService//GetRun",
        "//rating.v1.RatingService/GetRun",
        "/rating.v1.RatingService/%47etRun",
        "/RATING.v1.RatingService/GetRun",
        "/rating.v1.RatingService/GetRun%00",
        "/rating.v1.RatingService/",
        "/rating.v1.RatingService/NoSuchCall",
        "/grpc.health.v1.Health/check",
        "/grpc.health.v1.Health/../../rating.v1.RatingService/GetRun",
        "/",
    ] {
        let (code, _) = call(bare.clone(), path, &[], &[]).await.unwrap();
        assert_eq!(code, Code::Unauthenticated, "{path}");
        let (code, _) = call(operator.clone(), path, &[], &[]).await.unwrap();
        assert_eq!(code, Code::Unimplemented, "{path}");
    }
    // A query is no part of the path.
    let (code, _) = call(bare, &format!("{GET_RUN}?{HEALTH}"), &[], &[]).await.unwrap();
    assert_eq!(code, Code::Unauthenticated);
}

#[tokio::test]
async fn an_authorization_counts_once_and_as_a_whole() {
    let rig = Files::new().serve(&[]).await;
    let operator = rig.connect(Some(&rig.files.certificate("operator"))).await.unwrap();
    let token = rig.files.signer.token(&subject("operator"));
    let good = format!("Bearer {token}");
    let asked = async |values: &[&str]| {
        let headers: Vec<_> = values.iter().map(|value| ("authorization", *value)).collect();
        call(operator.clone(), LIST_RUNS, &headers, &[]).await.unwrap().0
    };
    assert_eq!(asked(&[]).await, Code::Ok);
    assert_eq!(asked(&[&good]).await, Code::Ok);
    let long = format!("Bearer {}", "a".repeat(9_000));
    let joined = format!("{good}, {good}");
    let basic = format!("Basic {token}");
    let wrong: [&[&str]; 9] = [
        &[&good, &good],
        &[&good, "Bearer x"],
        &["Bearer x", &good],
        &[&joined],
        &[&basic],
        &[&token],
        &[""],
        &["Bearer "],
        &[&long],
    ];
    for values in wrong {
        assert_eq!(asked(values).await, Code::Unauthenticated, "{values:?}");
    }
}

#[tokio::test]
async fn a_name_counts_as_it_is_written_and_uris_come_first() {
    let rig = Files::new().serve(&[]).await;
    let (operator, reader) = (format!("uri:{}", uri("operator")), format!("uri:{}", uri("reader")));
    let evil = format!("{operator}\0.evil");
    let denied = (Code::PermissionDenied, "ROLE_MISSING");
    let nameless = (Code::Unauthenticated, "UNAUTHENTICATED");
    let cases: [(&[&str], (Code, &str)); 9] = [
        (&[&operator], (Code::Ok, "")),
        (&["uri:spiffe://elsewhere/x", "dns:x.test", &operator], (Code::Ok, "")),
        // The first that is known: not the roles of all of them.
        (&[&reader, &operator], denied),
        (&["uri:SPIFFE://test/operator"], denied),
        (&["uri:spiffe://test/Operator"], denied),
        (&["uri:spiffe://test/operator/"], denied),
        (&[&evil], denied),
        // The same text of another kind is another name.
        (&["dns:spiffe.test.operator"], denied),
        (&[], nameless),
    ];
    for (names, (code, reason)) in cases {
        let pair = rig.files.client_ca.issue(names, Valid::Now);
        let channel = rig.connect(Some(&pair)).await.unwrap();
        let answer = call(channel, LIST_RUNS, &[], &[]).await.unwrap();
        assert_eq!(answer, (code, reason.to_string()), "{names:?}");
    }
}

#[tokio::test]
async fn health_and_reflection_ask_for_nobody_until_they_are_turned_off() {
    let rig = Files::new().serve(&[]).await;
    let bare = rig.connect(None).await.unwrap();
    for path in [HEALTH, REFLECTION, REFLECTION_ALPHA] {
        let (code, _) = call(bare.clone(), path, &[("authorization", "Bearer bad")], &[]).await.unwrap();
        assert_ne!(code, Code::Unauthenticated, "{path}");
        assert_ne!(code, Code::Unimplemented, "{path}");
    }
    let off = Files::new().serve(&["--no-health", "--no-reflection"]).await;
    let bare = off.connect(None).await.unwrap();
    let operator = off.connect(Some(&off.files.certificate("operator"))).await.unwrap();
    for path in [HEALTH, REFLECTION, REFLECTION_ALPHA] {
        assert_eq!(call(bare.clone(), path, &[], &[]).await.unwrap().0, Code::Unauthenticated, "{path}");
        assert_eq!(call(operator.clone(), path, &[], &[]).await.unwrap().0, Code::Unimplemented, "{path}");
    }
    // The rest goes on.
    assert_eq!(call(operator, LIST_RUNS, &[], &[]).await.unwrap().0, Code::Ok);
}

#[tokio::test]
async fn a_plain_caller_gets_no_answer_from_a_service_with_tls() {
    let rig = Files::new().serve(&[]).await;
    let endpoint = tonic::transport::Endpoint::from_shared(rig.service.url()).unwrap();
    let answer = match endpoint.connect().await {
        Ok(channel) => call(channel, HEALTH, &[], &[]).await,
        Err(error) => Err(error.to_string()),
    };
    assert!(answer.is_err(), "{answer:?}");
}
