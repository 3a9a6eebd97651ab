//! A line of the log that names the trace it belongs to.

use std::fmt;

use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, TraceContextExt};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Lines of another format, which name the trace where there is one.
pub(super) struct Named<F> {
    format: F,
    /// How a line, without its end, is written with a span's trace.
    write: fn(Writer<'_>, &str, &SpanContext) -> fmt::Result,
}

/// Lines that are one JSON object.
pub(super) fn json<F>(format: F) -> Named<F> {
    let write = |mut writer: Writer<'_>, line: &str, span: &SpanContext| {
        let (open, trace, span) = (line.strip_suffix('}').unwrap_or(line), span.trace_id(), span.span_id());
        writeln!(writer, "{open},\"trace_id\":\"{trace}\",\"span_id\":\"{span}\"}}")
    };
    Named { format, write }
}

/// Lines for people.
pub(super) fn text<F>(format: F) -> Named<F> {
    let write = |mut writer: Writer<'_>, line: &str, span: &SpanContext| {
        writeln!(writer, "{line} trace_id={}", span.trace_id())
    };
    Named { format, write }
}

impl<S, N, F> FormatEvent<S, N> for Named<F>
where
    S: Subscriber + for<'s> LookupSpan<'s>,
    N: for<'w> FormatFields<'w> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let Some(span) = here() else { return self.format.format_event(context, writer, event) };
        let mut line = String::new();
        self.format.format_event(context, Writer::new(&mut line), event)?;
        (self.write)(writer, line.trim_end(), &span)
    }
}

/// The span that something is said in.
fn here() -> Option<SpanContext> {
    Context::map_current(|context| {
        // Most of what is said is said outside: without a clone.
        context.has_active_span().then(|| context.span().span_context().clone())
    })
    .filter(SpanContext::is_valid)
}
