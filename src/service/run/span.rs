//! A run as a trace tells it: a span of the run with what it is asked and what it came to, and one
//! of each chunk, inside of which are the database's steps.

use opentelemetry::Value;
use tracing::Span;

use super::RunSpec;
use crate::domain::money::Money;
use crate::domain::outcome::Counts;
use crate::domain::pricebook::Pricebook;
use crate::domain::window::Window;
use crate::service::rfc3339;
use crate::telemetry;

/// Of a run, whichever part of it happens here, or of a plan, which has no id.
pub(in crate::service) fn run(run: &RunSpec, book: &Pricebook) -> Span {
    let dry_run = run.run_id.is_empty();
    tracing::info_span!(
        "run",
        otel.name = if dry_run { "dry run" } else { "run" },
        otel.status_code = tracing::field::Empty,
        error.type = tracing::field::Empty,
        rater.run.id = (!dry_run).then_some(run.run_id.as_str()),
        rater.run.trigger = run.trigger.as_str(),
        rater.run.rate_basis = run.basis.as_str(),
        rater.run.dry_run = dry_run,
        rater.run.state = tracing::field::Empty,
        rater.run.hours_committed = tracing::field::Empty,
        rater.window.start = rfc3339(run.window.start),
        rater.window.end = rfc3339(run.window.end),
        rater.pricebook.digest = book.digest(),
        rater.plan.hash = (!run.plan_hash.is_empty()).then_some(run.plan_hash.as_str()),
        rater.currency = book.currency(),
    )
}

/// Of a chunk: all that is done to rate these hours, or to plan them.
pub(in crate::service) fn chunk(chunk: Window) -> Span {
    tracing::info_span!(
        "chunk",
        rater.window.start = rfc3339(chunk.start),
        rater.window.end = rfc3339(chunk.end),
        otel.status_code = tracing::field::Empty,
        error.type = tracing::field::Empty,
    )
}

/// Adds what was done. Money is a decimal, which no number of OpenTelemetry is.
pub(in crate::service) fn count(span: &Span, counts: &Counts, lost_cost: Option<Money>) {
    if span.is_disabled() {
        return;
    }
    let numbers = [
        ("rater.events", counts.events),
        ("rater.events.rated", counts.rated_events),
        ("rater.events.unpriced", counts.unpriced_events),
        ("rater.events.unattributable", counts.unattributable_events),
        ("rater.events.ambiguous_base", counts.ambiguous_base_events),
        ("rater.events.malformed", counts.malformed_events),
        ("rater.events.clamped", counts.clamped_events),
        ("rater.rollups", counts.rollups()),
        ("rater.rollups.inserted", counts.inserted_rollups),
        ("rater.rollups.updated", counts.updated_rollups),
        ("rater.rollups.unchanged", counts.unchanged_rollups),
        ("rater.rollups.deleted", counts.reconciled_deletions),
        ("rater.rollups.shrunk", counts.shrunk_rollups),
        ("rater.rollups.rate_drift", counts.rate_drift_rollups),
        ("rater.rollups.unexplained", counts.unexplained_rollups),
    ];
    let money = [
        ("rater.cost.previous", Some(counts.previous_cost)),
        ("rater.cost.total", Some(counts.total_cost)),
        ("rater.cost.lost", lost_cost),
    ];
    let numbers = numbers.into_iter().map(|(name, count)| (name, Value::I64(count)));
    let money = money.into_iter().filter_map(|(name, money)| Some((name, money?.to_string().into())));
    telemetry::describe(span, numbers.chain(money));
}

/// It did not come to its end: why, and whether that is a failure.
pub(in crate::service) fn fail(span: &Span, reason: &str, failed: bool) {
    span.record("error.type", reason);
    if failed {
        span.record("otel.status_code", "ERROR");
    }
}
