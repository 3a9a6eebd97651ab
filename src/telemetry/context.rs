//! The trace that work belongs to: from a caller's `traceparent` (W3C) to its spans, from a run's
//! record to whichever process goes on with it, and from here to whoever is called.
//!
//! A task that outlives its call carries the call's context and not its span: a span ends when
//! all that was made inside of it has ended, and a call must not look as long as its run.

use std::collections::HashMap;

use opentelemetry::context::{FutureExt, WithContext};
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::TraceContextExt;
use opentelemetry::{Context, Value, global};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// What W3C's context is told by.
const HEADERS: [&str; 2] = ["traceparent", "tracestate"];

/// Makes `span` a child of the caller's, which its headers name. Before it is entered.
pub fn from_caller(span: &Span, header: impl Fn(&str) -> Option<String>) {
    if span.is_disabled() {
        return;
    }
    let said = |name: &&str| header(name).map(|value| ((*name).to_owned(), value));
    let headers: HashMap<String, String> = HEADERS.iter().filter_map(said).collect();
    let caller = global::get_text_map_propagator(|propagator| {
        propagator.extract_with_context(&Context::new(), &headers)
    });
    if caller.span().span_context().is_valid() {
        // An error: it is not exported.
        let _ = span.set_parent(caller);
    }
}

/// Adds attributes to a span: more, or of other types, than its fields hold.
pub fn describe(span: &Span, attributes: impl IntoIterator<Item = (&'static str, Value)>) {
    if !span.is_disabled() {
        attributes.into_iter().for_each(|(name, value)| span.set_attribute(name, value));
    }
}

/// What tells whoever is called next which span calls it: the headers to add.
pub fn inject(span: &Span) -> HashMap<String, String> {
    let mut headers = HashMap::new();
    if !span.is_disabled() {
        global::get_text_map_propagator(|propagator| {
            propagator.inject_context(&span.context(), &mut headers);
        });
    }
    headers
}

/// Makes `span` a child of whatever started this process, where that said so in `TRACEPARENT`.
pub fn started_by(span: &Span) {
    from_caller(span, |name| std::env::var(name.to_uppercase()).ok());
}

/// Work that goes on in a task of its own, in the trace of whoever starts it.
pub fn carried<F: Future>(work: F) -> WithContext<F> {
    work.with_current_context()
}

/// Work that goes on with something that was begun elsewhere, in its trace.
pub fn following<F: Future>(traceparent: Option<&str>, work: F) -> WithContext<F> {
    work.with_context(parsed(traceparent))
}

/// Says something in a trace that was begun elsewhere, unless it is in one already.
pub fn inside<T>(traceparent: Option<&str>, say: impl FnOnce() -> T) -> T {
    let elsewhere = traceparent.filter(|_| !Context::map_current(|context| context.has_active_span()));
    let _inside = elsewhere.map(|_| parsed(elsewhere).attach());
    say()
}

/// The span that this happens in, as W3C's `traceparent`.
pub fn traceparent() -> Option<String> {
    Context::map_current(|context| {
        let span = context.span();
        let span = span.span_context();
        let (trace_id, span_id, flags) = (span.trace_id(), span.span_id(), span.trace_flags().to_u8());
        span.is_valid().then(|| format!("00-{trace_id}-{span_id}-{flags:02x}"))
    })
}

/// What a `traceparent` says; nothing where there is none, or it is wrong.
pub(super) fn parsed(traceparent: Option<&str>) -> Context {
    let headers: HashMap<String, String> =
        traceparent.map(|value| ("traceparent".to_owned(), value.to_owned())).into_iter().collect();
    TraceContextPropagator::new().extract_with_context(&Context::new(), &headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALLER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[tokio::test]
    async fn work_elsewhere_is_in_the_trace_that_it_follows() {
        assert_eq!(following(Some(CALLER), async { traceparent() }).await.as_deref(), Some(CALLER));
        for wrong in [None, Some(""), Some("00-0-0-01"), Some("\u{0}"), Some("00-ä")] {
            assert_eq!(following(wrong, async { traceparent() }).await, None);
        }
        let elsewhere = async { tokio::spawn(carried(async { traceparent() })).await.expect("it ended") };
        assert_eq!(following(Some(CALLER), elsewhere).await.as_deref(), Some(CALLER));
        assert_eq!(traceparent(), None);
    }
}
