//! Talking to rater: pages of rated usage, and the changes after them.

use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, Utc};
use prost_types::Timestamp;
use rater::grpc::client::{Channel, Failure, Server, connect};
use rater::proto::rating_service_client::RatingServiceClient;
use rater::proto::{
    GetRatedUsageRequest, GetRatedUsageResponse, StreamRatedUsageChangesRequest,
    StreamRatedUsageChangesResponse, UsageFilter,
};

use crate::trouble::Trouble;

/// Where rater is
#[derive(Debug, Clone, clap::Args)]
pub struct ServerOptions {
    /// Where rater is
    #[arg(long, env = "RATER_SERVER", value_name = "URL", default_value = "http://127.0.0.1:50051")]
    server: String,
    /// The certificate authority of an https server, a PEM file
    #[arg(long, env = "RATER_TLS_CA", value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// The certificate that the ledger shows, a PEM file
    #[arg(long, env = "RATER_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its private key, a PEM file
    #[arg(long, env = "RATER_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// A file with the bearer token that the ledger shows
    #[arg(long, env = "RATER_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Rows in a page of the first copy (at most 10,000)
    #[arg(long, env = "LEDGER_PAGE_SIZE", default_value_t = 1_000, value_parser = clap::value_parser!(i32).range(1..))]
    page_size: i32,
}

/// A connection to rater, which reads one and the same part of rated usage all its life: pages,
/// page tokens and cursors belong to their filter.
pub struct Feed {
    client: RatingServiceClient<Channel>,
    filter: UsageFilter,
    page_size: i32,
}

impl Feed {
    /// Hours from `since` on.
    pub async fn connect(options: &ServerOptions, since: Option<DateTime<Utc>>) -> Result<Feed, Trouble> {
        let server = Server {
            url: options.server.clone(),
            tls_ca: options.tls_ca.clone(),
            tls_cert: options.tls_cert.clone(),
            tls_key: options.tls_key.clone(),
            token_file: options.token_file.clone(),
            insecure: false,
        };
        let client = RatingServiceClient::new(connect(&server).await?);
        let since = since.map(|time| Timestamp { seconds: time.timestamp(), nanos: 0 });
        let filter = UsageFilter { since, ..UsageFilter::default() };
        Ok(Feed { client, filter, page_size: options.page_size })
    }

    /// The page after a token.
    pub async fn page(&mut self, page_token: &str) -> Result<GetRatedUsageResponse, Trouble> {
        let request = GetRatedUsageRequest {
            filter: Some(self.filter.clone()),
            page_size: self.page_size,
            page_token: page_token.into(),
        };
        let mut request = tonic::Request::new(request);
        // A page takes milliseconds; one that never comes must not be waited for.
        request.set_timeout(Duration::from_secs(60));
        let page = self.client.get_rated_usage(request).await.map_err(Failure::from)?;
        Ok(page.into_inner())
    }

    /// The changes after a cursor, up to the end of the feed, or for ever.
    pub async fn changes(&mut self, cursor: &str, follow: bool) -> Result<Changes, Trouble> {
        let filter = Some(self.filter.clone());
        let request = StreamRatedUsageChangesRequest { cursor: cursor.into(), follow, filter };
        let stream = self.client.stream_rated_usage_changes(request).await.map_err(Failure::from)?;
        Ok(Changes(stream.into_inner()))
    }
}

/// Messages of changes. The next one is asked for when the last one is committed: what is on its
/// way meanwhile is bounded by the transport, however long that takes.
pub struct Changes(tonic::Streaming<StreamRatedUsageChangesResponse>);

impl Changes {
    /// `None` at the end of the feed.
    pub async fn next(&mut self) -> Result<Option<StreamRatedUsageChangesResponse>, Trouble> {
        self.0.message().await.map_err(|status| match Failure::from(status) {
            // What was shown when the stream began has ended; what is in the files by now may be good.
            failure if failure.reason == "UNAUTHENTICATED" => Trouble::Away(failure.to_string()),
            failure => failure.into(),
        })
    }
}
