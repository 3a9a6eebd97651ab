//! Certificates, authorities, identities and keys are exchanged while the service goes on.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rater::grpc::client::{Server, connect};
use tonic::Code;

use super::guarded::{Caller, Files, Guarded, LIST_RUNS, call, call_as, identities, subject, uri};
use super::pki::{Authority, Valid};
use super::tokens::Signer;
use crate::rig::eventually;

async fn code<S: Caller>(channel: &S) -> Result<Code, String> {
    call(channel.clone(), LIST_RUNS, &[], &[]).await.map(|(code, _)| code)
}

async fn fresh(server: &Server) -> Result<Code, String> {
    let channel = connect(server).await.map_err(|error| error.to_string())?;
    code(&channel).await
}

async fn refused(rig: &Guarded, what: &str) -> Option<String> {
    rig.metric(&format!("rater_credentials_refused{{what=\"{what}\"}}")).await
}

/// Callers that never stop, over connections that stay and over new ones, until they are told to.
struct Load {
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Load {
    async fn start(servers: Vec<Server>) -> Load {
        let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut tasks = Vec::new();
        for (n, server) in servers.into_iter().enumerate() {
            let (stop, calls) = (stop.clone(), calls.clone());
            tasks.push(tokio::spawn(async move {
                let mut wrong = Vec::new();
                let kept = connect(&server).await.unwrap();
                while !stop.load(Ordering::Relaxed) {
                    let answers = [code(&kept).await, fresh(&server).await];
                    calls.fetch_add(2, Ordering::Relaxed);
                    wrong.extend(
                        answers
                            .into_iter()
                            .filter(|answer| *answer != Ok(Code::Ok))
                            .map(|answer| format!("caller {n}: {answer:?}")),
                    );
                }
                wrong
            }));
        }
        Load { stop, calls, tasks }
    }

    /// Every call was answered well.
    async fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            assert_eq!(task.await.unwrap(), Vec::<String>::new());
        }
        self.calls.load(Ordering::Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_exchanged_under_load_without_a_failed_call() {
    let files = Files::new();
    let (new_server_ca, new_client_ca) = (Authority::new("another"), Authority::new("yet another"));
    // Whoever calls knows the next authority already, as in any exchange of one.
    files.write("server-ca.pem", &format!("{}{}", files.server_ca.certificate, new_server_ca.certificate));
    files.write("new-server-ca.pem", &new_server_ca.certificate);
    let rig = files.serve(&[]).await;
    let files = &rig.files;
    let caller = files.client(&rig.url(), Some(&files.certificate("operator")));
    fs::write(files.path("token"), files.signer.token(&subject("operator"))).unwrap();
    let by_token = Server { token_file: Some(files.path("token")), ..files.client(&rig.url(), None) };
    let load = Load::start(vec![caller.clone(), by_token]).await;
    let expiry = r#"rater_tls_certificate_expiry_timestamp_seconds{what="server"}"#;
    assert!(rig.metric(expiry).await.is_some());

    let server = new_server_ca.server();
    files.write("server.key", &server.key);
    files.write("server.pem", &server.certificate);
    let only_new = Server { tls_ca: Some(files.path("new-server-ca.pem")), ..caller.clone() };
    eventually("the new certificate is shown", async || fresh(&only_new).await == Ok(Code::Ok)).await;

    files.write("client-ca.pem", &format!("{}{}", files.client_ca.certificate, new_client_ca.certificate));
    let pair = new_client_ca.issue(&[&format!("uri:{}", uri("operator"))], Valid::Now);
    let newcomer = files.client(&rig.url(), Some(&pair));
    eventually("the new authority counts", async || fresh(&newcomer).await == Ok(Code::Ok)).await;

    let next = Signer::new("next");
    files.write("jwks.json", &files.signer.jwks(&[&next]));
    let bare = rig.connect(None).await.unwrap();
    let token = next.token(&subject("operator"));
    eventually("the new key counts", async || call_as(&bare, LIST_RUNS, &token).await.unwrap().0 == Code::Ok)
        .await;

    files.write(
        "identities.yaml",
        &format!("{}  - {{uri: \"spiffe://new\", roles: [operator]}}\n", identities()),
    );
    let pair = files.client_ca.issue(&["uri:spiffe://new"], Valid::Now);
    let known = files.client(&rig.url(), Some(&pair));
    eventually("the new caller is known", async || fresh(&known).await == Ok(Code::Ok)).await;
    assert!(load.end().await > 20);
    for what in ["certificate", "client_ca", "identities", "jwks"] {
        assert_eq!(refused(&rig, what).await.as_deref(), Some("0"), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_refused_loudly_and_the_last_good_one_stays() {
    let rig = Files::new().serve(&[]).await;
    let files = &rig.files;
    let caller = files.client(&rig.url(), Some(&files.certificate("operator")));
    let bare = rig.connect(None).await.unwrap();
    let token = files.signer.token(&subject("operator"));
    let next = files.server_ca.server();
    let good = ["server.pem", "client-ca.pem", "identities.yaml", "jwks.json"]
        .map(|name| (name, fs::read_to_string(files.path(name)).unwrap()));
    let wrong = [
        // Of a pair that does not fit, as when only one half is there yet.
        ("certificate", "server.pem", next.certificate.as_str()),
        ("client_ca", "client-ca.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        ("identities", "identities.yaml", "version: 1\ncallers: []\n"),
        ("jwks", "jwks.json", "{\"keys\": []}"),
    ];
    for (what, name, text) in wrong {
        files.write(name, text);
        eventually(what, async || refused(&rig, what).await.as_deref() == Some("1")).await;
        let told = |line: &serde_json::Value| line["level"] == "ERROR" && line.to_string().contains(name);
        assert!(rig.service.logs().iter().any(told), "{what}: {}", rig.log());
    }
    assert_eq!(fresh(&caller).await, Ok(Code::Ok));
    assert_eq!(call_as(&bare, LIST_RUNS, &token).await.unwrap().0, Code::Ok);
    for (name, text) in &good {
        files.write(name, text);
    }
    for (what, ..) in wrong {
        eventually(what, async || refused(&rig, what).await.as_deref() == Some("0")).await;
    }
    // A file that is gone is refused like any other.
    fs::remove_file(files.path("server.pem")).unwrap();
    eventually("it is told", async || refused(&rig, "certificate").await.as_deref() == Some("1")).await;
    assert_eq!(fresh(&caller).await, Ok(Code::Ok));
    // The other half of the pair, and both are taken.
    files.write("server.key", &next.key);
    files.write("server.pem", &next.certificate);
    eventually("the pair is taken", async || refused(&rig, "certificate").await.as_deref() == Some("0"))
        .await;
    assert_eq!(fresh(&caller).await, Ok(Code::Ok));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_can_not_be_used_keeps_no_other_from_being_exchanged() {
    let rig = Files::new().serve(&[]).await;
    let bare = rig.connect(None).await.unwrap();
    let next = Signer::new("next");
    let short = r#"{"keys":[{"kty":"RSA","kid":"short","n":"AQAB","e":"AQAB"},"#;
    rig.files.write("jwks.json", &next.jwks(&[]).replacen("{\"keys\":[", short, 1));
    let token = next.token(&subject("operator"));
    eventually("the new key counts", async || call_as(&bare, LIST_RUNS, &token).await.unwrap().0 == Code::Ok)
        .await;
    let told = |line: &serde_json::Value| line["level"] == "WARN" && line.to_string().contains("17 bits");
    assert!(rig.service.logs().iter().any(told), "{}", rig.log());
    assert_eq!(refused(&rig, "jwks").await.as_deref(), Some("0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_known_no_more_is_refused_on_a_connection_that_is_open() {
    let rig = Files::new().serve(&[]).await;
    let files = &rig.files;
    let certified = rig.connect(Some(&files.certificate("operator"))).await.unwrap();
    let bare = rig.connect(None).await.unwrap();
    let token = files.signer.token(&subject("operator"));
    assert_eq!(code(&certified).await, Ok(Code::Ok));
    // The caller is taken out of the mapping.
    let name = uri("operator");
    files.write("identities.yaml", &identities().replace(&format!("\"{name}\""), "\"spiffe://test/left\""));
    eventually("roles are gone", async || code(&certified).await == Ok(Code::PermissionDenied)).await;
    files.write("identities.yaml", &identities());
    eventually("roles are back", async || code(&certified).await == Ok(Code::Ok)).await;
    // The key is taken out of the set.
    files.write("jwks.json", &Signer::new("next").jwks(&[]));
    eventually("the key is gone", async || {
        call_as(&bare, LIST_RUNS, &token).await.unwrap().0 == Code::Unauthenticated
    })
    .await;
    // The authority is exchanged.
    files.write("client-ca.pem", &Authority::new("another").certificate);
    eventually("the authority is gone", async || code(&certified).await == Ok(Code::Unauthenticated)).await;
    let caller = files.client(&rig.url(), Some(&files.certificate("operator")));
    assert!(fresh(&caller).await.is_err(), "a new connection");
}

#[tokio::test]
async fn a_certificate_that_ends_on_a_live_connection_is_refused_from_then_on() {
    let rig = Files::new().serve(&[]).await;
    let valid = Valid::For(Duration::from_secs(4));
    let pair = rig.files.client_ca.issue(&[&format!("uri:{}", uri("operator"))], valid);
    let channel = rig.connect(Some(&pair)).await.unwrap();
    assert_eq!(code(&channel).await, Ok(Code::Ok));
    eventually("it has ended", async || code(&channel).await == Ok(Code::Unauthenticated)).await;
}

#[tokio::test]
async fn a_secret_whose_link_is_swapped_is_followed() {
    let files = Files::new();
    // As Kubernetes mounts one: the files are links into a folder behind a link that is swapped.
    let put = |folder: &str, pair: &super::pki::Pair| {
        fs::create_dir(files.path(folder)).unwrap();
        fs::write(files.path(folder).join("tls.crt"), &pair.certificate).unwrap();
        fs::write(files.path(folder).join("tls.key"), &pair.key).unwrap();
    };
    put("..first", &files.server_ca.server());
    symlink("..first", files.path("..data")).unwrap();
    for name in ["tls.crt", "tls.key"] {
        symlink(format!("..data/{name}"), files.path(name)).unwrap();
    }
    let next_ca = Authority::new("next");
    put("..second", &next_ca.server());
    files.write("next-ca.pem", &next_ca.certificate);
    let options = [
        ("--pricebook", "book.yaml"),
        ("--tls-cert", "tls.crt"),
        ("--tls-key", "tls.key"),
        ("--tls-client-ca", "client-ca.pem"),
        ("--identities", "identities.yaml"),
    ];
    let rig = files.serve_with(&options, &[]).await;
    let caller = rig.files.client(&rig.url(), Some(&rig.files.certificate("operator")));
    assert_eq!(fresh(&caller).await, Ok(Code::Ok));
    symlink("..second", rig.files.path("..data_tmp")).unwrap();
    fs::rename(rig.files.path("..data_tmp"), rig.files.path("..data")).unwrap();
    let next = Server { tls_ca: Some(rig.files.path("next-ca.pem")), ..caller };
    eventually("the new certificate is shown", async || fresh(&next).await == Ok(Code::Ok)).await;
    assert!(!rig.service.logs().iter().any(|line| line["level"] == "ERROR"), "{}", rig.log());
}
