//! What the service shows and whom it believes: certificates, identities, keys. A series is there
//! where there is something to tell.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::Metrics;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct What {
    what: &'static str,
}

#[derive(Debug, Default)]
pub(super) struct Credentials {
    refused: Family<What, Gauge>,
    expiry: Family<What, Gauge>,
}

impl Credentials {
    pub(super) fn registered(registry: &mut Registry) -> Credentials {
        let credentials = Credentials::default();
        let help = "1 while a file of credentials is refused and the last good one stays in force";
        registry.register("credentials_refused", help, credentials.refused.clone());
        let help = "When a certificate ends";
        registry.register_with_unit(
            "tls_certificate_expiry_timestamp",
            help,
            Unit::Seconds,
            credentials.expiry.clone(),
        );
        credentials
    }
}

impl Metrics {
    /// Whether a file is refused, so that the last good one stays in force.
    pub fn credentials_refused(&self, what: &'static str, refused: bool) {
        self.credentials.refused.get_or_create(&What { what }).set(i64::from(refused));
    }

    /// When a certificate ends, in Unix seconds: the `server`'s own, or the first to end of the
    /// `client_ca`.
    pub fn certificate_expiry(&self, what: &'static str, at: i64) {
        self.credentials.expiry.get_or_create(&What { what }).set(at);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Metrics, has};

    #[test]
    fn what_is_not_configured_has_no_series_and_what_is_says_how_it_stands() {
        let metrics = Metrics::new();
        let text = metrics.encode().expect("memory");
        assert!(!text.contains("rater_credentials_refused{"), "{text}");
        assert!(!text.contains("expiry_timestamp_seconds{"), "{text}");
        metrics.credentials_refused("identities", false);
        has(&metrics, r#"rater_credentials_refused{what="identities"} 0"#);
        metrics.credentials_refused("identities", true);
        has(&metrics, r#"rater_credentials_refused{what="identities"} 1"#);
        metrics.certificate_expiry("server", 1_780_000_000);
        has(&metrics, r#"rater_tls_certificate_expiry_timestamp_seconds{what="server"} 1780000000"#);
    }
}
