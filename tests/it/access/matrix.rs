//! Every RPC, for every role, with everything that can be shown.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::Utc;
use rater::grpc::client::{Server, connect};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, ClientConfig, RootCertStore};
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::Code;
use tonic::transport::Channel;

use super::guarded::{Files, Guarded, ROLES, call, call_as, subject, uri};
use super::pki::{Authority, Pair, Valid, self_signed};
use super::tokens::{Signer, claims, unsigned};
use crate::rig::{BOOK, Rig};

/// The contract's calls, and who but the operator may make them.
const RPCS: [(&str, &str, &str); 12] = [
    ("EventService", "RecordEvents", "ingest"),
    ("RatingService", "RateWindow", "orchestrator"),
    ("RatingService", "GetRun", "orchestrator"),
    ("RatingService", "ListRuns", "orchestrator"),
    ("RatingService", "WatchRun", "orchestrator"),
    ("RatingService", "GetRatedUsage", "reader"),
    ("RatingService", "SummarizeRatedUsage", "reader"),
    ("RatingService", "StreamRatedUsageChanges", "reader"),
    ("RatingService", "CancelRun", ""),
    ("RatingService", "ListAnomalies", ""),
    ("RatingService", "GetPricebook", ""),
    ("RatingService", "ValidatePricebook", ""),
];

fn path(service: &str, rpc: &str) -> String {
    format!("/rating.v1.{service}/{rpc}")
}

/// What each call comes to where everybody may call.
async fn unguarded() -> HashMap<String, Code> {
    let rig = Rig::start(BOOK, &[]).await;
    let mut codes = HashMap::new();
    for (service, rpc, _) in RPCS {
        let path = path(service, rpc);
        let (code, _) = call(rig.service.channel().await, &path, &[], &[]).await.unwrap();
        assert!(
            !matches!(code, Code::Unauthenticated | Code::PermissionDenied | Code::Unimplemented),
            "{path}"
        );
        codes.insert(path, code);
    }
    assert_eq!(codes[&path("RatingService", "RateWindow")], Code::Ok);
    assert_eq!(codes[&path("RatingService", "GetRatedUsage")], Code::Ok);
    codes
}

/// What a caller who is known, of this role or of none, gets.
fn expected(codes: &HashMap<String, Code>, role: &str, rpc: &(&str, &str, &str)) -> (Code, &'static str) {
    match role == "operator" || (!role.is_empty() && role == rpc.2) {
        true => (codes[&path(rpc.0, rpc.1)], ""),
        false => (Code::PermissionDenied, "ROLE_MISSING"),
    }
}

/// `nobody` is known to the authority and the issuer, and not to the mapping.
fn known_as(role: &str) -> &str {
    if role.is_empty() { "nobody" } else { role }
}

/// Certificates with which there must be no connection, and the service's words for each.
fn bad_certificates(rig: &Guarded, role: &str) -> Vec<(&'static str, Pair, AlertDescription)> {
    let name = format!("uri:{}", uri(known_as(role)));
    let names = [name.as_str()];
    let ca = &rig.files.client_ca;
    vec![
        ("wrong", self_signed(&names), AlertDescription::UnknownCA),
        ("expired", ca.issue(&names, Valid::Over), AlertDescription::CertificateExpired),
        ("not yet valid", ca.issue(&names, Valid::NotYet), AlertDescription::CertificateExpired),
        ("other CA", Authority::new("another").issue(&names, Valid::Now), AlertDescription::UnknownCA),
        // Of the same name, so that only its signature tells it from the right one.
        (
            "a forged CA",
            Authority::new("the clients' authority").issue(&names, Valid::Now),
            AlertDescription::DecryptError,
        ),
        ("the server's CA", rig.files.server_ca.issue(&names, Valid::Now), AlertDescription::UnknownCA),
    ]
}

/// What the service says of a certificate in the handshake. Nothing is sent after it: whoever is
/// closed with something unread may never get the alert.
async fn alert(rig: &Guarded, pair: &Pair) -> AlertDescription {
    let certificates =
        |pem: &str| CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>().unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificates(&rig.files.server_ca.certificate).remove(0)).unwrap();
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(certificates(&pair.certificate), key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let socket = TcpStream::connect(rig.service.address()).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, socket).await.unwrap();
    let error = stream.read_u8().await.expect_err("an alert");
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(rustls::Error::AlertReceived(alert)) => *alert,
        _ => panic!("{error:?}"),
    }
}

/// A call of our own client with a certificate that is refused: UNAUTHENTICATED in the service's
/// words, or, where its closing was faster than its words, UNAVAILABLE.
async fn refused_certificate(server: &Server, path: &str, words: AlertDescription) {
    // With TLS 1.3 a client is through before the server has looked; else there is nothing to call over.
    let Ok(channel) = connect(server).await else { return };
    let error = call(channel, path, &[], &[]).await.expect_err("no answer");
    let told = error.contains("Unauthenticated") && error.contains(&format!("{words:?}"));
    let closed = error.contains("Unavailable") && error.contains("it may have refused the certificate");
    assert!(told || closed, "{path}: not {words:?}: {error}");
}

/// Tokens that count for nothing.
fn bad_tokens(rig: &Guarded, role: &str) -> Vec<(&'static str, String)> {
    let (signer, name, now) = (&rig.files.signer, subject(known_as(role)), Utc::now().timestamp());
    let but = |claim: &str, value: serde_json::Value| {
        let mut claims = claims(&name);
        claims[claim] = value;
        signer.sign(&claims)
    };
    let good = signer.token(&name);
    let other = signer.token("somebody else");
    let (rest, signature) = (good.rsplit_once('.').unwrap().0, other.rsplit_once('.').unwrap().1);
    vec![
        ("another key", Signer::new("first").token(&name)),
        ("an unknown key", Signer::new("second").token(&name)),
        ("another's signature", format!("{rest}.{signature}")),
        ("garbage", "garbage".into()),
        ("none", unsigned(&name)),
        ("expired", but("exp", json!(now - 60))),
        ("not yet", but("nbf", json!(now + 60))),
        ("other audience", but("aud", json!("somebody.else"))),
        ("other issuer", but("iss", json!("https://elsewhere.test"))),
    ]
}

#[tokio::test]
async fn every_rpc_for_every_role_with_every_certificate_comes_to_its_code() {
    let codes = unguarded().await;
    let rig = Files::new().serve(&[]).await;
    let nothing = rig.connect(None).await.unwrap();
    let mut calls = 0;
    for rpc in &RPCS {
        let path = path(rpc.0, rpc.1);
        let (code, reason) = call(nothing.clone(), &path, &[], &[]).await.unwrap();
        assert_eq!((code, reason.as_str()), (Code::Unauthenticated, "UNAUTHENTICATED"), "{path}");
    }
    for role in ROLES.into_iter().chain([""]) {
        let good = rig.connect(Some(&rig.files.certificate(known_as(role)))).await.unwrap();
        for rpc in &RPCS {
            let path = path(rpc.0, rpc.1);
            let (code, reason) = call(good.clone(), &path, &[], &[]).await.unwrap();
            let (expected, why) = expected(&codes, role, rpc);
            assert_eq!(code, expected, "{path} as {role}");
            assert!(why.is_empty() || reason == why, "{path} as {role}: {reason}");
            calls += 1;
        }
        let well = rig.files.client(&rig.url(), Some(&rig.files.certificate(known_as(role))));
        for (kind, pair, words) in bad_certificates(&rig, role) {
            assert_eq!(alert(&rig, &pair).await, words, "{kind} as {role}");
            let shown = rig.files.client(&rig.url(), Some(&pair));
            for rpc in &RPCS {
                let path = path(rpc.0, rpc.1);
                refused_certificate(&shown, &path, words).await;
                // It is there, and answers whoever comes after.
                let anew = connect(&well).await.unwrap();
                let (code, _) = call(anew, &path, &[], &[]).await.unwrap();
                assert_eq!(code, expected(&codes, role, rpc).0, "{path} as {role} after {kind}");
                calls += 1;
            }
        }
    }
    assert_eq!(calls, 12 * 5 * 7);
}

#[tokio::test]
async fn every_rpc_for_every_role_with_every_token_comes_to_its_code() {
    let codes = unguarded().await;
    let rig = Files::new().serve(&[]).await;
    for role in ROLES.into_iter().chain([""]) {
        // New ones for each: a connection that is refused time and again is closed.
        let bare = rig.connect(None).await.unwrap();
        let certified = rig.connect(Some(&rig.files.certificate("operator"))).await.unwrap();
        let good = rig.files.signer.token(&subject(known_as(role)));
        for rpc in &RPCS {
            // A token is what counts, also where a certificate would allow more.
            for channel in [&bare, &certified] {
                let path = path(rpc.0, rpc.1);
                let (code, _) = call_as(channel, &path, &good).await.unwrap();
                assert_eq!(code, expected(&codes, role, rpc).0, "{path} as {role}");
            }
        }
        for (kind, token) in bad_tokens(&rig, role) {
            refused(&bare, &token, &format!("{role} {kind}")).await;
            refused(&certified, &token, &format!("{role} {kind} over an operator's connection")).await;
        }
    }
    let log = rig.log();
    for token in [rig.files.signer.token(&subject("operator"))].iter().chain(
        bad_tokens(&rig, "operator").iter().map(|(_, token)| token).filter(|token| *token != "garbage"),
    ) {
        // Its head and its claims are the same in each; its signature is not.
        let claims = token.split('.').nth(1).unwrap();
        assert!(!log.contains(claims), "a token is in the log");
    }
}

async fn refused(channel: &Channel, token: &str, what: &str) {
    for (service, rpc, _) in RPCS {
        let path = path(service, rpc);
        let (code, reason) = call_as(channel, &path, token).await.unwrap();
        assert_eq!((code, reason.as_str()), (Code::Unauthenticated, "UNAUTHENTICATED"), "{path}: {what}");
    }
}
