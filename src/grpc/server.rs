//! The gRPC server: both services, health checking and reflection (v1 and v1alpha), until it is
//! told to stop. Health follows readiness, for the whole server (`""`) and for each service.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::events::EventServer;
use super::layers::Wrap;
use super::layers::access::{Access, Open};
use super::layers::calls::Calls;
use super::layers::limits::Limits;
use super::listener::incoming;
use super::rating::Rating;
use super::tls::Tls;
use crate::proto::DESCRIPTOR_SET;
use crate::proto::rating_service_server::RatingServiceServer;
use crate::service::rate_window::Rater;
use crate::service::readiness::Readiness;
use crate::service::record_events::EventIntake;

/// What health checks may ask for.
const SERVICES: [&str; 3] = ["", "rating.v1.RatingService", "rating.v1.EventService"];

/// What is served, and where.
pub struct Serving {
    /// Where.
    pub listener: TcpListener,
    /// RatingService.
    pub rater: Arc<Rater>,
    /// EventService.
    pub intake: EventIntake,
    /// What health checks follow.
    pub readiness: watch::Receiver<Readiness>,
    /// None: plain text.
    pub tls: Option<Arc<Tls>>,
    /// Who may call.
    pub access: Access,
    /// What is served beside the contract.
    pub open: Open,
}

/// Serves until `stop` resolves, then takes no new calls and lets those in flight end.
pub async fn serve(
    serving: Serving,
    stop: impl Future<Output = ()>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let Serving { listener, rater, intake, readiness, tls, access, open } = serving;
    let (reporter, health) = tonic_health::server::health_reporter();
    report(&reporter, &readiness.borrow().clone()).await;
    let follower = tokio::spawn(follow(reporter, readiness));
    let reflection = || {
        tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(DESCRIPTOR_SET)
    };
    let served = Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
        .layer(Wrap(Calls::new(rater.metrics.clone())))
        .layer(Wrap(Limits::default()))
        .layer(Wrap(access))
        .add_optional_service(open.health.then_some(health))
        .add_optional_service(open.reflection.then(|| reflection().build_v1()).transpose()?)
        .add_optional_service(open.reflection.then(|| reflection().build_v1alpha()).transpose()?)
        .add_service(RatingServiceServer::new(Rating::new(rater)))
        .add_service(EventServer::new(intake))
        .serve_with_incoming_shutdown(incoming(listener, tls), stop)
        .await;
    follower.abort();
    Ok(served?)
}

async fn follow(reporter: HealthReporter, mut readiness: watch::Receiver<Readiness>) {
    while readiness.changed().await.is_ok() {
        let now = readiness.borrow_and_update().clone();
        report(&reporter, &now).await;
    }
}

async fn report(reporter: &HealthReporter, readiness: &Readiness) {
    let status = if readiness.is_ready() { ServingStatus::Serving } else { ServingStatus::NotServing };
    for service in SERVICES {
        reporter.set_service_status(service, status).await;
    }
}
