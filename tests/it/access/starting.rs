//! What a service refuses to start with, and what it says when it does.

use std::fs;

use super::guarded::{Files, LIST_RUNS, call};
use super::pki::{Authority, Valid};
use crate::harness::{self, Output, Service};

/// A start that is refused before it needs a database.
fn refused(files: &Files, listen: &str, options: &[(&str, &str)], more: &[&str]) -> Output {
    let path = |name: &str| files.path(name).to_str().unwrap().to_string();
    let mut arguments = vec!["serve".to_string(), "--listen".into(), listen.into()];
    arguments.extend([
        "--admin-listen".into(),
        "127.0.0.1:0".into(),
        "--pricebook".into(),
        path("book.yaml"),
    ]);
    arguments.extend(options.iter().flat_map(|(option, name)| [option.to_string(), path(name)]));
    arguments.extend(more.iter().map(|argument| argument.to_string()));
    let environment = [("RATER_DATABASE_URL", "postgres://127.0.0.1:1/none")];
    harness::run_in(&environment, &arguments.iter().map(String::as_str).collect::<Vec<_>>(), "")
}

const TLS: [(&str, &str); 2] = [("--tls-cert", "server.pem"), ("--tls-key", "server.key")];
const IDENTITIES: (&str, &str) = ("--identities", "identities.yaml");

#[test]
fn strangers_from_elsewhere_are_served_only_when_that_is_spelled_out() {
    let files = Files::new();
    for listen in ["0.0.0.0:0", "[::]:0"] {
        let options: [&[(&str, &str)]; 3] = [&[], &TLS, &[IDENTITIES]];
        for options in options {
            let output = refused(&files, listen, options, &[]);
            assert_eq!(output.code(), Some(1), "{output:?}");
            assert!(output.stderr.contains("is open to other machines"), "{}", output.stderr);
            assert_eq!(output.stderr.lines().count(), 1, "{}", output.stderr);
        }
    }
}

#[tokio::test]
async fn an_insecure_service_says_so_at_its_start() {
    let files = Files::new();
    let db = harness::database().await;
    let book = files.path("book.yaml");
    let arguments = ["--pricebook", book.to_str().unwrap(), "--insecure"];
    let service = Service::start_at("0.0.0.0:0", &db.url, &arguments).await;
    let log: String = service.logs().iter().map(|line| line.to_string()).collect();
    assert!(log.contains("insecure: other machines may call") && log.contains("WARN"), "{log}");
    // On this machine there is nothing to warn of.
    let service = Service::start(&db.url, &arguments).await;
    assert!(!service.logs().iter().any(|line| line.to_string().contains("insecure")));
}

#[test]
fn what_is_on_in_the_environment_may_be_written_as_people_do() {
    let files = Files::new();
    let book = files.path("book.yaml");
    let arguments = ["serve", "--listen", "0.0.0.0:0", "--pricebook", book.to_str().unwrap()];
    let start = |insecure: &str| {
        let database = ("RATER_DATABASE_URL", "postgres://127.0.0.1:1/none");
        // Empty is as if they were not set.
        let environment =
            [database, ("RATER_INSECURE", insecure), ("RATER_NO_HEALTH", ""), ("RATER_MIGRATE", "")];
        harness::run_in(&environment, &arguments, "").stderr
    };
    for off in ["", "0", "false", "no"] {
        assert!(start(off).contains("is open to other machines"), "{off:?}");
    }
    for on in ["1", "true", "yes"] {
        let said = start(on);
        assert!(!said.contains("is open to other machines") && said.contains("database"), "{on}: {said}");
    }
    assert!(start("perhaps").contains("--insecure"));
}

#[tokio::test]
async fn a_secure_service_listens_anywhere_and_serves_whom_it_knows() {
    let files = Files::new();
    let db = harness::database().await;
    let path = |name: &str| files.path(name).to_str().unwrap().to_string();
    let (book, cert, key) = (path("book.yaml"), path("server.pem"), path("server.key"));
    let (ca, identities) = (path("client-ca.pem"), path("identities.yaml"));
    let mut arguments = vec!["--pricebook", &book, "--tls-cert", &cert, "--tls-key", &key];
    arguments.extend(["--tls-client-ca", &ca, "--identities", &identities]);
    let service = Service::start_at("0.0.0.0:0", &db.url, &arguments).await;
    let port = service.address().rsplit_once(':').unwrap().1;
    let shown = files.certificate("operator");
    let server = files.client(&format!("https://localhost:{port}"), Some(&shown));
    let channel = rater::grpc::client::connect(&server).await.unwrap();
    assert_eq!(call(channel, LIST_RUNS, &[], &[]).await.unwrap().0, tonic::Code::Ok);
}

#[test]
fn a_service_does_not_start_on_files_that_are_wrong() {
    let files = Files::new();
    let start = |options: &[(&str, &str)]| {
        let output = refused(&files, "127.0.0.1:0", options, &[]);
        assert_eq!(output.code(), Some(1), "{output:?}");
        output.stderr
    };
    files.write("other.key", &files.server_ca.server().key);
    let said = start(&[("--tls-cert", "server.pem"), ("--tls-key", "other.key")]);
    assert!(said.contains("don't go together"), "{said}");
    let said = start(&[("--tls-cert", "server.pem"), ("--tls-key", "server.pem")]);
    assert!(said.contains("no private key"), "{said}");
    let said = start(&[("--tls-cert", "nothing.pem"), ("--tls-key", "server.key")]);
    assert!(said.contains("nothing.pem"), "{said}");
    let over = Authority::new("any").issue(&["dns:localhost"], Valid::Over);
    files.write("over.pem", &over.certificate);
    files.write("over.key", &over.key);
    let said = start(&[("--tls-cert", "over.pem"), ("--tls-key", "over.key")]);
    assert!(said.contains("ended at 2021-01-01"), "{said}");
    let said = start(&[TLS[0], TLS[1], ("--tls-client-ca", "book.yaml")]);
    assert!(said.contains("book.yaml: no certificate"), "{said}");
    files.write("jwks.json", "{}");
    let said = start(&[IDENTITIES]);
    assert!(said.contains("jwks.json: no JWK set"), "{said}");
    files.write(
        "identities.yaml",
        "version: 1\ncallers: [{uri: a, roles: [boss]}, {uri: a, roles: [reader]}]\n",
    );
    let said = start(&[IDENTITIES]);
    assert!(said.contains("identities.yaml:2:28") && said.contains("unknown_role"), "{said}");
    assert!(said.contains("duplicate_caller"), "{said}");
    // One without the other is a wrong command line.
    let said = start(&[TLS[0]]);
    assert!(said.contains("--tls-key"), "{said}");
    // A key is never shown, whatever is wrong with it.
    let key = fs::read_to_string(files.path("server.key")).unwrap();
    let inside = key.lines().nth(1).unwrap();
    files.write("broken.key", &key.replace("PRIVATE KEY", "SECRET KEY"));
    let said = start(&[("--tls-cert", "server.pem"), ("--tls-key", "broken.key")]);
    assert!(said.contains("no private key") && !said.contains(inside), "{said}");
}

#[tokio::test]
async fn without_tls_callers_are_known_by_their_tokens_on_this_machine() {
    let rig = Files::new().serve_with(&[("--pricebook", "book.yaml"), IDENTITIES], &[]).await;
    let channel = rig.service.channel().await;
    let (code, _) = call(channel.clone(), LIST_RUNS, &[], &[]).await.unwrap();
    assert_eq!(code, tonic::Code::Unauthenticated);
    let token = format!("Bearer {}", rig.files.signer.token(&super::guarded::subject("orchestrator")));
    let (code, _) = call(channel, LIST_RUNS, &[("authorization", &token)], &[]).await.unwrap();
    assert_eq!(code, tonic::Code::Ok);
    // Whoever mapped certificates is told that they can't be shown.
    let told = |line: &serde_json::Value| line.to_string().contains("without --tls-client-ca");
    assert!(rig.service.logs().iter().any(told), "{:#?}", rig.service.logs());
}

#[tokio::test]
async fn where_no_issuer_is_known_a_token_makes_nobody_of_whoever_shows_it() {
    let files = Files::new();
    let name = super::guarded::uri("operator");
    files.write(
        "identities.yaml",
        &format!("version: 1\ncallers: [{{uri: \"{name}\", roles: [operator]}}]\n"),
    );
    let rig = files.serve(&[]).await;
    let channel = rig.connect(Some(&rig.files.certificate("operator"))).await.unwrap();
    assert_eq!(call(channel.clone(), LIST_RUNS, &[], &[]).await.unwrap().0, tonic::Code::Ok);
    let token = format!("Bearer {}", rig.files.signer.token("x"));
    let (code, _) = call(channel, LIST_RUNS, &[("authorization", &token)], &[]).await.unwrap();
    assert_eq!(code, tonic::Code::Unauthenticated);
}
