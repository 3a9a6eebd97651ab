//! The four services, with the certificates that two of them want, and callers for each.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rater::proto::rating_service_client::RatingServiceClient;
use rater::service::schema;
use rater::store::{Db, DbOptions};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use sqlx::{Connection, Executor, PgConnection};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use super::super::Outcome;
use super::super::service::{Service, rate};
use super::{Client, Sink};

const CALLER: &str = "spiffe://bench/reader";
const BOOK: &str =
    "version: 1\nbase_models:\n  \"m\": {prompt: \"0.1\", cached: \"0.1\", completion: \"0.1\"}\n";
const EVENTS: &str = "INSERT INTO billing_event (request_id, auth_id, resource_id, model, prompt_tokens,
        completion_tokens, event_ts)
    SELECT 'r' || n, 'auth-' || n, 'r', 'm', 10, 1, '2026-06-01T00:00:00Z' FROM generate_series(1, 1000) n";

/// A service, and how to reach it.
pub struct Ready {
    pub name: &'static str,
    service: Service,
    tls: Option<ClientTlsConfig>,
}

impl Ready {
    /// So many callers, each with a connection.
    pub async fn connect(&self, callers: usize) -> Outcome<Vec<Client>> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{}", self.service.address()))?;
        if let Some(tls) = &self.tls {
            endpoint = endpoint.tls_config(tls.clone())?;
        }
        let mut clients = Vec::new();
        for _ in 0..callers {
            clients.push(RatingServiceClient::new(endpoint.connect().await?));
        }
        Ok(clients)
    }
}

/// A database with a thousand rollups of one hour to be, and what the services read.
pub struct Site {
    url: String,
    dir: PathBuf,
    tls: ClientTlsConfig,
}

impl Site {
    pub async fn prepare(url: &str, dir: &Path) -> Outcome<Site> {
        let options =
            DbOptions { url: url.into(), max_connections: 1, acquire_timeout: Duration::from_secs(60) };
        schema::up(&Db::new(&options)?).await?;
        PgConnection::connect(url).await?.execute(EVENTS).await?;
        fs::write(dir.join("book.yaml"), BOOK)?;
        let who = format!("version: 1\ncallers:\n  - {{uri: \"{CALLER}\", roles: [operator]}}\n");
        fs::write(dir.join("identities.yaml"), who)?;
        Ok(Site { url: url.into(), dir: dir.into(), tls: certificates(dir)? })
    }

    /// Plain first.
    pub fn services(&self, sink: &Sink) -> Outcome<Vec<Ready>> {
        [
            ("plain", false, false),
            ("mutual TLS", true, false),
            ("telemetry", false, true),
            ("both", true, true),
        ]
        .into_iter()
        .map(|(name, tls, telemetry)| self.start(name, tls, telemetry.then(|| sink.url())))
        .collect()
    }

    fn start(&self, name: &'static str, tls: bool, collector: Option<String>) -> Outcome<Ready> {
        let files = [
            ("--tls-cert", "server.pem"),
            ("--tls-key", "server.key"),
            ("--tls-client-ca", "ca.pem"),
            ("--identities", "identities.yaml"),
        ];
        let path = |file: &str| self.dir.join(file).to_string_lossy().into_owned();
        let arguments = files.into_iter().flat_map(|(option, file)| [option.to_owned(), path(file)]);
        let arguments: Vec<String> = arguments.take(if tls { usize::MAX } else { 0 }).collect();
        // It is one caller, who is to be as fast as it can.
        let mut environment = vec![("RATER_MAX_CALLS_PER_SECOND", "0")];
        let url = collector.unwrap_or_default();
        if !url.is_empty() {
            environment.push(("OTEL_EXPORTER_OTLP_ENDPOINT", &url));
        }
        let service = Service::start_with(&self.url, &self.dir.join("book.yaml"), &arguments, &environment)?;
        Ok(Ready { name, service, tls: tls.then(|| self.tls.clone()) })
    }

    /// Rates the hour, and gives the run.
    pub async fn run_id(&self, by: &Ready) -> Outcome<String> {
        let window = rater::domain::window::Window {
            start: "2026-06-01T00:00:00Z".parse()?,
            end: "2026-06-01T01:00:00Z".parse()?,
        };
        let mut clients = by.connect(1).await?;
        let client = clients.first_mut().ok_or("no client")?;
        Ok(client.rate_window(rate(window)).await?.into_inner().run_id)
    }
}

/// An authority, a server of this machine and a caller; what the caller shows.
fn certificates(dir: &Path) -> Outcome<ClientTlsConfig> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate()?;
    let ca = params.self_signed(&key)?.pem();
    let issuer = Issuer::new(params, key);

    let mut server = CertificateParams::new(["127.0.0.1".to_owned()])?;
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let server_key = KeyPair::generate()?;
    fs::write(dir.join("ca.pem"), &ca)?;
    fs::write(dir.join("server.pem"), server.signed_by(&server_key, &issuer)?.pem())?;
    fs::write(dir.join("server.key"), server_key.serialize_pem())?;

    let mut caller = CertificateParams::default();
    caller.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    caller.subject_alt_names = vec![SanType::URI(CALLER.try_into()?)];
    let caller_key = KeyPair::generate()?;
    let identity =
        Identity::from_pem(caller.signed_by(&caller_key, &issuer)?.pem(), caller_key.serialize_pem());
    Ok(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)).identity(identity))
}
