//! `rater events forward`: the sender as a process, beside a proxy or in a batch job. What it
//! does is [`crate::forwarder`]; here are its options, its inputs and its end.

mod input;

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::input::{Input, Taking};
use super::json_object;
use crate::admin;
use crate::cli::client::ClientOptions;
use crate::cli::console::Console;
use crate::cli::output::{Format, csv, printable, table};
use crate::cli::{bytes, duration, signals};
use crate::forwarder::sockets::Socket;
use crate::forwarder::{Forwarder, OpenError, Options, Seen, Shipping, metrics};
use crate::spool;
use crate::telemetry::{self, DEFAULT_FILTER, LogFormat};

/// Takes events into a spool on the disk, and ships them from there to the service
///
/// The input is NDJSON: one BillingEvent a line, with the contract's field names. Without a
/// socket the command ends when everything in the spool is shipped: with exit code 0, or 1 when a
/// line was no event, an event was set aside as a dead letter, or the spool was damaged. With one it serves until it is
/// told to stop. The service need not be there.
#[derive(Debug, Clone, clap::Args)]
pub struct Forward {
    /// Files to take in, one after the other; - for standard input
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The folder of the spool; made when it is missing, and used by one process at a time
    #[arg(long, env = "RATER_SPOOL", value_name = "DIR")]
    spool: PathBuf,
    /// Take events from other processes at this Unix socket, too
    #[arg(long, env = "RATER_LISTEN_SOCKET", value_name = "PATH")]
    listen_socket: Option<PathBuf>,
    /// Past this, no more events are taken until some are shipped
    #[arg(long, env = "RATER_MAX_SPOOL_BYTES", value_name = "BYTES", default_value = "1GiB")]
    #[arg(value_parser = max_spool_bytes)]
    max_spool_bytes: u64,
    /// So much of the disk stays free, for dead letters; 0 lets the spool take all of it
    #[arg(long, env = "RATER_RESERVE_BYTES", value_name = "BYTES", default_value = "16MiB")]
    #[arg(value_parser = bytes::parse)]
    reserve_bytes: u64,
    /// How large a file of the spool gets
    #[arg(long, env = "RATER_SEGMENT_BYTES", value_name = "BYTES", default_value = "16MiB")]
    #[arg(value_parser = segment_bytes)]
    segment_bytes: u64,
    /// How long events are kept after they were shipped, for `rater events resend`
    #[arg(long, env = "RATER_RETAIN", value_name = "TIME", default_value = "0s", value_parser = duration::parse)]
    retain: Duration,
    /// The most events in one call
    #[arg(long, env = "RATER_BATCH_SIZE", value_name = "EVENTS", default_value_t = 1_000)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=10_000))]
    batch_size: u16,
    /// An event that waits longer is told of in the log
    #[arg(long, env = "RATER_ALERT_AGE", value_name = "TIME", default_value = "5m")]
    #[arg(value_parser = duration::parse)]
    alert_age: Duration,
    /// Where /metrics and /healthz are; without it nowhere
    #[arg(long, env = "RATER_ADMIN_LISTEN", value_name = "ADDRESS")]
    admin_listen: Option<SocketAddr>,
    /// What is logged, as in RUST_LOG
    #[arg(long, env = "RATER_LOG", value_name = "FILTER", default_value = DEFAULT_FILTER)]
    log: String,
    /// How it is logged
    #[arg(long, env = "RATER_LOG_FORMAT", value_enum, default_value_t = LogFormat::Json)]
    log_format: LogFormat,
    #[command(flatten)]
    client: ClientOptions,
}

fn max_spool_bytes(text: &str) -> Result<u64, String> {
    bytes::parse(text).and_then(|bytes| match bytes {
        0..=65_535 => Err("must be at least 64KiB".into()),
        _ => Ok(bytes),
    })
}

fn segment_bytes(text: &str) -> Result<u64, String> {
    bytes::parse(text).and_then(|bytes| match bytes {
        4_096..=1_073_741_824 => Ok(bytes),
        _ => Err("must be from 4KiB to 1GiB".into()),
    })
}

/// What runs.
struct Parts {
    inputs: Vec<(String, Input)>,
    forwarder: Forwarder,
    shipping: Shipping,
    socket: Option<Socket>,
    admin: Option<TcpListener>,
}

impl Forward {
    /// Runs the command.
    pub async fn run(self) -> Result<ExitCode, String> {
        telemetry::init(self.log_format, &self.log).map_err(|error| error.to_string())?;
        // From here on a signal ends it in order.
        let told = signals::stop();
        let parts = self.prepare().await?;
        let stop = CancellationToken::new();
        let stopping = stop.clone();
        tokio::spawn(async move {
            told.await;
            tracing::info!("stopping: no more events are taken; what is not shipped stays in the spool");
            stopping.cancel();
        });
        let (seen, complete) = self.forward(parts, stop).await;
        let mut console = Console::standard();
        console.print(&summary(self.client.output, &seen)?)?;
        let well = complete && self.well(&seen, &mut console);
        Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Whether all that was in the spool is stored. One that serves need not get to that.
    fn well(&self, seen: &Seen, console: &mut Console<'_>) -> bool {
        if self.listen_socket.is_some() {
            return true;
        }
        let lost = damage(seen).inspect(|what| console.say(what));
        lost.is_none() && seen.counts.dead_lettered == 0 && seen.depth.events == 0
    }

    /// Opens everything, so that what is wrong is told before anything is taken.
    async fn prepare(&self) -> Result<Parts, String> {
        let inputs = self.files.iter().map(|file| open(file)).collect::<Result<Vec<_>, String>>()?;
        let options = Options {
            spool: spool::Options {
                max_bytes: self.max_spool_bytes,
                segment_bytes: self.segment_bytes,
                retain: self.retain,
                reserve_bytes: self.reserve_bytes,
            },
            batch_size: self.batch_size.into(),
            alert_age: self.alert_age,
        };
        let opened = Forwarder::open(&self.spool, &self.client.location(), options).await;
        let (forwarder, shipping) = opened.map_err(|error| match error {
            OpenError::Spool(error) => format!("--spool {}: {error}", self.spool.display()),
            OpenError::Server(error) => format!("--server {}: {error}", self.client.server()),
        })?;
        let socket = match &self.listen_socket {
            Some(path) => {
                Some(Socket::bind(path).await.map_err(|error| format!("--listen-socket: {error}"))?)
            }
            None => None,
        };
        let admin = match self.admin_listen {
            Some(address) => Some(
                TcpListener::bind(address)
                    .await
                    .map_err(|error| format!("can't listen on --admin-listen {address}: {error}"))?,
            ),
            None => None,
        };
        Ok(Parts { inputs, forwarder, shipping, socket, admin })
    }

    /// Forwards until there is no more, or until it is told to stop. Says what was seen then, and
    /// whether all of the inputs was taken, and was events.
    async fn forward(&self, parts: Parts, stop: CancellationToken) -> (Seen, bool) {
        let Parts { inputs, forwarder, shipping, socket, admin } = parts;
        let address = admin.as_ref().and_then(|admin| Some(admin.local_addr().ok()?.to_string()));
        tracing::info!(
            spool = %self.spool.display(),
            socket = self.listen_socket.as_ref().map(|path| path.display().to_string()),
            admin_address = address,
            events = forwarder.seen().depth.events,
            "listening"
        );
        let (background, done) = (TaskTracker::new(), CancellationToken::new());
        let counted = forwarder.clone();
        telemetry::export_metrics(move || metrics::encode(&counted.seen()));
        if let Some(admin) = admin {
            let forwarder = forwarder.clone();
            let page = move || metrics::encode(&forwarder.seen());
            background.spawn(admin::serve_metrics(admin, page, done.clone()));
        }
        // If it ended early, nothing would be shipped any more, and nobody would know.
        let last = CancellationToken::new();
        let (guard, running) = (stop.clone().drop_guard(), shipping.run(last.clone()));
        let mut shipping = tokio::spawn(async move {
            let _guard = guard;
            running.await
        });
        let served = socket.is_some();
        let serving = socket.map(|socket| tokio::spawn(socket.serve(forwarder.clone(), stop.clone())));
        let mut taking = Taking::new(&forwarder, &stop);
        for (name, input) in inputs {
            taking.take_in(&name, input).await;
        }
        let complete = taking.complete();
        if let Some(serving) = serving {
            // A socket serves until it is told to stop.
            ended(serving.await);
        }
        forwarder.close();
        // Last of all, so that it knows what was taken in.
        let seen = tokio::select! {
            seen = &mut shipping => ended(seen),
            () = stop.cancelled() => {
                last.cancel();
                ended(shipping.await)
            }
        };
        done.cancel();
        background.close();
        background.wait().await;
        tracing::info!(left = seen.depth.events, served, "stopped");
        (seen, complete)
    }
}

/// What a task came to; its panic is ours.
fn ended<T>(task: Result<T, JoinError>) -> T {
    task.unwrap_or_else(|lost| std::panic::resume_unwind(lost.into_panic()))
}

/// An input and its name in messages.
fn open(path: &Path) -> Result<(String, Input), String> {
    let (name, file) = if path == Path::new("-") {
        let file = std::io::stdin().as_fd().try_clone_to_owned().map(File::from);
        ("stdin".to_string(), file.map(Input::Open))
    } else {
        let input = match fs::metadata(path) {
            // To open it waits for a writer.
            Ok(there) if there.file_type().is_fifo() => Ok(Input::Fifo(path.into())),
            _ => File::open(path).map(Input::Open),
        };
        (printable(&path.display().to_string()), input)
    };
    match file {
        Ok(file) => Ok((name, file)),
        Err(error) => Err(format!("{name}: {error}; name files of events, or - for standard input")),
    }
}

/// What was taken once, and can't be shipped any more: a job that ends well has shipped all.
fn damage(seen: &Seen) -> Option<String> {
    let depth = &seen.depth;
    let (ranges, bytes, missing) = (depth.damaged_ranges, depth.damaged_bytes, depth.missing_records);
    (ranges > 0 || missing > 0).then(|| {
        format!(
            "the spool was damaged: {missing} events are missing, and {ranges} stretches with {bytes} bytes lie in \
             damaged/; see `rater events status`"
        )
    })
}

/// What was done, as it is printed.
fn summary(format: Format, seen: &Seen) -> Result<String, String> {
    let counts = seen.counts;
    let fields = [
        ("spooled", counts.spooled),
        ("stored", counts.stored),
        ("duplicates", counts.duplicates),
        ("dead_lettered", counts.dead_lettered),
        ("left", seen.depth.events),
    ];
    let headers = fields.map(|(name, _)| name);
    let row = fields.iter().map(|(_, count)| count.to_string()).collect();
    match format {
        Format::Table => Ok(table(&headers, &[row]) + "\n"),
        Format::Csv => csv(&headers, &[row]),
        Format::Json => Ok(json_object(fields.map(|(name, count)| (name, count.into())))),
    }
}

#[cfg(test)]
mod tests;
