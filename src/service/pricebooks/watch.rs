//! Notices that the pricebook's file has changed, by what is in it: an editor that renames, a
//! ConfigMap whose link is swapped and a plain write all look alike, and no clock or inode
//! has to be trusted.
//!
//! A new content counts once it was read twice in a row. The first half of a pricebook is
//! often a valid pricebook, with models missing; a file that is gone for a moment while it is
//! replaced is no reason to call anybody.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{Loaded, MAX_LOGGED, Pricebooks, Refused, is_error, lines, read, warn};
use crate::domain::pricebook::{self, Diagnostic, Pricebook};

const POLL: Duration = Duration::from_secs(1);
/// How long a content must stand before it counts.
const SETTLES: Duration = Duration::from_millis(300);

/// What a look at the file found: its bytes, or why there are none.
type Content = Result<Vec<u8>, String>;

impl Pricebooks {
    /// Follows the file until it is told to stop. `on_change` is called after each change of
    /// [`Pricebooks::current`] or [`Pricebooks::refused`].
    pub async fn watch(self: Arc<Self>, stop: CancellationToken, on_change: impl Fn(&Pricebooks) + Send) {
        stop.run_until_cancelled(self.follow(on_change)).await;
    }

    async fn follow(&self, on_change: impl Fn(&Pricebooks) + Send) {
        // What was acted on last, good or bad: the same is not said twice.
        let mut known: Content = Ok(self.current().book.yaml().into());
        loop {
            sleep(POLL).await;
            let found = self.look().await;
            if found == known {
                continue;
            }
            sleep(SETTLES).await;
            if self.look().await == found {
                known = found.clone();
                self.take(found).await;
                on_change(self);
            }
        }
    }

    async fn look(&self) -> Content {
        let path = self.path.clone();
        let read = move || read(&path).map_err(|error| format!("it can't be read: {error}"));
        blocking(spawn_blocking(read).await)
    }

    /// Acts on a content that is not the last one.
    async fn take(&self, content: Content) {
        let bytes = match content {
            Ok(bytes) => bytes,
            Err(why) => return self.refuse(std::slice::from_ref(&why), &why),
        };
        let Ok(parsed) = spawn_blocking(move || pricebook::parse_bytes(&bytes)).await else {
            // A defect of ours; the watch must outlive it.
            let why = "it can't be checked: the check panicked".to_owned();
            return self.refuse(std::slice::from_ref(&why), &why);
        };
        match parsed.book {
            Some(book) => self.exchange(book, &parsed.diagnostics),
            None => {
                let errors = parsed.diagnostics.iter().filter(|d| is_error(d));
                let errors: Vec<String> = errors.map(Diagnostic::to_string).collect();
                self.refuse(&errors, &lines("", &parsed.diagnostics, MAX_LOGGED));
            }
        }
    }

    /// Puts a new text into force. One that prices as before is no news.
    fn exchange(&self, book: Pricebook, warnings: &[Diagnostic]) {
        let previous = self.current();
        let path: &Path = &self.path;
        let (digest, before) = (book.digest().to_owned(), previous.book.digest());
        let changed_rates = previous.book.changes_to(&book).len();
        self.loaded.store(Arc::new(Loaded { book: Arc::new(book), loaded_at: Utc::now() }));
        let recovered = self.refused.swap(None).is_some();
        let path = path.display();
        if digest != before {
            tracing::info!(%path, digest, previous_digest = before, changed_rates, recovered, "pricebook loaded");
            warn(&self.path, warnings);
        } else if recovered {
            tracing::info!(%path, digest, "the pricebook file is good again; it prices as before");
        } else {
            tracing::debug!(%path, digest, "the pricebook's text changed, and none of its prices");
        }
    }

    fn refuse(&self, errors: &[String], findings: &str) {
        let first_line = errors.first().cloned().unwrap_or_default();
        self.refused.store(Some(Arc::new(Refused { at: Utc::now(), first_line })));
        let (path, digest) = (self.path.display(), self.current().book.digest().to_owned());
        tracing::error!(
            %path, digest, count = errors.len(), findings,
            "the new pricebook is refused; the loaded one stays in force"
        );
    }
}

/// The result of work that takes a thread. It only fails by a panic, which goes on here.
pub(super) fn blocking<T>(done: Result<T, JoinError>) -> T {
    match done {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
