//! A table that is written a line a row as rows come, and never drawn again: its columns only
//! grow. Its headers stand above the first row alone.

use crate::cli::output::{is_number, printable};

/// Between two columns.
const GAP: &str = "  ";

/// The widths so far.
#[derive(Debug, Default)]
pub struct Lines {
    widths: Vec<usize>,
}

impl Lines {
    /// Some rows, each with its line's end. Numbers stand on the right.
    pub fn rows(&mut self, rows: &[Vec<String>]) -> String {
        let rows: Vec<Vec<(String, bool)>> = rows
            .iter()
            .map(|row| row.iter().map(|cell| (printable(cell), is_number(cell))).collect())
            .collect();
        for row in &rows {
            self.widths.resize(row.len().max(self.widths.len()), 0);
            for ((text, _), width) in row.iter().zip(&mut self.widths) {
                *width = text.chars().count().max(*width);
            }
        }
        rows.iter().map(|row| self.line(row)).collect()
    }

    fn line(&self, row: &[(String, bool)]) -> String {
        let mut line = String::new();
        for ((text, number), width) in row.iter().zip(&self.widths) {
            let blanks = " ".repeat(width - text.chars().count());
            match number {
                true => line.extend([&blanks, &**text, GAP]),
                false => line.extend([&**text, &blanks, GAP]),
            }
        }
        line.truncate(line.trim_end().len());
        line + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_only_grow_and_a_row_stays_one_line() {
        let mut lines = Lines::default();
        let mut rows = |rows: &[&[&str]]| {
            let rows: Vec<Vec<String>> =
                rows.iter().map(|row| row.iter().map(|cell| cell.to_string()).collect()).collect();
            lines.rows(&rows)
        };
        assert_eq!(rows(&[]), "");
        let first = rows(&[&["id", "cost", "last"], &["acme", "1", "x"]]);
        assert_eq!(first, "id    cost  last\nacme     1  x\n");
        assert_eq!(rows(&[&["a", "1", "x"]]), "a        1  x\n");
        assert_eq!(rows(&[&["a\n\u{1b}", "-0.0000125", ""]]), "a\\n\\u{1b}  -0.0000125\n");
        assert_eq!(rows(&[&["a", "1", "é"]]), "a                   1  é\n");
    }
}
