//! Bytes cut into lines, however they come in. A line past the limit is told once and skipped
//! to its end, so that what is in memory stays bounded.

/// A group has at most so many lines, and ends with the line that takes it past so many bytes.
pub const GROUP_LINES: usize = 1_000;
/// See [`GROUP_LINES`].
pub const GROUP_BYTES: usize = 1024 * 1024;

/// A line of the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// From 1.
    pub number: u64,
    /// Without its end (`\n` or `\r\n`); none when it is longer than the limit.
    pub text: Option<Vec<u8>>,
}

/// The input so far, less the lines that were taken.
#[derive(Debug)]
pub struct Lines {
    limit: usize,
    buffer: Vec<u8>,
    /// No line ends before this place in the buffer.
    looked: usize,
    /// The number of the line that the buffer begins with.
    number: u64,
    /// That line was told to be too long, and goes on.
    skipping: bool,
}

impl Lines {
    /// Lines of at most `limit` bytes.
    pub fn new(limit: usize) -> Lines {
        Lines { limit, buffer: Vec::new(), looked: 0, number: 1, skipping: false }
    }

    /// More of the input.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The bytes that wait here.
    pub fn waiting(&self) -> usize {
        self.buffer.len()
    }

    /// The next whole lines, as many as make a group; none when more of the input is needed.
    pub fn take(&mut self) -> Vec<Line> {
        let (mut lines, mut bytes, mut start) = (Vec::new(), 0, 0);
        while lines.len() < GROUP_LINES && bytes < GROUP_BYTES {
            let from = self.looked.max(start);
            let Some(end) = self.buffer[from..].iter().position(|byte| *byte == b'\n') else {
                self.looked = self.buffer.len();
                break;
            };
            let line = &self.buffer[start..from + end];
            start = from + end + 1;
            self.looked = start;
            if !self.skipping {
                bytes += line.len();
                lines.push(line_of(self.number, line, self.limit));
            }
            self.skipping = false;
            self.number += 1;
        }
        self.forget(start);
        if self.skipping {
            self.forget(self.buffer.len());
        } else if self.looked == self.buffer.len() && self.buffer.len() > self.limit + 1 {
            // Even `\r\n` could not make it short enough any more.
            lines.push(Line { number: self.number, text: None });
            self.skipping = true;
            self.forget(self.buffer.len());
        }
        lines
    }

    /// At the end of the input: its last line, when it has no end.
    pub fn rest(&mut self) -> Option<Line> {
        let rest = std::mem::take(&mut self.buffer);
        self.looked = 0;
        (!self.skipping && !rest.is_empty()).then(|| line_of(self.number, &rest, self.limit))
    }

    fn forget(&mut self, bytes: usize) {
        self.buffer.drain(..bytes);
        self.looked -= bytes.min(self.looked);
        // A long line must not keep its memory while the connection idles.
        if self.buffer.is_empty() && self.buffer.capacity() > GROUP_BYTES / 8 {
            self.buffer = Vec::new();
        }
    }
}

fn line_of(number: u64, line: &[u8], limit: usize) -> Line {
    let text = line.strip_suffix(b"\r").unwrap_or(line);
    Line { number, text: (text.len() <= limit).then(|| text.to_vec()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Every line of `input`, which comes in pieces of these sizes, again and again.
    fn read(input: &[u8], limit: usize, pieces: &[usize]) -> Vec<Line> {
        let (mut lines, mut found, mut rest) = (Lines::new(limit), Vec::new(), input);
        for size in pieces.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, after) = rest.split_at((*size).clamp(1, rest.len()));
            rest = after;
            lines.push(piece);
            loop {
                let group = lines.take();
                if group.is_empty() {
                    break;
                }
                found.extend(group);
            }
            assert!(lines.waiting() <= limit + 1 + piece.len());
        }
        found.extend(lines.rest());
        found
    }

    fn line(number: u64, text: &str) -> Line {
        Line { number, text: Some(text.into()) }
    }

    #[test]
    fn lines_end_with_or_without_a_carriage_return_and_the_last_one_with_nothing() {
        let expected = [line(1, "a"), line(2, ""), line(3, "b"), line(4, "c")];
        for pieces in [1, 2, 3, 100] {
            assert_eq!(read(b"a\n\nb\r\nc", 10, &[pieces]), expected);
        }
        assert!(read(b"", 10, &[1]).is_empty());
    }

    #[test]
    fn a_line_of_exactly_the_limit_is_taken_and_a_longer_one_told_once() {
        for pieces in [1, 4, 5, 6, 100] {
            let long = Line { number: 2, text: None };
            let expected = [line(1, "12345"), long.clone(), line(3, "54321"), line(4, "x")];
            assert_eq!(read(b"12345\n123456\n54321\r\nx", 5, &[pieces]), expected);
            assert_eq!(read(b"a\n1234567890", 5, &[pieces]), [line(1, "a"), long]);
        }
    }

    #[test]
    fn a_group_has_at_most_a_thousand_lines() {
        let mut lines = Lines::new(100);
        lines.push("{}\n".repeat(2_500).as_bytes());
        let sizes: Vec<usize> = (0..4).map(|_| lines.take().len()).collect();
        assert_eq!(sizes, [1_000, 1_000, 500, 0]);
        let mut lines = Lines::new(GROUP_BYTES);
        lines.push(format!("{}\n", "x".repeat(GROUP_BYTES / 2)).repeat(4).as_bytes());
        assert_eq!([lines.take().len(), lines.take().len()], [2, 2]);
    }

    proptest! {
        #[test]
        fn whatever_comes_in_whichever_pieces_gives_the_same_lines(
            input in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), Just(b'x'), any::<u8>()], 0..200),
            limit in 1_usize..20,
            pieces in proptest::collection::vec(1_usize..40, 1..10),
        ) {
            prop_assert_eq!(read(&input, limit, &pieces), read(&input, limit, &[input.len().max(1)]));
        }
    }
}
