//! What is wrong with a file, and where: places, paths, and a report that collects every
//! finding without letting a hostile file make it explode.
//!
//! An error is never lost: beyond [`MAX_DIAGNOSTICS`] findings are still counted, and the
//! last one reported says how many were left out and whether errors are among them.

use std::fmt;

/// The most diagnostics that one check reports.
pub const MAX_DIAGNOSTICS: usize = 1_000;

/// How much of a text from the file a message or a path repeats, in characters.
const MAX_SHOWN: usize = 255;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DiagnosticSeverity {
    /// The file is usable; this should be looked at.
    Warning,
    /// The file is refused.
    Error,
}

impl fmt::Display for DiagnosticSeverity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DiagnosticSeverity::Warning => "warning",
            DiagnosticSeverity::Error => "error",
        })
    }
}

/// One finding: what is wrong, where, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: DiagnosticSeverity,
    /// Stable, for programs: `derived_rate_rounds_to_zero`.
    pub code: &'static str,
    /// For a person.
    pub message: String,
    /// Where in the document: `base_models."acme/large"[1].cached`; empty for the whole.
    pub path: String,
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
}

/// `LINE:COLUMN: severity: message [code]`, to stand behind a file's name and a colon.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Diagnostic { severity, code, message, line, column, .. } = self;
        write!(f, "{line}:{column}: {severity}: {message} [{code}]")
    }
}

/// A place in the text: line and column, both from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub line: u32,
    pub column: u32,
}

impl Place {
    pub const START: Place = Place { line: 1, column: 1 };

    /// The place right behind `text`, for what the YAML scanner never gets to see.
    pub fn after(text: &str) -> Place {
        let lines = text.bytes().filter(|b| *b == b'\n').count();
        let last = text.rsplit('\n').next().unwrap_or(text);
        Place { line: count(lines + 1), column: count(last.chars().count() + 1) }
    }
}

/// A count as the contract's 32 bits; a file's own limits keep it far below.
pub(crate) fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// The way to a node, linked from the child up, so that walking costs no allocation.
#[derive(Clone, Copy)]
pub(crate) enum Path<'p> {
    Root,
    Key(&'p Path<'p>, &'p str),
    Index(&'p Path<'p>, usize),
}

impl<'p> Path<'p> {
    pub fn key(&'p self, key: &'p str) -> Path<'p> {
        Path::Key(self, key)
    }

    pub fn index(&'p self, index: usize) -> Path<'p> {
        Path::Index(self, index)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (parent, key) = match self {
            Path::Root => return Ok(()),
            Path::Index(parent, index) => return write!(f, "{parent}[{index}]"),
            Path::Key(parent, key) => (parent, key),
        };
        if !matches!(parent, Path::Root) {
            write!(f, "{parent}.")?;
        }
        // As jq writes paths: bare where that is unambiguous, else quoted.
        let bare = !key.is_empty()
            && key.len() <= MAX_SHOWN
            && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && !key.as_bytes()[0].is_ascii_digit();
        match bare {
            true => f.write_str(key),
            false => write!(f, "{}", Shown(key)),
        }
    }
}

/// A text from the file, quoted, on one line, and cut where it is long.
pub(crate) struct Shown<'a>(pub &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.char_indices().nth(MAX_SHOWN) {
            None => write!(f, "{:?}", self.0),
            Some((cut, _)) => write!(f, "{:?}…", &self.0[..cut]),
        }
    }
}

/// Collects findings up to [`MAX_DIAGNOSTICS`] of each severity, and counts the others.
#[derive(Default)]
pub(crate) struct Report {
    errors: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
    errors_seen: usize,
    warnings_seen: usize,
}

impl Report {
    /// Adds an error. The message is only formatted when there is room for it.
    pub fn error(&mut self, code: &'static str, at: Place, path: &Path<'_>, message: impl fmt::Display) {
        self.errors_seen += 1;
        if self.errors.len() < MAX_DIAGNOSTICS {
            self.errors.push(diagnostic(DiagnosticSeverity::Error, code, at, path, message));
        }
    }

    /// Adds the error that ends the reading. It is always shown: it is why nothing follows.
    pub fn stop(&mut self, code: &'static str, at: Place, path: &Path<'_>, message: impl fmt::Display) {
        self.errors.truncate(MAX_DIAGNOSTICS - 1);
        self.error(code, at, path, message);
    }

    /// Adds a warning, like [`Report::error`].
    pub fn warning(&mut self, code: &'static str, at: Place, path: &Path<'_>, message: impl fmt::Display) {
        self.warnings_seen += 1;
        if self.warnings.len() < MAX_DIAGNOSTICS {
            self.warnings.push(diagnostic(DiagnosticSeverity::Warning, code, at, path, message));
        }
    }

    /// Whether the file is refused.
    pub fn has_errors(&self) -> bool {
        self.errors_seen > 0
    }

    /// Everything found, by place; errors take the room before warnings do.
    pub fn finish(self) -> Vec<Diagnostic> {
        let seen = self.errors_seen + self.warnings_seen;
        let mut all = self.errors;
        all.extend(self.warnings.into_iter().take(MAX_DIAGNOSTICS - all.len()));
        let (errors, shown) =
            (all.iter().filter(|d| d.severity == DiagnosticSeverity::Error).count(), all.len());
        all.sort_by(|a, b| (a.line, a.column, a.code, &a.path).cmp(&(b.line, b.column, b.code, &b.path)));
        if seen > shown {
            let (left_out, left_errors) = (seen - shown, self.errors_seen - errors);
            let severity =
                if left_errors > 0 { DiagnosticSeverity::Error } else { DiagnosticSeverity::Warning };
            let last = all.last().map_or(Place::START, |d| Place { line: d.line, column: d.column });
            let message =
                format_args!("{left_out} more findings were left out, {left_errors} of them errors");
            all.push(diagnostic(severity, "too_many_diagnostics", last, &Path::Root, message));
        }
        all
    }
}

fn diagnostic(
    severity: DiagnosticSeverity,
    code: &'static str,
    at: Place,
    path: &Path<'_>,
    message: impl fmt::Display,
) -> Diagnostic {
    Diagnostic {
        severity,
        code,
        message: message.to_string(),
        path: path.to_string(),
        line: at.line,
        column: at.column,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_quote_what_is_not_an_identifier() {
        let root = Path::Root;
        let models = root.key("base_models");
        let model = models.key("acme/large");
        let entry = model.index(1);
        assert_eq!(entry.key("cached").to_string(), r#"base_models."acme/large"[1].cached"#);
        assert_eq!(models.key("a\"b\n").to_string(), r#"base_models."a\"b\n""#);
        assert_eq!(models.key("").to_string(), r#"base_models."""#);
        assert_eq!(root.to_string(), "");
    }

    #[test]
    fn long_texts_are_cut() {
        let path = Path::Root;
        let long = "é".repeat(1 << 20);
        assert!(path.key(&long).to_string().len() < 1_000);
    }

    #[test]
    fn an_error_behind_a_thousand_warnings_is_still_shown() {
        let mut report = Report::default();
        for _ in 0..MAX_DIAGNOSTICS + 5 {
            report.warning("w", Place::START, &Path::Root, "w");
        }
        report.error("e", Place { line: 9, column: 1 }, &Path::Root, "e");
        let all = report.finish();
        assert_eq!(all.len(), MAX_DIAGNOSTICS + 1);
        assert_eq!(all[MAX_DIAGNOSTICS - 1].code, "e");
        let last = &all[MAX_DIAGNOSTICS];
        assert_eq!((last.code, last.severity), ("too_many_diagnostics", DiagnosticSeverity::Warning));
        assert_eq!(last.message, "6 more findings were left out, 0 of them errors");
        assert_eq!((last.line, last.column), (9, 1));
    }

    #[test]
    fn errors_left_out_still_refuse() {
        let mut report = Report::default();
        for _ in 0..MAX_DIAGNOSTICS + 5 {
            report.error("e", Place::START, &Path::Root, "e");
        }
        assert!(report.has_errors());
        let all = report.finish();
        assert_eq!(
            all.last().map(|d| (d.code, d.severity)),
            Some(("too_many_diagnostics", DiagnosticSeverity::Error))
        );
    }

    #[test]
    fn places_count_characters() {
        assert_eq!(Place::after(""), Place::START);
        assert_eq!(Place::after("é\nüb"), Place { line: 2, column: 3 });
    }
}
