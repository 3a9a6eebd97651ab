//! Health checking, from the client's side.

use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::{Channel, Failure};

/// Whether a service (`""`: the whole server) says that it serves.
pub async fn serving(channel: Channel, service: &str) -> Result<bool, Failure> {
    let request = HealthCheckRequest { service: service.into() };
    let answer = HealthClient::new(channel).check(request).await?.into_inner();
    Ok(answer.status() == ServingStatus::Serving)
}
