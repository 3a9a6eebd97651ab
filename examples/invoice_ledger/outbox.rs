//! Where requests go: here into a file, which stands in for the invoicing API. The one place that a
//! reader replaces by POSTs.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use serde_json::Value;

/// Which request of the API it is.
#[derive(Debug, Clone, Copy, serde::Serialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Channel {
    Meter,
    InvoiceItem,
}

/// A request as it is sent, every time.
#[derive(Debug, serde::Serialize, sqlx::FromRow)]
pub struct Delivery {
    #[serde(skip)]
    pub seq: i64,
    /// A meter event's identifier, an invoice item's idempotency key.
    pub id: String,
    pub channel: Channel,
    pub body: sqlx::types::Json<Value>,
}

/// What the API said to a request.
#[derive(Debug)]
pub enum Answer {
    /// It has it, from now on or from an earlier try.
    Arrived,
    /// It does not have it, and never takes it as it is.
    Refused(String),
    /// It may have it: to be sent again.
    Unknown,
}

#[derive(Debug, clap::Args)]
pub struct OutboxOptions {
    /// Where the requests go, one a line: a file, or - for standard output
    #[arg(long, env = "LEDGER_OUTBOX", value_name = "FILE")]
    pub to: PathBuf,
    /// To try it: requests that hold this text are refused
    #[arg(long, env = "LEDGER_REFUSE", value_name = "TEXT")]
    refuse: Option<String>,
    /// To try it: the answer to requests that hold this text is lost
    #[arg(long, env = "LEDGER_LOSE", value_name = "TEXT")]
    lose: Option<String>,
}

pub struct Outbox<'a> {
    options: &'a OutboxOptions,
    to: To,
}

enum To {
    File(File),
    Standard(io::Stdout),
}

impl OutboxOptions {
    /// A line that a killed process left torn is ended: nobody confirmed it, and it is sent again.
    pub fn open(&self) -> io::Result<Outbox<'_>> {
        if self.to.to_str() == Some("-") {
            return Ok(Outbox { options: self, to: To::Standard(io::stdout()) });
        }
        let mut file = OpenOptions::new().create(true).append(true).open(&self.to)?;
        if file.metadata()?.len() > 0 {
            let (mut written, mut last) = (File::open(&self.to)?, [0]);
            written.seek(SeekFrom::End(-1))?;
            written.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
            }
        }
        Ok(Outbox { options: self, to: To::File(file) })
    }
}

impl Outbox<'_> {
    /// Replace this by the POSTs. It answers each request, in their order; an error says that the
    /// API is away, and no more than that of any of them.
    pub fn send(&mut self, batch: &[Delivery]) -> io::Result<Vec<Answer>> {
        let (mut text, mut answers) = (String::new(), Vec::new());
        for delivery in batch {
            let request = serde_json::to_string(delivery)?;
            let holds = |text: &Option<String>| text.as_ref().is_some_and(|text| request.contains(text));
            let answer = match () {
                () if holds(&self.options.refuse) => Answer::Refused("--refuse".into()),
                () if holds(&self.options.lose) => Answer::Unknown,
                () => Answer::Arrived,
            };
            if !matches!(answer, Answer::Refused(_)) {
                text.extend([&request, "\n"]);
            }
            answers.push(answer);
        }
        match &mut self.to {
            To::File(file) => file.write_all(text.as_bytes()).and_then(|()| file.sync_data())?,
            To::Standard(out) => out.write_all(text.as_bytes()).and_then(|()| out.flush())?,
        }
        Ok(answers)
    }
}
