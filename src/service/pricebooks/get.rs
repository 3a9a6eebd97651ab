//! A pricebook by its digest: the one in force, or one that a run began with.

use chrono::{DateTime, Utc};
use tokio::task::spawn_blocking;

use super::Pricebooks;
use super::watch::blocking;
use crate::domain::pricebook::{self, ResolvedRate};
use crate::domain::text::is_sha256;
use crate::domain::violation::Violation;
use crate::service::Error;
use crate::store::{self, Db};

/// A pricebook as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The SHA-256 of its normalised form.
    pub digest: String,
    /// Its text.
    pub yaml: String,
    /// When it was loaded; `None`: it is not the one in force.
    pub loaded_at: Option<DateTime<Utc>>,
    /// The rates of every model that it names. None for an old text that this version reads
    /// otherwise than the one that used it: they would not be what was billed.
    pub rates: Vec<ResolvedRate>,
}

impl Pricebooks {
    /// The pricebook of this digest, or, without one, the one in force.
    pub async fn get(&self, db: &Db, digest: &str) -> Result<Found, Error> {
        if !digest.is_empty() && !is_sha256(digest) {
            let message = "a digest is 64 hex digits in lower case; leave it empty for the loaded pricebook";
            return Err(Error::Invalid(vec![Violation::new("digest", "INVALID_DIGEST", message)]));
        }
        let loaded = self.current();
        let in_force = loaded.book.digest();
        if !digest.is_empty() && digest != in_force {
            let yaml = store::pricebook::find(db, digest).await?.ok_or(Error::PricebookNotFound)?;
            return Ok(self.earlier(digest.to_owned(), yaml).await);
        }
        let book = loaded.book.clone();
        let _turn = self.checks.acquire().await.ok();
        let rates = blocking(spawn_blocking(move || book.resolved_rates()).await);
        Ok(Found {
            digest: in_force.to_owned(),
            yaml: loaded.book.yaml().to_owned(),
            loaded_at: Some(loaded.loaded_at),
            rates,
        })
    }

    async fn earlier(&self, digest: String, yaml: String) -> Found {
        let _turn = self.checks.acquire().await.ok();
        let read = move || {
            let book = pricebook::parse(&yaml).book.filter(|book| book.digest() == digest);
            if book.is_none() {
                tracing::warn!(digest, "a stored pricebook reads otherwise now; its rates are left out");
            }
            let rates = book.map(|book| book.resolved_rates()).unwrap_or_default();
            Found { digest, yaml, loaded_at: None, rates }
        };
        blocking(spawn_blocking(read).await)
    }
}
