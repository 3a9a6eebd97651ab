//! Jobs over whole tables, as the commands that do them show them.

use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::console::Console;
use super::database::one_line;
use super::output::{Format, csv, table};
use super::signals;
use crate::service::table_jobs::JobReport;
use crate::service::{StoreError, rfc3339};
use crate::store::{Cancelled, Db};

/// From one line about the progress to the next, for a person who watches.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// Does the work until it ends or someone asks it to stop, which `stop` tells it. Who watches
/// standard error sees how far it is.
pub(super) async fn working<T>(
    db: &Db,
    job: &str,
    stop: &CancellationToken,
    console: &mut Console<'_>,
    work: impl Future<Output = T>,
) -> T {
    let mut work = pin!(work);
    let mut asked = pin!(signals::stop());
    let mut ticks = tokio::time::interval(TELL_EVERY);
    ticks.reset();
    loop {
        tokio::select! {
            done = &mut work => return done,
            () = &mut asked, if !stop.is_cancelled() => stop.cancel(),
            _ = ticks.tick(), if console.watched() => {
                let jobs = db.jobs().await.unwrap_or_default();
                if let Some(record) = jobs.into_iter().find(|record| record.job == job) {
                    console.say(&format!("{job}: {}", JobReport::from(record)));
                }
            }
        }
    }
}

/// A failure of the store as one line, with what the database said of it.
pub(super) fn explain(error: StoreError) -> String {
    one_line(&error)
}

/// Gives up a job that is not done, so that nobody waits for its end any more.
pub(super) async fn cancel(db: &Db, job: &str, console: &mut Console<'_>) -> Result<ExitCode, String> {
    match db.cancel_job(job).await.map_err(explain)? {
        Cancelled::Now => {
            console.print("cancelled\n")?;
            Ok(ExitCode::SUCCESS)
        }
        Cancelled::Busy => Err("a process is at it, or was a moment ago: stop that one first".into()),
        Cancelled::Nothing => Err("there is nothing to give up: it is done, or never began".into()),
    }
}

/// How a command about a job ends: failed where the job has.
pub(super) fn exit_code(job: &JobReport) -> ExitCode {
    match job.state {
        "failed" => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}

/// What there is to say of a job.
pub(super) fn fields(job: &JobReport) -> Vec<(&'static str, String)> {
    let record = &job.record;
    let time = |time: Option<_>| time.map(rfc3339).unwrap_or_default();
    let seconds = |seconds: Option<i64>| seconds.map(|seconds| seconds.to_string()).unwrap_or_default();
    vec![
        ("job", job.job.clone()),
        ("state", job.state.into()),
        ("rows_done", record.rows_done.to_string()),
        ("rows", record.rows_all.to_string()),
        ("rows_passed_over", record.rows_passed_over.to_string()),
        ("rows_per_second", record.rows_per_second.clone().unwrap_or_default()),
        ("eta_seconds", seconds(record.eta_seconds)),
        ("started", time(record.started_at)),
        ("last_update", time(record.updated_at)),
        ("finished", time(record.finished_at)),
        ("error", record.error.clone().unwrap_or_default()),
    ]
}

/// A job by itself, in a command's format.
pub(super) fn record(format: Format, job: &JobReport) -> Result<String, String> {
    let fields = fields(job);
    match format {
        Format::Json => Ok(json(&fields).to_string() + "\n"),
        Format::Csv => {
            let (names, values): (Vec<&str>, Vec<String>) = fields.into_iter().unzip();
            csv(&names, &[values])
        }
        Format::Table => Ok(field_table(fields)),
    }
}

/// The fields that are not empty, a line each.
pub(super) fn field_table(fields: Vec<(&'static str, String)>) -> String {
    let filled = fields.into_iter().filter(|(_, value)| !value.is_empty());
    let rows: Vec<Vec<String>> = filled.map(|(name, value)| vec![name.to_owned(), value]).collect();
    table(&["job", ""], &rows) + "\n"
}

/// The fields as an object of strings.
pub(super) fn json(fields: &[(&'static str, String)]) -> serde_json::Value {
    let pair = |(name, value): &(&str, String)| ((*name).to_owned(), value.clone().into());
    serde_json::Value::Object(fields.iter().map(pair).collect())
}
