//! The pricebook in force: loaded from a file at the start, exchanged when the file changes.
//!
//! A run takes [`Pricebooks::current`] once and keeps it to its end. What can't be read or is
//! not valid never replaces what is loaded: it is [`Pricebooks::refused`], said once in the
//! log, and seen in health and metrics until the file is good again.

mod candidate;
mod get;
mod impact;
mod validate;
mod watch;

use std::fmt::Write;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use chrono::{DateTime, Utc};
use tokio::sync::Semaphore;

use crate::domain::pricebook::{self, Diagnostic, DiagnosticSeverity, MAX_BYTES, Pricebook};
use crate::metrics::Metrics;
pub use get::Found;
pub use validate::{Candidate, Checked, Validation};

/// How many findings one line of the log repeats; `rater validate` has all of them.
const MAX_LOGGED: usize = 20;
/// How many pricebooks are checked at once for callers: a large one takes a core for a while.
const MAX_CHECKS: usize = 2;
/// How many of them are held against traffic at once; the others wait.
const MAX_SCANS: usize = 2;

/// A pricebook in force.
#[derive(Debug)]
pub struct Loaded {
    /// What it says.
    pub book: Arc<Pricebook>,
    /// When this text was loaded, by this machine's clock.
    pub loaded_at: DateTime<Utc>,
}

/// A newer file that did not come into force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// When it was.
    pub at: DateTime<Utc>,
    /// Its first error: `LINE:COLUMN: error: … [code]`, or why it can't be read.
    pub first_line: String,
}

/// The pricebook in force, and what became of its file. Share it in an `Arc`.
#[derive(Debug)]
pub struct Pricebooks {
    path: PathBuf,
    loaded: ArcSwap<Loaded>,
    refused: ArcSwapOption<Refused>,
    checks: Semaphore,
    scans: Semaphore,
}

/// Why the service has no pricebook to start with.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file can't be read.
    #[error("can't read the pricebook {}: {source}; name a readable YAML file", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is not valid.
    #[error("{}", lines(&format!("{}:", path.display()), diagnostics, usize::MAX))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Everything that is wrong with it.
        diagnostics: Vec<Diagnostic>,
    },
}

impl Pricebooks {
    /// Loads the pricebook to start with. Blocks.
    pub fn load(path: &Path) -> Result<Pricebooks, LoadError> {
        let bytes = read(path).map_err(|source| LoadError::Unreadable { path: path.to_owned(), source })?;
        let parsed = pricebook::parse_bytes(&bytes);
        let Some(book) = parsed.book else {
            return Err(LoadError::Invalid { path: path.to_owned(), diagnostics: parsed.diagnostics });
        };
        tracing::info!(path = %path.display(), digest = book.digest(), "pricebook loaded");
        warn(path, &parsed.diagnostics);
        Ok(Pricebooks {
            path: path.to_owned(),
            loaded: ArcSwap::from_pointee(Loaded { book: Arc::new(book), loaded_at: Utc::now() }),
            refused: ArcSwapOption::empty(),
            checks: Semaphore::new(MAX_CHECKS),
            scans: Semaphore::new(MAX_SCANS),
        })
    }

    /// The pricebook in force now. It never changes; a later call may give another.
    pub fn current(&self) -> Arc<Loaded> {
        self.loaded.load_full()
    }

    /// The newest file, if it is bad, so that an older one stays in force.
    pub fn refused(&self) -> Option<Refused> {
        self.refused.load().as_deref().cloned()
    }

    /// Tells the metrics which pricebook is in force, and whether a newer one is refused.
    pub fn publish(&self, metrics: &Metrics) {
        let loaded = self.current();
        metrics.pricebook_loaded(loaded.book.digest(), loaded.loaded_at.timestamp());
        metrics.pricebook_refused(self.refused.load().is_some());
    }
}

/// At most one byte more than a pricebook may have, so that no dump fills memory; and only of
/// a file, since a pipe would keep us waiting.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file"));
    }
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What is not wrong with a pricebook in force, but should be looked at.
fn warn(path: &Path, diagnostics: &[Diagnostic]) {
    if !diagnostics.is_empty() {
        let (path, count) = (path.display(), diagnostics.len());
        tracing::warn!(%path, count, findings = lines("", diagnostics, MAX_LOGGED), "the pricebook has warnings");
    }
}

/// A line a finding, behind `prefix`, errors alone where there are any.
fn lines(prefix: &str, diagnostics: &[Diagnostic], limit: usize) -> String {
    let errors = diagnostics.iter().any(is_error);
    let told = || diagnostics.iter().filter(|d| !errors || is_error(d));
    let mut text = String::new();
    for diagnostic in told().take(limit) {
        let end = if text.is_empty() { "" } else { "\n" };
        // Writing to a string does not fail.
        write!(text, "{end}{prefix}{diagnostic}").ok();
    }
    if let Some(more) = told().count().checked_sub(limit).filter(|more| *more > 0) {
        write!(text, "\n… and {more} more; `rater validate` has all of them").ok();
    }
    text
}

fn is_error(diagnostic: &Diagnostic) -> bool {
    diagnostic.severity == DiagnosticSeverity::Error
}
