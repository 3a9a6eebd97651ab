//! A pricebook that is not in force, for a dry run: "what would last month have cost".

use tokio::task::spawn_blocking;

use super::Pricebooks;
use super::watch::blocking;
use crate::domain::pricebook::{self, Diagnostic, DiagnosticSeverity, Pricebook};
use crate::domain::violation::Violation;
use crate::service::Error;

impl Pricebooks {
    /// Reads a candidate; a bad one is refused with everything that was found.
    pub async fn candidate(&self, yaml: String) -> Result<Pricebook, Error> {
        // Never closed, so never an error.
        let _turn = self.checks.acquire().await.ok();
        let parsed = blocking(spawn_blocking(move || pricebook::parse(&yaml)).await);
        parsed.book.ok_or_else(|| Error::Invalid(parsed.diagnostics.iter().map(violation).collect()))
    }
}

/// Its field is the place, as an editor takes it.
fn violation(diagnostic: &Diagnostic) -> Violation {
    let Diagnostic { severity, code, message, line, column, .. } = diagnostic;
    let message = match severity {
        DiagnosticSeverity::Error => message.clone(),
        DiagnosticSeverity::Warning => format!("(only a warning) {message}"),
    };
    Violation::new(format!("pricebook_yaml:{line}:{column}"), code, message)
}
