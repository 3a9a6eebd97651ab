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
    /// One row, with its line's end. Numbers stand on the right.
    pub fn row(&mut self, cells: &[String]) -> String {
        self.widths.resize(cells.len().max(self.widths.len()), 0);
        let mut line = String::new();
        for (cell, width) in cells.iter().zip(&mut self.widths) {
            let text = printable(cell);
            let long = text.chars().count();
            *width = long.max(*width);
            let blanks = " ".repeat(*width - long);
            match is_number(cell) {
                true => line.extend([&blanks, &*text, GAP]),
                false => line.extend([&*text, &blanks, GAP]),
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
        let mut row =
            |cells: &[&str]| lines.row(&cells.iter().map(|cell| cell.to_string()).collect::<Vec<_>>());
        assert_eq!(row(&["auth_id", "cost", "last"]), "auth_id  cost  last\n");
        assert_eq!(row(&["a", "1", "x"]), "a           1  x\n");
        assert_eq!(row(&["acme\n\u{1b}", "-0.0000125", ""]), "acme\\n\\u{1b}  -0.0000125\n");
        assert_eq!(row(&["a", "1", "é"]), "a                      1  é\n");
    }
}
