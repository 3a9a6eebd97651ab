//! What the client commands share: where the service is, and how to print.

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use super::output::{Format, printable};

/// The options of every client command.
#[derive(Debug, Clone, clap::Args)]
pub struct ClientOptions {
    /// Where the service is
    #[arg(long, env = "RATER_SERVER", value_name = "URL", default_value = "http://127.0.0.1:50051")]
    pub server: String,
    /// The certificate authority of an https server, a PEM file
    #[arg(long, env = "RATER_TLS_CA", value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// How to print the result
    #[arg(short, long, env = "RATER_OUTPUT", value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

impl ClientOptions {
    /// A connection, made now, so that a server that isn't there is told before anything
    /// starts; later it reconnects by itself. An error is one line: what is wrong with which
    /// URL, and what to do.
    pub async fn channel(&self) -> Result<Channel, String> {
        let server = printable(&self.server);
        let endpoint = self.endpoint().map_err(|what| format!("--server {server}: {what}"))?;
        endpoint.connect().await.map_err(|error| {
            let cause = printable(&root_cause(&error).to_string());
            format!(
                "can't reach {server}: {cause}; start the service with `rater serve`, or say where it is with \
                 --server or RATER_SERVER"
            )
        })
    }

    fn endpoint(&self) -> Result<Endpoint, String> {
        let tls = self.server.starts_with("https://");
        if !tls && !self.server.starts_with("http://") {
            return Err("begins with neither http:// nor https://; write http://HOST:PORT".into());
        }
        let mut endpoint = Endpoint::from_shared(self.server.clone())
            .map_err(|error| format!("is no URL ({}); write http://HOST:PORT", root_cause(&error)))?
            .user_agent(concat!("rater/", env!("CARGO_PKG_VERSION")))
            .map_err(|error| error.to_string())?
            .connect_timeout(Duration::from_secs(5))
            // A call may take minutes; a connection that died silently must not.
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10));
        if tls {
            endpoint = endpoint.tls_config(self.tls()?).map_err(|error| root_cause(&error).to_string())?;
        }
        Ok(endpoint)
    }

    fn tls(&self) -> Result<ClientTlsConfig, String> {
        let Some(path) = &self.tls_ca else {
            return Err("https needs --tls-ca or RATER_TLS_CA: the PEM file of the server's authority".into());
        };
        let pem = std::fs::read(path).map_err(|error| format!("--tls-ca {}: {error}", path.display()))?;
        Ok(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)))
    }
}

/// The innermost error, which says what happened; the outer ones say "transport error".
fn root_cause<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn error(server: &str) -> String {
        let options = ClientOptions { server: server.into(), tls_ca: None, output: Format::Table };
        options.channel().await.expect_err("refused")
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_named_in_one_line() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        drop(listener);
        let error = error(&url).await;
        assert!(error.starts_with(&format!("can't reach {url}: Connection refused")), "{error}");
        assert!(error.contains("RATER_SERVER"), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }

    #[tokio::test]
    async fn a_server_that_is_no_url_is_told_what_to_write() {
        assert!(error("127.0.0.1:50051").await.contains("write http://HOST:PORT"));
        assert!(error("http://a b").await.contains("is no URL"));
        assert!(error("https://localhost:1").await.contains("--tls-ca"));
        assert_eq!(error("ftp://\u{1b}[31m\n").await.lines().count(), 1);
    }
}
