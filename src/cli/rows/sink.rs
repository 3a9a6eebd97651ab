//! Where rows are written as they come.

use std::fmt;
use std::io::Write;
use std::path::PathBuf;

use prost::Message;

use super::file::WholeFile;
use super::lines::Lines;
use super::options::Target;
use super::parquet::ParquetFile;
use super::{Rows, Shown};
use crate::cli::console::{Console, Reader};
use crate::cli::output::{Format, page};

/// Takes rows.
pub struct Sink<'r, M> {
    rows: &'r Rows<M>,
    to: To,
    count: u64,
}

enum To {
    Screen(Text),
    File(WholeFile, Text),
    Parquet(Box<ParquetFile>),
}

/// A file that is there now.
#[derive(Debug, PartialEq, Eq)]
pub struct Written {
    rows: u64,
    path: PathBuf,
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "wrote {} rows to {}", self.rows, self.path.display())
    }
}

impl<'r, M: Message> Sink<'r, M> {
    /// Rows to `target`. A table on standard output is drawn page by page, each with its headers.
    pub fn pages(rows: &'r Rows<M>, target: Target) -> Result<Sink<'r, M>, String> {
        Sink::new(rows, target, false)
    }

    /// The same, but a table is a line a row, as rows come, with its headers once.
    pub fn lines(rows: &'r Rows<M>, target: Target) -> Result<Sink<'r, M>, String> {
        Sink::new(rows, target, true)
    }

    fn new(rows: &'r Rows<M>, target: Target, lines: bool) -> Result<Sink<'r, M>, String> {
        let to = match target {
            Target::Screen(format) => To::Screen(Text::new(format, lines)),
            // Nobody wants headers in the middle of a file.
            Target::Text(file, format) => To::File(file, Text::new(format, true)),
            Target::Parquet(file) => To::Parquet(Box::new(ParquetFile::begin(rows, file)?)),
        };
        Ok(Sink { rows, to, count: 0 })
    }

    /// Writes these now, or, in Parquet, with those that stand in a group with them. Headers come
    /// before the first, also when there is none.
    pub fn put(&mut self, messages: &[M], console: &mut Console<'_>) -> Result<Reader, String> {
        match &mut self.to {
            To::Screen(text) => return console.print(&text.of(self.rows, messages)?),
            To::File(file, text) => {
                let text = text.of(self.rows, messages)?;
                file.write_all(text.as_bytes()).map_err(|error| failed(file, &error.to_string()))?;
            }
            To::Parquet(file) => file.put(self.rows, messages)?,
        }
        self.count += u64::try_from(messages.len()).unwrap_or(u64::MAX);
        Ok(Reader::There)
    }

    /// Puts a file in its place, and tells which.
    pub fn finish(self) -> Result<Option<Written>, String> {
        let file = match self.to {
            To::Screen(_) => return Ok(None),
            To::File(file, _) => file,
            To::Parquet(parquet) => parquet.finish()?,
        };
        let path = file.path().to_path_buf();
        file.finish().map_err(|error| format!("can't write {}: {error}", path.display()))?;
        Ok(Some(Written { rows: self.count, path }))
    }
}

/// What is told of a file that can't be written.
pub(super) fn failed(file: &WholeFile, error: &str) -> String {
    format!("can't write {}: {error}", file.path().display())
}

/// Rows as text.
struct Text {
    format: Format,
    lines: Option<Lines>,
    first: bool,
}

impl Text {
    fn new(format: Format, lines: bool) -> Text {
        Text { format, lines: (lines && format == Format::Table).then(Lines::default), first: true }
    }

    fn of<M: Message>(&mut self, rows: &Rows<M>, messages: &[M]) -> Result<String, String> {
        let first = std::mem::take(&mut self.first);
        let shown = match self.format {
            Format::Csv => Shown::Csv,
            Format::Table | Format::Json => Shown::Table,
        };
        let headers = rows.headers(shown);
        let Some(lines) = &mut self.lines else {
            let cells = |message: &M| rows.cells(message, shown);
            return page(self.format, rows.full_name, &headers, messages, cells, first);
        };
        let headers = headers.into_iter().map(str::to_owned).collect();
        let cells = messages.iter().map(|message| rows.cells(message, shown));
        Ok(lines.rows(&first.then_some(headers).into_iter().chain(cells).collect::<Vec<_>>()))
    }
}
