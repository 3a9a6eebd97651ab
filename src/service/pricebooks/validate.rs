//! What a pricebook would be: everything wrong with it, its rates, and what it changes.

use tokio::task::spawn_blocking;

use super::Pricebooks;
use super::watch::blocking;
use crate::domain::pricebook::{self, Diagnostic, RateChange, ResolvedRate};
use crate::service::Error;

/// A pricebook to check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its text, of any length; what is too long is a finding.
    pub yaml: String,
    /// Whether it is to be held against traffic, which this version does not do.
    pub against_traffic: bool,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Validation {
    /// Everything found, by place.
    pub diagnostics: Vec<Diagnostic>,
    /// Of the normalised pricebook; `None` exactly when it is refused.
    pub digest: Option<String>,
    /// The rates of every model that it names.
    pub rates: Vec<ResolvedRate>,
    /// What it bills otherwise than the pricebook in force.
    pub changes: Vec<RateChange>,
}

impl Pricebooks {
    /// Checks a pricebook against the one in force. Nothing is stored.
    pub async fn validate(&self, candidate: Candidate) -> Result<Validation, Error> {
        if candidate.against_traffic {
            return Err(Error::Unimplemented("against"));
        }
        let loaded = self.current();
        let check = move || {
            let parsed = pricebook::parse(&candidate.yaml);
            let book = parsed.book.as_ref();
            Validation {
                digest: book.map(|book| book.digest().to_owned()),
                rates: book.map(|book| book.resolved_rates()).unwrap_or_default(),
                changes: book.map(|book| loaded.book.changes_to(book)).unwrap_or_default(),
                diagnostics: parsed.diagnostics,
            }
        };
        // Never closed, so never an error.
        let _turn = self.checks.acquire().await.ok();
        Ok(blocking(spawn_blocking(check).await))
    }
}
