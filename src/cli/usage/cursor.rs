//! A cursor that is kept in a file, for who goes on from it.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::PathBuf;

use crate::cli::rows::file::{WholeFile, replace};

/// Longer than any cursor.
const LONGEST: u64 = 4_096;

/// Where a cursor is kept. It is there whole, the last or the one before, whenever the process
/// ends.
#[derive(Debug)]
pub struct CursorFile {
    /// As it was asked for.
    option: &'static str,
    path: PathBuf,
    /// What it holds, as far as is known here.
    cursor: Option<String>,
}

impl CursorFile {
    /// One that can be written, as far as that can be known before.
    pub fn at(option: &'static str, path: PathBuf) -> Result<CursorFile, String> {
        let file = CursorFile { option, path, cursor: None };
        WholeFile::begin(&file.path).map_err(|error| file.failed(&error.to_string()))?;
        Ok(file)
    }

    /// The cursor in it; none where there is no file. What is no cursor is refused: to begin at the
    /// first change instead would be a guess.
    pub fn read(&mut self) -> Result<Option<String>, String> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.failed(&error.to_string())),
        };
        let mut text = String::new();
        file.take(LONGEST).read_to_string(&mut text).map_err(|error| self.failed(&error.to_string()))?;
        let cursor = text.trim();
        if cursor.is_empty() || cursor.contains(char::is_whitespace) || text.len() as u64 == LONGEST {
            return Err(self.failed("holds no cursor; without the file it begins at the first change"));
        }
        self.cursor = Some(cursor.into());
        Ok(self.cursor.clone())
    }

    /// Keeps this one from now on.
    pub fn note(&mut self, cursor: &str) -> Result<(), String> {
        if cursor.is_empty() || self.cursor.as_deref() == Some(cursor) {
            return Ok(());
        }
        replace(&self.path, &format!("{cursor}\n")).map_err(|error| self.failed(&error.to_string()))?;
        self.cursor = Some(cursor.into());
        Ok(())
    }

    fn failed(&self, error: &str) -> String {
        format!("{} {}: {error}", self.option, self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_kept_until_the_next() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("cursor");
        let file = || CursorFile::at("--cursor-file", path.clone()).expect("a place");
        assert_eq!(file().read(), Ok(None));
        let mut noting = file();
        for cursor in ["a", "b", "b", ""] {
            noting.note(cursor).expect("kept");
        }
        assert_eq!(file().read(), Ok(Some("b".into())));
        assert_eq!(std::fs::read_dir(dir.path()).expect("there").count(), 1);
    }

    #[test]
    fn what_is_no_cursor_is_refused_in_one_line() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("cursor");
        for text in ["", "\n", "a b", "a\nb", &"x".repeat(10_000)] {
            std::fs::write(&path, text).expect("written");
            let error = CursorFile::at("--cursor-file", path.clone()).expect("a place").read();
            let error = error.expect_err("refused");
            assert!(error.contains("--cursor-file") && error.lines().count() == 1, "{error}");
        }
        let nowhere = CursorFile::at("--cursor-file", dir.path().join("no/cursor")).expect_err("refused");
        assert!(nowhere.starts_with("--cursor-file "), "{nowhere}");
    }
}
