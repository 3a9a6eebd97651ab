//! How the process is seen from outside: its log, always, and its traces, metrics and logs over
//! OTLP, where the standard `OTEL_*` variables say where to.
//!
//! The log is structured lines on standard error, and nothing on standard output, which belongs
//! to the commands' results. A JSON line has `timestamp`, `level`, `target`, `message` and the
//! event's own fields side by side, and `trace_id` and `span_id` inside of a span. A panic is a
//! line like any other.
//!
//! A span is `tracing`'s, of a target of ours; nobody else's (h2's, sqlx's) leaves the process.
//! Without an endpoint no span is made at all. A collector that is away costs what fits into
//! bounded queues, and is told once. [`context`] takes a trace from callers to runs and on to
//! other processes, [`series`] what `/metrics` shows to the collector.

mod context;
mod export;
mod line;
mod series;
mod settings;

use std::io;
use std::panic;
use std::sync::OnceLock;
use std::time::Duration;

use opentelemetry::trace::TracerProvider;
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use tracing::Metadata;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::{FilterExt, ParseError, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::{EnvFilter, Registry};

pub use context::{carried, describe, following, from_caller, inject, inside, started_by, traceparent};
pub use series::export_metrics;

/// What is logged unless somebody asks for something else: sqlx says every statement at info.
pub const DEFAULT_FILTER: &str = "info,sqlx=warn";

/// What the exporters themselves stand on: their records would make new ones without end.
const BENEATH: [&str; 7] = ["h2", "hyper", "hyper_util", "tonic", "tower", "rustls", "opentelemetry"];

type BoxedLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// What is exported, of this process; none where nothing is.
static EXPORTED: OnceLock<export::Exported> = OnceLock::new();

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line, for machines.
    #[default]
    Json,
    /// For people.
    Text,
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The filter can't be read.
    #[error("the log filter {filter:?} is wrong: {source}; write one such as \"{DEFAULT_FILTER}\"")]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        source: ParseError,
    },
    /// An `OTEL_*` variable is wrong. Its value may be a secret.
    #[error("{0}")]
    Variable(String),
    /// The process has a log already.
    #[error("the log was set up twice")]
    Twice,
}

/// Sets the process's log up, and what leaves it by OTLP. Once, before anything has something to
/// say, inside of the runtime that the exporters work on.
pub fn init(format: LogFormat, filter: &str) -> Result<(), InitError> {
    let said = || {
        EnvFilter::try_new(filter).map_err(|source| InitError::Filter { filter: filter.to_owned(), source })
    };
    let exported = exported()?;
    let mut layers = vec![lines(format, said()?, io::stderr)];
    layers.extend(spans(&exported));
    layers.extend(records(&exported, said()?));
    set(layers, exported)?;
    panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("a value that is not text");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, panic = message, "panicked");
    }));
    Ok(())
}

/// The same for a command without a log, which tells people what it has to say: nothing where
/// nothing is exported.
pub fn init_for_command() -> Result<(), InitError> {
    let exported = exported()?;
    if exported.is_empty() {
        return Ok(());
    }
    let layers = spans(&exported).into_iter().chain(records(&exported, EnvFilter::new(DEFAULT_FILTER)));
    set(layers.collect(), exported)
}

/// Sends what is not sent yet, and ends the exporters, in at most this time. Where nothing is
/// exported it is done at once.
pub async fn shutdown(within: Duration) {
    let Some(exported) = EXPORTED.get().filter(|exported| !exported.is_empty()) else { return };
    series::look_again();
    let (done, ended) = tokio::sync::oneshot::channel();
    // A thread of its own: they block, and a runtime's end would wait for one of its own.
    let stopping = std::thread::Builder::new().name("telemetry-shutdown".into()).spawn(move || {
        exported.shutdown(within);
        // Nobody waits any more.
        let _ = done.send(());
    });
    if stopping.is_ok() {
        let _ = tokio::time::timeout(within, ended).await;
    }
}

fn exported() -> Result<export::Exported, InitError> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let settings = settings::read(variable).map_err(InitError::Variable)?;
    export::build(&settings).map_err(InitError::Variable)
}

fn set(layers: Vec<BoxedLayer>, exported: export::Exported) -> Result<(), InitError> {
    let log = Registry::default().with(layers);
    tracing::subscriber::set_global_default(log).map_err(|_| InitError::Twice)?;
    exported.make_global();
    EXPORTED.set(exported).map_err(|_| InitError::Twice)
}

/// The log.
fn lines<W>(format: LogFormat, filter: EnvFilter, writer: W) -> BoxedLayer
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    // Spans leave the process or are not made: the log has no use for them.
    let filter = filter.and(filter_fn(|metadata: &Metadata<'_>| metadata.is_event()));
    // It would say with `eprintln!` that standard error is gone, and panic.
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).log_internal_errors(false);
    match format {
        LogFormat::Json => {
            let json = lines.json().flatten_event(true).with_span_list(false).with_current_span(false);
            json.map_event_format(line::json).with_filter(filter).boxed()
        }
        LogFormat::Text => lines.with_ansi(false).map_event_format(line::text).with_filter(filter).boxed(),
    }
}

/// Our spans, for the collector.
fn spans(exported: &export::Exported) -> Option<BoxedLayer> {
    let ours = |metadata: &Metadata<'_>| metadata.is_span() && beneath(metadata, "rater");
    let layer = tracing_opentelemetry::layer()
        .with_tracer(exported.traces.as_ref()?.tracer("rater"))
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false);
    Some(layer.with_filter(filter_fn(ours).with_max_level_hint(LevelFilter::INFO)).boxed())
}

/// What is logged, for the collector.
fn records(exported: &export::Exported, filter: EnvFilter) -> Option<BoxedLayer> {
    let bridge = OpenTelemetryTracingBridge::new(exported.logs.as_ref()?);
    let not_beneath = |metadata: &Metadata<'_>| {
        metadata.is_event() && !BENEATH.iter().any(|library| beneath(metadata, library))
    };
    Some(bridge.with_filter(filter.and(filter_fn(not_beneath))).boxed())
}

/// Whether it is of a crate, whatever the module.
fn beneath(metadata: &Metadata<'_>, library: &str) -> bool {
    metadata.target().split("::").next() == Some(library)
}

#[cfg(test)]
mod tests {
    use std::io::Seek;
    use std::sync::Arc;

    use super::*;

    fn written(format: LogFormat, filter: &str, events: impl FnOnce()) -> String {
        let file = Arc::new(tempfile::tempfile().expect("a file"));
        let filter = EnvFilter::try_new(filter).expect("a filter");
        let log = Registry::default().with(vec![lines(format, filter, file.clone())]);
        tracing::subscriber::with_default(log, events);
        (&*file).rewind().expect("a file");
        io::read_to_string(&*file).expect("text")
    }

    #[test]
    fn a_json_line_has_the_fields_at_its_top() {
        let line = written(LogFormat::Json, DEFAULT_FILTER, || tracing::warn!(run_id = "r", n = 3, "busy"));
        let line: serde_json::Value = serde_json::from_str(&line).expect("one JSON line");
        assert_eq!((&line["level"], &line["message"]), (&"WARN".into(), &"busy".into()));
        assert_eq!((&line["run_id"], &line["n"]), (&"r".into(), &3.into()));
        assert!(line["timestamp"].as_str().is_some_and(|time| time.ends_with('Z')), "{line}");
        assert!(line.get("trace_id").is_none(), "{line}");
    }

    #[test]
    fn a_line_inside_of_a_trace_names_it() {
        let caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let say = || {
            let _inside = context::parsed(Some(caller)).attach();
            tracing::info!(n = 3, "a word");
        };
        let line = written(LogFormat::Json, DEFAULT_FILTER, say);
        let line: serde_json::Value = serde_json::from_str(&line).expect("one JSON line");
        assert_eq!(line["trace_id"], "0af7651916cd43dd8448eb211c80319c");
        assert_eq!((&line["span_id"], &line["n"]), (&"b7ad6b7169203331".into(), &3.into()));
        let line = written(LogFormat::Text, DEFAULT_FILTER, say);
        assert!(line.ends_with("a word n=3 trace_id=0af7651916cd43dd8448eb211c80319c\n"), "{line}");
    }

    #[test]
    fn text_is_for_people() {
        let line = written(LogFormat::Text, DEFAULT_FILTER, || tracing::info!(n = 3, "listening"));
        assert!(line.contains(" INFO ") && line.contains("listening n=3"), "{line}");
    }

    #[test]
    fn statements_are_not_logged_unless_asked_for() {
        let say = || {
            tracing::info!(target: "sqlx::query", "a statement");
            tracing::debug!("a detail");
            tracing::info!("a word");
        };
        assert_eq!(written(LogFormat::Json, DEFAULT_FILTER, say).lines().count(), 1);
        assert_eq!(written(LogFormat::Json, "debug", say).lines().count(), 3);
    }

    #[test]
    fn without_a_collector_no_span_is_made() {
        let made = || assert!(tracing::info_span!("a span").is_disabled());
        written(LogFormat::Json, "trace", made);
    }

    #[test]
    fn a_wrong_filter_is_named() {
        let error = init(LogFormat::Json, "rater=loud").expect_err("wrong").to_string();
        assert!(error.contains("rater=loud") && error.contains(DEFAULT_FILTER), "{error}");
    }
}
