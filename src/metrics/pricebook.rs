//! The pricebook in force.

use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::Metrics;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Book {
    digest: String,
}

#[derive(Debug, Default)]
pub(super) struct Pricebook {
    info: Family<Book, Gauge>,
    loaded: Gauge,
    refused: Gauge,
    /// Held while the info series is exchanged and while all are read: never none, never two.
    exchange: Mutex<()>,
}

impl Pricebook {
    pub(super) fn registered(registry: &mut Registry) -> Pricebook {
        let book = Pricebook::default();
        registry.register("pricebook_info", "The pricebook in force", book.info.clone());
        let help = "When the pricebook in force was loaded";
        registry.register_with_unit("pricebook_loaded_timestamp", help, Unit::Seconds, book.loaded.clone());
        let help = "1 while the pricebook file is refused and an older one stays in force";
        registry.register("pricebook_refused", help, book.refused.clone());
        book
    }

    /// While this is held, the series are whole.
    pub(super) fn still(&self) -> MutexGuard<'_, ()> {
        self.exchange.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Metrics {
    /// The pricebook in force; `at` is when it was loaded, in Unix seconds.
    pub fn pricebook_loaded(&self, digest: &str, at: i64) {
        let _exchange = self.pricebook.still();
        self.pricebook.info.clear();
        self.pricebook.info.get_or_create(&Book { digest: digest.to_owned() }).set(1);
        self.pricebook.loaded.set(at);
    }

    /// Whether the pricebook file is refused, so that an older one stays in force.
    pub fn pricebook_refused(&self, refused: bool) {
        self.pricebook.refused.set(i64::from(refused));
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Metrics, has};

    #[test]
    fn one_pricebook_is_in_force() {
        let metrics = Metrics::new();
        metrics.pricebook_loaded("aa", 1);
        metrics.pricebook_loaded("bb", 2);
        metrics.pricebook_refused(true);
        has(&metrics, r#"rater_pricebook_info{digest="bb"} 1"#);
        has(&metrics, "rater_pricebook_loaded_timestamp_seconds 2");
        has(&metrics, "rater_pricebook_refused 1");
        assert!(!metrics.encode().expect("memory").contains("aa"));
    }
}
