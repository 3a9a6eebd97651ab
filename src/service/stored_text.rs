//! Text that is stored with a run has a limit, and what passes it is cut, never in silence.

use crate::domain::text::cut;

/// What of `text` is stored: at most `limit` bytes of whole characters. A longer one is one
/// WARN with the run, `what` it is, its length and the limit; not its words, which may be a
/// customer's.
pub fn stored<'t>(text: &'t str, limit: usize, what: &'static str, run_id: &str) -> &'t str {
    let kept = cut(text, limit);
    if kept.len() < text.len() {
        tracing::warn!(run_id, what, length = text.len(), limit, "a text was cut to be stored");
    }
    kept
}

#[cfg(test)]
mod tests {
    use std::io::{self, Seek};
    use std::sync::Arc;

    use super::*;

    /// What it keeps of a text, and the log.
    fn kept(text: &str, limit: usize) -> (String, String) {
        let log = Arc::new(tempfile::tempfile().expect("a file"));
        let to = tracing_subscriber::fmt().json().flatten_event(true).with_writer(log.clone()).finish();
        let kept = tracing::subscriber::with_default(to, || stored(text, limit, "reason", "run-1"));
        (&*log).rewind().expect("a file");
        (kept.to_owned(), io::read_to_string(&*log).expect("text"))
    }

    #[test]
    fn a_text_is_cut_to_its_limit_never_in_silence() {
        let (kept, log) = kept("late price fix", 4);
        assert_eq!(kept, "late");
        let line: serde_json::Value = serde_json::from_str(&log).expect("one JSON line");
        assert_eq!((&line["level"], &line["run_id"]), (&"WARN".into(), &"run-1".into()));
        assert_eq!(
            (&line["what"], &line["length"], &line["limit"]),
            (&"reason".into(), &14.into(), &4.into())
        );
        assert!(!log.contains("price"), "{log}");
    }

    #[test]
    fn a_text_within_its_limit_is_no_event() {
        assert_eq!(kept("late", 4), ("late".into(), String::new()));
    }
}
