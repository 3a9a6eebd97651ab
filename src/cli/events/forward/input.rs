//! Files and standard input on their way into the spool. A line is never passed over in silence:
//! it is on the disk, as an event or as a dead letter, or it is named.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::cli::console::Console;
use crate::dead_letters::{Content, Refused};
use crate::forwarder::answers::{Bad, Group};
use crate::forwarder::lines::{GROUP_BYTES, Line, Lines};
use crate::forwarder::{AppendError, Forwarder, Word};

/// A line up to this is kept as a dead letter when it is no event.
const LONGEST_KEPT: usize = 1024 * 1024;
const READ_BYTES: usize = 64 * 1024;
/// Between two looks for room.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What is taken in.
pub enum Input {
    /// It is open.
    Open(File),
    /// A named pipe, which is there as long as it has a writer.
    Fifo(PathBuf),
}

/// It was told to stop.
struct Stopped;

/// Takes inputs in.
pub struct Taking<'a> {
    forwarder: &'a Forwarder,
    stop: &'a CancellationToken,
    complete: bool,
    /// Of the letters of this input, with the line.
    origin: String,
}

impl<'a> Taking<'a> {
    /// Into this forwarder, until it is told to stop.
    pub fn new(forwarder: &'a Forwarder, stop: &'a CancellationToken) -> Taking<'a> {
        Taking { forwarder, stop, complete: true, origin: String::new() }
    }

    /// Whether every line so far was an event, and was taken.
    pub fn complete(&self) -> bool {
        self.complete
    }

    /// Takes one in, up to its end.
    pub async fn take_in(&mut self, name: &str, input: Input) {
        // A file that is given again has the same lines in the same places; a pipe has not.
        self.origin = match &input {
            Input::Open(file) if file.metadata().is_ok_and(|meta| meta.is_file()) => name.to_owned(),
            _ => format!("{name} {}", uuid::Uuid::new_v4()),
        };
        let (mut chunks, mut lines) = (chunks(input), Lines::new(LONGEST_KEPT));
        loop {
            let group = lines.take();
            if !group.is_empty() {
                if self.take(name, group).await.is_err() {
                    return;
                }
                continue;
            }
            let chunk = tokio::select! {
                biased;
                () = self.stop.cancelled() => return self.stopped(name, None),
                chunk = chunks.recv() => chunk,
            };
            match chunk {
                Some(Ok(bytes)) => lines.push(&bytes),
                Some(Err(error)) => {
                    self.say(&format!(
                        "{name}: can't be read: {error}; what was read before is in the spool"
                    ));
                    return;
                }
                None => {
                    if let Some(last) = lines.rest() {
                        drop(self.take(name, vec![last]).await);
                    }
                    return;
                }
            }
            // What else is there goes with it.
            while lines.waiting() < GROUP_BYTES
                && let Ok(Ok(bytes)) = chunks.try_recv()
            {
                lines.push(&bytes);
            }
        }
    }

    /// Some lines, into the spool or the dead letters.
    async fn take(&mut self, name: &str, lines: Vec<Line>) -> Result<(), Stopped> {
        let from = lines.first().map(|line| line.number);
        let mut group = Group::of(lines);
        let bad = std::mem::take(&mut group.bad);
        let (mut pause, mut letters) = (FIRST_PAUSE, Vec::new());
        for Bad { number, text, error } in bad {
            match text {
                Some(text) => {
                    self.say(&format!("{name}:{number}: {error} (kept as a dead letter)"));
                    letters.push(self.letter(&text, name, number, &error));
                }
                None => self.say(&format!("{name}:{number}: {error}; this line was not taken")),
            }
        }
        while !letters.is_empty() {
            match self.forwarder.set_aside(letters.clone()).await {
                Ok(()) => break,
                Err(error) => {
                    tracing::error!(%error, "a line that is no event can't be set aside; trying again");
                    self.wait(name, from, &mut pause).await?;
                }
            }
        }
        pause = FIRST_PAUSE;
        let (mut payloads, mut numbers) = (&group.payloads[..], &group.numbers[..]);
        while let Err((taken, error)) = self.forwarder.take_some(payloads, group.timeless).await {
            (payloads, numbers) = (&payloads[taken..], &numbers[taken..]);
            if taken > 0 {
                pause = FIRST_PAUSE;
            }
            let from = numbers.first().copied();
            match error.word() {
                // The forwarder says so in its log, once.
                Word::SpoolFull | Word::DiskFull | Word::SpoolFailed => {
                    self.wait(name, from, &mut pause).await?;
                }
                _ => {
                    let from = from.unwrap_or_default();
                    self.say(&format!("{name}:{from}: {error}; from this line on nothing was taken"));
                    return Err(Stopped);
                }
            }
        }
        Ok(())
    }

    fn letter(&self, text: &[u8], name: &str, number: u64, error: &AppendError) -> Refused {
        Refused {
            content: Content::of_line(text),
            code: "INVALID_ARGUMENT".into(),
            field: String::new(),
            reason: error.word().as_str().into(),
            message: format!("{name}:{number}: {error}"),
            spooled_at: None,
            origin: Some(format!("{}:{number}", self.origin)),
        }
    }

    async fn wait(&mut self, name: &str, line: Option<u64>, pause: &mut Duration) -> Result<(), Stopped> {
        tokio::select! {
            () = self.stop.cancelled() => {
                self.stopped(name, line);
                return Err(Stopped);
            }
            () = tokio::time::sleep(*pause) => {}
        }
        *pause = (*pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }

    fn stopped(&mut self, name: &str, line: Option<u64>) {
        let place = line.map(|line| format!(" at line {line}")).unwrap_or_default();
        self.say(&format!(
            "{name}: stopped{place}; what was not taken follows there: give the file again, what is stored counts as \
             duplicates then"
        ));
    }

    /// Something that keeps the input from being complete.
    fn say(&mut self, line: &str) {
        self.complete = false;
        Console::standard().say_plain(line);
    }
}

/// What is read, as it comes. A thread of its own: one that waits for a silent pipe, or for somebody
/// to open the other end, must not keep the process from ending.
fn chunks(input: Input) -> mpsc::Receiver<io::Result<Vec<u8>>> {
    let (sender, receiver) = mpsc::channel(4);
    std::thread::spawn(move || {
        let opened = match input {
            Input::Open(file) => Ok(file),
            Input::Fifo(path) => File::open(path),
        };
        let mut file = match opened {
            Ok(file) => file,
            Err(error) => return drop(sender.blocking_send(Err(error))),
        };
        loop {
            let mut buffer = vec![0; READ_BYTES];
            let chunk = match file.read(&mut buffer) {
                Ok(0) => return,
                Ok(read) => {
                    buffer.truncate(read);
                    Ok(buffer)
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let failed = chunk.is_err();
            if sender.blocking_send(chunk).is_err() || failed {
                return;
            }
        }
    });
    receiver
}
