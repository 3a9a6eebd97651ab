//! A run as fields, with its findings.

use prost::Message;

use crate::cli::output::{Format, record};
use crate::cli::rate::result::{counts, findings};
use crate::cli::words::{span, time, word};
use crate::proto::Run;

/// A run as it is printed by itself: `message` is the answer that it came in.
pub fn print<M: Message>(
    format: Format,
    full_name: &str,
    message: &M,
    run: Option<&Run>,
) -> Result<String, String> {
    let run = run.cloned().unwrap_or_default();
    let mut text = record(format, full_name, message, "run", fields(&run, format))?;
    if let (Format::Table, Some(result)) = (format, &run.result) {
        text += &findings(result);
    }
    Ok(text)
}

/// Every field; in a table the counts only once there are any.
fn fields(run: &Run, format: Format) -> Vec<(&'static str, String)> {
    let window = run.window.unwrap_or_default();
    let progress = run.progress.unwrap_or_default();
    let error = run.error.clone().unwrap_or_default();
    let left = error.remaining.unwrap_or_default();
    let mut fields = vec![
        ("run_id", run.run_id.clone()),
        ("state", state(run)),
        ("severity", severity(run)),
        ("trigger", trigger(run)),
        ("since", time(window.start)),
        ("until", time(window.end)),
        ("hours_done", progress.hours_done.to_string()),
        ("hours_total", progress.hours_total.to_string()),
        ("events_done", progress.events_done.to_string()),
        ("events_per_second", progress.events_per_second.to_string()),
        ("eta", progress.eta.map(span).unwrap_or_default()),
        ("updated", time(progress.updated_at)),
        ("created", time(run.created_at)),
        ("started", time(run.started_at)),
        ("finished", time(run.finished_at)),
        ("requested_by", run.requested_by.clone()),
        ("request_id", run.request_id.clone()),
        ("reason", run.reason.clone()),
        ("error", error.reason),
        ("error_message", error.message),
        ("not_rated_since", time(left.start)),
        ("not_rated_until", time(left.end)),
    ];
    if format == Format::Csv || run.result.is_some() {
        fields.extend(counts(&run.result.clone().unwrap_or_default()));
    }
    fields
}

/// `running`.
pub fn state(run: &Run) -> String {
    word(run.state().as_str_name(), "RUN_STATE_")
}

/// `routine`.
pub fn trigger(run: &Run) -> String {
    word(run.trigger().as_str_name(), "TRIGGER_")
}

/// The highest among the findings so far; nothing while there is no result.
pub fn severity(run: &Run) -> String {
    run.result.as_ref().map(|result| word(result.severity().as_str_name(), "SEVERITY_")).unwrap_or_default()
}
