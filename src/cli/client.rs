//! What the client commands share: where the service is, and how to print.

use std::path::PathBuf;

use super::output::{Format, printable};
use crate::grpc::client::{Channel, ConnectError, Server, connect};

/// The options of every client command.
#[derive(Debug, Clone, clap::Args)]
pub struct ClientOptions {
    #[command(flatten)]
    connection: Connection,
    /// How to print the result
    #[arg(short, long, env = "RATER_OUTPUT", value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

impl ClientOptions {
    /// As [`Connection::channel`].
    pub async fn channel(&self) -> Result<Channel, String> {
        self.connection.channel().await
    }

    /// Where the service is, as it was given.
    pub fn server(&self) -> &str {
        &self.connection.server
    }

    /// The same with what a connection needs, for who connects later.
    pub fn location(&self) -> Server {
        self.connection.location()
    }
}

/// Where the service is.
#[derive(Debug, Clone, clap::Args)]
pub struct Connection {
    /// Where the service is
    #[arg(long, env = "RATER_SERVER", value_name = "URL", default_value = "http://127.0.0.1:50051")]
    server: String,
    /// The certificate authority of an https server, a PEM file
    #[arg(long, env = "RATER_TLS_CA", value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// The certificate that this client shows, and its chain, a PEM file; read for each connection
    #[arg(long, env = "RATER_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its private key, a PEM file
    #[arg(long, env = "RATER_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// A file with the bearer token that this client shows; read for each call
    #[arg(long, env = "RATER_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Send the token over plain http to another machine, too
    #[arg(long, env = "RATER_INSECURE", value_parser = crate::cli::switch::Switch)]
    insecure: bool,
}

impl Connection {
    fn location(&self) -> Server {
        Server {
            url: self.server.clone(),
            tls_ca: self.tls_ca.clone(),
            tls_cert: self.tls_cert.clone(),
            tls_key: self.tls_key.clone(),
            token_file: self.token_file.clone(),
            insecure: self.insecure,
        }
    }

    /// A connection, made now, so that a server that isn't there is told before anything
    /// starts; later it reconnects by itself. An error is one line: what is wrong with which
    /// URL, and what to do.
    pub async fn channel(&self) -> Result<Channel, String> {
        let error = match connect(&self.location()).await {
            Ok(channel) => return Ok(channel),
            Err(error) => error,
        };
        Err(printable(&match error {
            ConnectError::Misconfigured(what) => format!("--server {}: {what}", self.server),
            ConnectError::Unreachable(what) => format!(
                "can't reach {}: {what}; start the service with `rater serve`, or say where it is with --server \
                 or RATER_SERVER",
                self.server
            ),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn error(server: &str) -> String {
        #[derive(Debug, clap::Parser)]
        struct Line {
            #[command(flatten)]
            connection: Connection,
        }
        let line = <Line as clap::Parser>::parse_from(["rater", "--server", server]);
        line.connection.channel().await.expect_err("refused")
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
