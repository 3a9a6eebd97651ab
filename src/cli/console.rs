//! Standard output and standard error, as a command writes to them. A reader that has gone away
//! is no failure and never a panic: whoever it was has had enough, and the exit code still tells.

use std::fmt;
use std::io::{self, ErrorKind, IsTerminal, Write};

use super::output::printable;

/// Whether anyone still reads the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// It was written.
    There,
    /// The pipe is closed.
    Gone,
}

/// Where a command writes: its result on one side, everything else on the other.
pub struct Console<'c> {
    out: Box<dyn Write + 'c>,
    err: Box<dyn Write + 'c>,
    /// Standard error is a terminal.
    terminal: bool,
}

impl fmt::Debug for Console<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console").finish_non_exhaustive()
    }
}

impl<'c> Console<'c> {
    /// The process's own.
    pub fn standard() -> Console<'static> {
        let terminal = io::stderr().is_terminal();
        Console { terminal, ..Console::to(io::stdout(), io::stderr()) }
    }

    /// A result to `out`, and everything else to `err`.
    pub fn to(out: impl Write + 'c, err: impl Write + 'c) -> Console<'c> {
        Console { out: Box::new(out), err: Box::new(err), terminal: false }
    }

    /// Whether a person watches standard error.
    pub fn watched(&self) -> bool {
        self.terminal
    }

    /// Writes some of the result, now. An error is one line.
    pub fn print(&mut self, text: &str) -> Result<Reader, String> {
        match self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()) {
            Ok(()) => Ok(Reader::There),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Reader::Gone),
            Err(error) => Err(format!("can't write the result: {error}")),
        }
    }

    /// One line on standard error, with the program's name.
    pub fn say(&mut self, line: &str) {
        self.say_plain(&format!("rater: {line}"));
    }

    /// One line on standard error as it is, such as `FILE:LINE: what`.
    pub fn say_plain(&mut self, line: &str) {
        drop(writeln!(self.err, "{}", printable(line)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails every write.
    struct Broken(ErrorKind);

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Err(self.0.into())
        }
    }

    #[test]
    fn a_closed_pipe_is_a_reader_that_has_gone_and_no_failure() {
        let mut console = Console::to(Broken(ErrorKind::BrokenPipe), Broken(ErrorKind::BrokenPipe));
        assert_eq!(console.print("SERVING\n"), Ok(Reader::Gone));
        console.say("nobody hears it");
        let mut full = Console::to(Broken(ErrorKind::StorageFull), io::sink());
        assert!(full.print("x").expect_err("a full disk").starts_with("can't write the result: "));
    }

    #[test]
    fn a_line_stays_one_line() {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut console = Console::to(&mut out, &mut err);
        assert_eq!(console.print("{}\n"), Ok(Reader::There));
        console.say("a\nb");
        console.say_plain("f:1: \u{1b}[31m");
        drop(console);
        assert_eq!(String::from_utf8(out).as_deref(), Ok("{}\n"));
        assert_eq!(String::from_utf8(err).as_deref(), Ok("rater: a\\nb\nf:1: \\u{1b}[31m\n"));
    }
}
