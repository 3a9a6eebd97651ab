//! A service that asks who calls, and calls of any shape to it.

use std::fs;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use axum::http::{HeaderMap, Request};
use rater::grpc::client::{Channel, Failure, Server, connect};
use tempfile::TempDir;
use tonic::codegen::Body as _;
use tonic::{Code, Status};

use super::pki::{Authority, Pair, Valid};
use super::tokens::{AUDIENCE, ISSUER, Signer};
use crate::harness::{self, Service, TestDb};
use crate::rig::{BOOK, http_get};

pub const ROLES: [&str; 4] = ["ingest", "orchestrator", "operator", "reader"];

/// The name in the certificate of a role's caller.
pub fn uri(role: &str) -> String {
    format!("spiffe://test/{role}")
}

/// The name in the token of a role's caller.
pub fn subject(role: &str) -> String {
    format!("{role}@test")
}

/// The files of a service, and of those who call it.
pub struct Files {
    pub dir: TempDir,
    pub server_ca: Authority,
    pub client_ca: Authority,
    pub signer: Signer,
}

impl Files {
    pub fn new() -> Files {
        let files = Files {
            dir: harness::temp_dir(),
            server_ca: Authority::new("the server's authority"),
            client_ca: Authority::new("the clients' authority"),
            signer: Signer::new("first"),
        };
        let server = files.server_ca.server();
        files.write("book.yaml", BOOK);
        files.write("server.pem", &server.certificate);
        files.write("server.key", &server.key);
        files.write("server-ca.pem", &files.server_ca.certificate);
        files.write("client-ca.pem", &files.client_ca.certificate);
        files.write("jwks.json", &files.signer.jwks(&[]));
        files.write("identities.yaml", &identities());
        files
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Puts a file in place whole.
    pub fn write(&self, name: &str, text: &str) {
        let new = self.path(&format!("{name}.new"));
        fs::write(&new, text).unwrap();
        fs::rename(new, self.path(name)).unwrap();
    }

    fn arguments(&self, options: &[(&str, &str)]) -> Vec<String> {
        let path = |name: &str| self.path(name).to_str().unwrap().to_string();
        options.iter().flat_map(|(option, name)| [option.to_string(), path(name)]).collect()
    }

    /// A service with all of it, and these arguments.
    pub async fn serve(self, more: &[&str]) -> Guarded {
        let options = [
            ("--pricebook", "book.yaml"),
            ("--tls-cert", "server.pem"),
            ("--tls-key", "server.key"),
            ("--tls-client-ca", "client-ca.pem"),
            ("--identities", "identities.yaml"),
        ];
        self.serve_with(&options, more).await
    }

    pub async fn serve_with(self, options: &[(&str, &str)], more: &[&str]) -> Guarded {
        let db = harness::database().await;
        let arguments = self.arguments(options);
        let all: Vec<&str> = arguments.iter().map(String::as_str).chain(more.iter().copied()).collect();
        let service = Service::start(&db.url, &all).await;
        Guarded { service, db, files: self }
    }

    /// What a client with this certificate needs.
    pub fn client(&self, url: &str, shown: Option<&Pair>) -> Server {
        let (mut tls_cert, mut tls_key) = (None, None);
        if let Some(pair) = shown {
            let dir = harness::temp_dir().keep();
            fs::write(dir.join("cert.pem"), &pair.certificate).unwrap();
            fs::write(dir.join("key.pem"), &pair.key).unwrap();
            (tls_cert, tls_key) = (Some(dir.join("cert.pem")), Some(dir.join("key.pem")));
        }
        let tls_ca = Some(self.path("server-ca.pem"));
        Server { url: url.into(), tls_ca, tls_cert, tls_key, ..Server::default() }
    }

    /// A good certificate of a role's caller.
    pub fn certificate(&self, role: &str) -> Pair {
        self.client_ca.issue(&[&format!("uri:{}", uri(role))], Valid::Now)
    }
}

/// Each role has a caller known by certificate and one known by token.
pub fn identities() -> String {
    let mut text = format!(
        "version: 1\njwt: {{issuer: \"{ISSUER}\", audience: \"{AUDIENCE}\", jwks: jwks.json}}\ncallers:\n"
    );
    for role in ROLES {
        text += &format!("  - {{uri: \"{}\", roles: [{role}]}}\n", uri(role));
        text += &format!("  - {{subject: \"{}\", roles: [{role}]}}\n", subject(role));
    }
    text
}

pub struct Guarded {
    // Before the database: fields drop in order.
    pub service: Service,
    pub db: TestDb,
    pub files: Files,
}

impl Guarded {
    pub fn url(&self) -> String {
        format!("https://{}", self.service.address())
    }

    /// A connection, with a certificate or without one.
    pub async fn connect(&self, shown: Option<&Pair>) -> Result<Channel, String> {
        connect(&self.files.client(&self.url(), shown)).await.map_err(|error| error.to_string())
    }

    pub async fn metric(&self, series: &str) -> Option<String> {
        let text = http_get(self.service.admin_address(), "/metrics").await;
        let line = text.lines().find(|line| line.starts_with(&format!("{series} ")));
        line.map(|line| line[series.len() + 1..].to_string())
    }

    /// Everything that it has logged, as text.
    pub fn log(&self) -> String {
        self.service.logs().iter().map(|line| format!("{line}\n")).collect()
    }
}

/// A call's code and reason. An error: there was no connection to make it over.
pub async fn call<S>(
    mut channel: S,
    path: &str,
    headers: &[(&str, &str)],
    message: &[u8],
) -> Result<(Code, String), String>
where
    S: tonic::codegen::Service<
            Request<tonic::body::Body>,
            Response = axum::http::Response<tonic::body::Body>,
        >,
    S::Error: std::fmt::Debug,
{
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let framed = [&[0][..], &length, message].concat();
    let mut request = Request::builder().method("POST").uri(path);
    request = request.header("content-type", "application/grpc").header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = tonic::body::Body::new(axum::body::Body::from(framed));
    let answered = async {
        std::future::poll_fn(|context| channel.poll_ready(context)).await.map_err(|e| format!("{e:?}"))?;
        let response = channel.call(request.body(body).unwrap()).await.map_err(|e| format!("{e:?}"))?;
        let (head, mut body) = response.into_parts();
        let mut trailers = HeaderMap::new();
        while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await
        {
            if let Ok(last) = frame.map_err(|e| format!("{e:?}"))?.into_trailers() {
                trailers = last;
            }
        }
        let status = Status::from_header_map(&head.headers).or_else(|| Status::from_header_map(&trailers));
        let failure = Failure::from(status.ok_or("an answer without a status")?);
        Ok(failure)
    };
    let failure: Result<Failure, String> =
        tokio::time::timeout(Duration::from_secs(30), answered).await.expect("an answer");
    failure.map(|failure| (code(failure.code), failure.reason))
}

fn code(name: &str) -> Code {
    let known = (0..17).map(Code::from_i32).find(|code| {
        let spelled = format!("{code:?}").to_uppercase();
        name.replace('_', "") == spelled
    });
    known.unwrap()
}

/// The same with a token.
pub async fn call_as(channel: &Channel, path: &str, token: &str) -> Result<(Code, String), String> {
    let value = format!("Bearer {token}");
    call(channel.clone(), path, &[("authorization", &value)], &[]).await
}

pub const GET_RUN: &str = "/rating.v1.RatingService/GetRun";
pub const LIST_RUNS: &str = "/rating.v1.RatingService/ListRuns";
