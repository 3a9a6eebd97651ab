//! What a pricebook would be: everything wrong with it, its rates, and what it changes.

use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::watch::blocking;
use super::{Loaded, Pricebooks};
use crate::domain::impact::Impact;
use crate::domain::pricebook::{self, Diagnostic, Pricebook, RateChange, ResolvedRate};
use crate::domain::window::Window;
use crate::service::Error;
use crate::service::rate_window::Rater;

/// A pricebook to check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its text, of any length; what is too long is a finding.
    pub yaml: String,
    /// The window whose traffic it is held against, if any.
    pub against: Option<Window>,
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
    /// What it changes for a window's traffic, where that was asked and it is not refused.
    pub impact: Option<Impact>,
}

/// A candidate that was read.
#[derive(Debug)]
pub struct Checked {
    /// What the check found.
    pub validation: Validation,
    /// The candidate, unless it is refused.
    pub book: Option<Pricebook>,
    /// The pricebook that was in force, which it was held against.
    pub loaded: Arc<Loaded>,
}

impl Pricebooks {
    /// Checks a pricebook against the one in force. Nothing is stored.
    pub async fn check(&self, yaml: String) -> Checked {
        let loaded = self.current();
        let check = move || {
            let parsed = pricebook::parse(&yaml);
            let book = parsed.book.as_ref();
            let validation = Validation {
                digest: book.map(|book| book.digest().to_owned()),
                rates: book.map(|book| book.resolved_rates()).unwrap_or_default(),
                changes: book.map(|book| loaded.book.changes_to(book)).unwrap_or_default(),
                diagnostics: parsed.diagnostics,
                impact: None,
            };
            Checked { validation, book: parsed.book, loaded }
        };
        // Never closed, so never an error.
        let _turn = self.checks.acquire().await.ok();
        blocking(spawn_blocking(check).await)
    }
}

impl Rater {
    /// Checks a pricebook against the one in force and, if that is asked and it is not refused,
    /// against the traffic of a window. Nothing is stored. A caller that goes away ends it.
    pub async fn validate_pricebook(self: &Arc<Self>, candidate: Candidate) -> Result<Validation, Error> {
        // Few at once, and before the check: what waits holds a text, and not all that follows from it.
        let _turn = match candidate.against {
            Some(_) => self.pricebooks.scans.acquire().await.ok(),
            None => None,
        };
        let Checked { mut validation, book, loaded } = self.pricebooks.check(candidate.yaml).await;
        if let (Some(book), Some(window)) = (book, candidate.against) {
            validation.impact =
                Some(self.impact(loaded.book.clone(), book, &validation.rates, window).await?);
        }
        Ok(validation)
    }
}
