//! Why a window was not rated, in one line: what happened, what is left, and what to do.

use crate::grpc::client::Failure;

/// The line. `run` is the run that was begun, where its id is known.
pub fn explain(failure: &Failure, run: Option<&str>) -> String {
    let mut line = failure.to_string();
    // The message has room for the first violation alone.
    for (field, what) in failure.violations.iter().skip(1) {
        line += &format!("; {field}: {what}");
    }
    let at = |key| failure.metadata.get(key);
    if let Some(hours) = at("hours_committed") {
        line += &format!("; hours committed: {hours}");
    }
    if let (Some(start), Some(end)) = (at("left_start"), at("left_end")) {
        line += &format!("; not rated: {start} to {end}");
    }
    line + &advice(failure, run)
}

fn advice(failure: &Failure, run: Option<&str>) -> String {
    match failure.reason.as_str() {
        "PLAN_CHANGED" => "; look at it with --dry-run in place of --apply".into(),
        "DECREASE_REFUSED" => "; look at what would go with --dry-run before you ask for it again".into(),
        "RUN_CANCELLED" if failure.metadata.contains_key("left_start") => {
            "; rate what is left with --since and --until".into()
        }
        _ => match run {
            // It was not the run that said so.
            Some(run) if failure.may_pass && !failure.metadata.contains_key("run") => {
                format!("; run {run} may go on: see `rater runs show {run}`")
            }
            _ => String::new(),
        },
    }
}

/// What Ctrl-C leaves behind.
pub fn left(run: Option<&str>, request_id: &str) -> String {
    match run {
        Some(run) => format!(
            "run {run} goes on; watch it with `rater runs watch {run}`, or stop it with `rater runs cancel {run}`"
        ),
        None => format!(
            "a run that has begun goes on; the same command with --request-id {request_id} finds it again"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: &'static str, reason: &str, metadata: &[(&str, &str)]) -> Failure {
        let metadata = metadata.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        Failure {
            code,
            message: "why".into(),
            reason: reason.into(),
            metadata,
            violations: Vec::new(),
            retry_after: None,
            may_pass: code == "UNAVAILABLE",
        }
    }

    #[test]
    fn a_failed_run_tells_what_is_done_and_what_is_left() {
        let metadata =
            [("run", "r1"), ("hours_committed", "5"), ("left_start", "START"), ("left_end", "END")];
        let line = |code, reason| explain(&failure(code, reason, &metadata), Some("r1"));
        let expected = "UNAVAILABLE: why; hours committed: 5; not rated: START to END";
        assert_eq!(line("UNAVAILABLE", "OUTCOME_UNKNOWN"), expected);
        assert_eq!(
            line("ABORTED", "RUN_CANCELLED"),
            "ABORTED: why; hours committed: 5; not rated: START to END; rate what is left with --since and --until"
        );
    }

    #[test]
    fn a_plan_that_changed_and_a_loss_that_was_refused_are_looked_at_in_a_dry_run() {
        let changed = explain(&failure("FAILED_PRECONDITION", "PLAN_CHANGED", &[]), None);
        assert_eq!(changed, "FAILED_PRECONDITION: why; look at it with --dry-run in place of --apply");
        let refused = explain(&failure("FAILED_PRECONDITION", "DECREASE_REFUSED", &[]), None);
        assert!(refused.contains("--dry-run"), "{refused}");
    }

    #[test]
    fn a_service_that_stayed_away_leaves_a_run_to_look_at() {
        let away = explain(&failure("UNAVAILABLE", "", &[]), Some("r1"));
        assert_eq!(away, "UNAVAILABLE: why; run r1 may go on: see `rater runs show r1`");
        assert_eq!(explain(&failure("UNAVAILABLE", "", &[]), None), "UNAVAILABLE: why");
    }
}
