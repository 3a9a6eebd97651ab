//! The log: structured lines on standard error, and nothing on standard output, which belongs
//! to the commands' results.
//!
//! A JSON line has `timestamp`, `level`, `target`, `message` and the event's own fields side
//! by side. A panic is a line like any other.

use std::io;
use std::panic;

use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::MakeWriter;

/// What is logged unless somebody asks for something else: sqlx says every statement at info.
pub const DEFAULT_FILTER: &str = "info,sqlx=warn";

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
    /// The process has a log already.
    #[error("the log was set up twice")]
    Twice,
}

/// Sets the process's log up. Once, before anything has something to say.
pub fn init(format: LogFormat, filter: &str) -> Result<(), InitError> {
    let filter = EnvFilter::try_new(filter)
        .map_err(|source| InitError::Filter { filter: filter.to_owned(), source })?;
    let log = subscriber(format, filter, io::stderr);
    tracing::subscriber::set_global_default(log).map_err(|_| InitError::Twice)?;
    panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("a value that is not text");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, panic = message, "panicked");
    }));
    Ok(())
}

fn subscriber<W>(format: LogFormat, filter: EnvFilter, writer: W) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        // It would say with `eprintln!` that standard error is gone, and panic.
        .log_internal_errors(false);
    match format {
        LogFormat::Json => Box::new(log.json().flatten_event(true).with_span_list(false).finish()),
        LogFormat::Text => Box::new(log.with_ansi(false).finish()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Seek;
    use std::sync::Arc;

    use super::*;

    fn written(format: LogFormat, filter: &str, events: impl FnOnce()) -> String {
        let file = Arc::new(tempfile::tempfile().expect("a file"));
        let filter = EnvFilter::try_new(filter).expect("a filter");
        tracing::subscriber::with_default(subscriber(format, filter, file.clone()), events);
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
    fn a_wrong_filter_is_named() {
        let error = init(LogFormat::Json, "rater=loud").expect_err("wrong").to_string();
        assert!(error.contains("rater=loud") && error.contains(DEFAULT_FILTER), "{error}");
    }
}
