//! The gRPC server: both services, health checking and reflection (v1 and v1alpha), until it is
//! told to stop. Health follows readiness, for the whole server (`""`) and for each service.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::events::EventServer;
use super::layers::Wrap;
use super::layers::access::{Access, Open};
use super::layers::calls::Calls;
use super::layers::limits::Limited;
use super::layers::panics::Panics;
use super::layers::strangers::Strangers;
use super::limits::Limits;
use super::listener::incoming;
use super::message::MAX_QUESTION;
use super::rating::Rating;
use super::tls::Tls;
use crate::proto::DESCRIPTOR_SET;
use crate::proto::rating_service_server::RatingServiceServer;
use crate::service::rate_window::Rater;
use crate::service::readiness::Readiness;
use crate::service::record_events::EventIntake;

/// What health checks may ask for.
const SERVICES: [&str; 3] = ["", "rating.v1.RatingService", "rating.v1.EventService"];

/// A peer that says nothing, or half a frame, is asked after so long whether it is there, and has so
/// long to answer: within 10 s it is gone.
const ASKED_AFTER: Duration = Duration::from_secs(5);
const ANSWERS_WITHIN: Duration = Duration::from_secs(4);

/// The most bytes of a call's headers; a bearer token takes up to half of it.
const MAX_HEADERS: u32 = 16 * 1024;

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
    /// How much is taken on.
    pub limits: Limits,
    /// Who may call.
    pub access: Access,
    /// What is served beside the contract.
    pub open: Open,
}

/// Serves until `stop` resolves. Then, in this order: health checks are told, the rater and every
/// stream are told to come to an end, no new calls are taken, and those in flight end.
pub async fn serve(
    serving: Serving,
    stop: impl Future<Output = ()>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let Serving { listener, rater, intake, readiness, tls, access, open, limits } = serving;
    let (reporter, health) = tonic_health::server::health_reporter();
    report(&reporter, readiness.borrow().is_ready()).await;
    let follower = tokio::spawn(follow(reporter.clone(), readiness));
    let reflection = || {
        tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(DESCRIPTOR_SET)
    };
    let v1 = || reflection().build_v1().map(|server| server.max_decoding_message_size(MAX_QUESTION));
    let v1alpha =
        || reflection().build_v1alpha().map(|server| server.max_decoding_message_size(MAX_QUESTION));
    let (metrics, stopping, sides) = (rater.metrics.clone(), rater.stop.clone(), CancellationToken::new());
    let limited = Limited::to(&limits, sides.clone(), metrics.clone());
    let arriving = sides.clone();
    let stop = async move {
        stop.await;
        report(&reporter, false).await;
        stopping.cancel();
        sides.cancel();
    };
    let served = Server::builder()
        .http2_keepalive_interval(Some(ASKED_AFTER))
        .http2_keepalive_timeout(Some(ANSWERS_WITHIN))
        .http2_max_header_list_size(Some(MAX_HEADERS))
        .max_concurrent_streams(Some(limits.max_streams))
        // Without a grace: it would be the end of calls in flight, without a word before.
        .max_connection_age(limits.max_connection_age)
        .layer(Wrap(Calls::new(metrics.clone())))
        .layer(Wrap(Panics))
        .layer(Wrap(Strangers::new(metrics.clone())))
        .layer(Wrap(access))
        .layer(Wrap(limited))
        .add_optional_service(open.health.then(|| health.max_decoding_message_size(MAX_QUESTION)))
        .add_optional_service(open.reflection.then(v1).transpose()?)
        .add_optional_service(open.reflection.then(v1alpha).transpose()?)
        .add_service(RatingServiceServer::new(Rating::new(rater)))
        .add_service(EventServer::new(intake).until(arriving))
        .serve_with_incoming_shutdown(incoming(listener, tls, &limits, metrics), stop)
        .await;
    follower.abort();
    Ok(served?)
}

async fn follow(reporter: HealthReporter, mut readiness: watch::Receiver<Readiness>) {
    while readiness.changed().await.is_ok() {
        let ready = readiness.borrow_and_update().is_ready();
        report(&reporter, ready).await;
    }
}

async fn report(reporter: &HealthReporter, ready: bool) {
    let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
    for service in SERVICES {
        reporter.set_service_status(service, status).await;
    }
}
