//! What stands under the service goes away: the database, its disk, a connection at COMMIT, the
//! caller, the process itself. Each is answered in the words of the wire, nothing is half-done,
//! and the service recovers without a restart.

mod batches;
mod cancel;
mod commit;
mod dead;
mod disk;
mod drain;
mod standby;

use std::net::TcpListener;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rater::embedded_postgres::EmbeddedPostgres;
use tempfile::TempDir;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::harness::{Service, own_server_in, temp_dir};

/// A server that goes away and comes back at the same address.
pub struct Server {
    dir: TempDir,
    port: String,
    postgres: Option<EmbeddedPostgres>,
}

impl Server {
    pub async fn start() -> Server {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = Server { dir: temp_dir(), port: free.to_string(), postgres: None };
        server.start_again().await;
        server
    }

    pub async fn start_again(&mut self) {
        self.postgres = Some(start_at(self.dir.path(), &self.port).await);
    }

    pub fn url(&self) -> String {
        url_at(self.postgres.as_ref().unwrap(), &self.port)
    }

    /// Without a goodbye, as in a crash.
    pub async fn crash(&mut self) {
        let postgres = self.postgres.take().unwrap();
        kill(Pid::from_raw(postgres.pid() as i32), Signal::SIGQUIT).unwrap();
        tokio::task::spawn_blocking(move || postgres.stop()).await.unwrap();
    }

    pub async fn stop(&mut self) {
        let postgres = self.postgres.take().unwrap();
        tokio::task::spawn_blocking(move || postgres.stop()).await.unwrap();
    }
}

/// What is committed survives a crash of the server, if not of the machine.
async fn start_at(dir: &Path, port: &str) -> EmbeddedPostgres {
    own_server_in(dir, &[("port", port), ("synchronous_commit", "on")]).await
}

fn url_at(postgres: &EmbeddedPostgres, port: &str) -> String {
    postgres.url().replace(&format!(":{}/", postgres.port()), &format!(":{port}/"))
}

/// Whether health checks say SERVING.
pub async fn serving(service: &Service) -> bool {
    let mut client = HealthClient::new(service.channel().await);
    let answer = client.check(HealthCheckRequest { service: String::new() }).await.unwrap();
    answer.into_inner().status == 1
}
