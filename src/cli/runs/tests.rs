//! Against a service that answers from a script.

use std::io::{self, ErrorKind, Write};

use super::*;
use crate::cli::scripted::{self, Ran};
use crate::grpc::client::scripted::Answer;
use crate::grpc::client::scripted::rating::{Script, ScriptedRating, Streams, run as run_of};
use crate::proto::{
    Anomaly, AnomalyKind, CancelRunResponse, Dimension, Finding, FindingCode, GetRunResponse,
    ListAnomaliesResponse, ListRunsResponse, RatingResult, Run, RunError, RunState, Severity, Trigger,
    Window,
};
use crate::service::Error;

/// Runs `rater runs COMMAND ARGUMENTS`.
async fn run(script: Script, arguments: &[&str]) -> Ran {
    scripted::run::<Command>(script, arguments).await
}

async fn run_on(
    script: Script,
    arguments: &[&str],
    console: Console<'_>,
) -> (Result<ExitCode, String>, ScriptedRating) {
    scripted::run_on::<Command>(script, arguments, console).await
}

fn result(severity: Severity) -> RatingResult {
    let finding = Finding {
        code: FindingCode::UnpricedEvents.into(),
        severity: severity.into(),
        count: 1,
        message: "name the model".into(),
    };
    RatingResult {
        severity: severity.into(),
        findings: vec![finding],
        total_cost: "12.5".into(),
        currency_code: "USD".into(),
        ..RatingResult::default()
    }
}

fn ended_run(state: RunState, severity: Severity) -> Run {
    Run { result: Some(result(severity)), ..run_of("r1", state, 24) }
}

fn failed_run() -> Run {
    let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    let remaining = Some(Window { start: at(0), end: at(3_600) });
    let error = RunError { reason: "LEASE_LOST".into(), message: "taken over".into(), remaining };
    Run { error: Some(error), reason: "a fix".into(), ..ended_run(RunState::Failed, Severity::Error) }
}

fn watch(streams: Streams) -> Script {
    Script { watch: [Answer::Is(streams)].into(), ..Script::default() }
}

#[tokio::test]
async fn runs_are_listed_newest_first_as_the_service_says_up_to_the_limit() {
    let page = |ids: &[&str], next: &str| {
        let runs = ids.iter().map(|id| run_of(id, RunState::Running, 5)).collect();
        Answer::Is(ListRunsResponse { runs, next_page_token: next.into() })
    };
    let script = || Script {
        list: [page(&["r4", "r3"], "more"), page(&["r2", "r1"], "")].into(),
        ..Script::default()
    };
    let ran = run(script(), &["list", "--limit", "3", "-o", "csv"]).await;
    assert_eq!((ran.ended, ran.err.as_str()), (Ok(ExitCode::SUCCESS), ""));
    let lines: Vec<&str> = ran.out.lines().collect();
    assert!(
        lines[0].starts_with("run_id,state,trigger,since,until,hours_done,hours_total,events,total_cost,")
    );
    assert_eq!(lines[1], "r4,running,,,,5,24,500,,,,,,");
    let ids: Vec<&str> = lines[1..].iter().filter_map(|line| line.split(',').next()).collect();
    assert_eq!(ids, ["r4", "r3", "r2"]);
    let asked = ran.service.listed();
    let asked: Vec<_> = asked.iter().map(|page| (page.page_size, page.page_token.as_str())).collect();
    assert_eq!(asked, [(3, ""), (1, "more")]);

    let ran = run(script(), &["list", "-o", "json"]).await;
    assert_eq!(ran.out.lines().count(), 4);
    assert!(ran.out.starts_with(r#"{"run_id":"r4","#), "{}", ran.out);
    assert_eq!(ran.service.listed()[0].page_size, 50);
}

#[tokio::test]
async fn a_list_asks_for_the_states_and_triggers_that_were_named() {
    let script = Script { list: [Answer::Is(ListRunsResponse::default())].into(), ..Script::default() };
    let arguments = ["list", "--state", "failed", "--state", "running,pending", "--trigger", "routine"];
    let ran = run(script, &arguments).await;
    let asked = ran.service.listed().remove(0);
    assert_eq!(asked.states, [RunState::Failed, RunState::Running, RunState::Pending].map(i32::from));
    assert_eq!(asked.triggers, [i32::from(Trigger::Routine)]);
    assert_eq!(ran.out.lines().count(), 1, "headers: {}", ran.out);
}

#[tokio::test]
async fn a_run_is_shown_with_its_findings_and_what_is_left() {
    let script = || {
        let answer = Answer::Is(GetRunResponse { run: Some(failed_run()) });
        Script { get: [answer].into(), ..Script::default() }
    };
    let ran = run(script(), &["show", "r1"]).await;
    assert_eq!(ran.ended, Ok(ExitCode::SUCCESS));
    let has = |words: &[&str]| ran.out.lines().any(|line| line.split_whitespace().eq(words.iter().copied()));
    assert!(has(&["state", "failed"]) && has(&["reason", "a", "fix"]), "{}", ran.out);
    assert!(has(&["error", "LEASE_LOST"]) && has(&["error_message", "taken", "over"]), "{}", ran.out);
    assert!(has(&["not_rated_since", "1970-01-01T00:00:00Z"]), "{}", ran.out);
    assert!(has(&["not_rated_until", "1970-01-01T01:00:00Z"]), "{}", ran.out);
    assert!(has(&["total_cost", "12.5"]) && has(&["ERROR", "UNPRICED_EVENTS", "name", "the", "model"]));
    let ran = run(script(), &["show", "r1", "-o", "json"]).await;
    assert!(ran.out.starts_with(r#"{"run":{"run_id":"r1","#), "{}", ran.out);

    let columns = |run: Run| async {
        let answer = Answer::Is(GetRunResponse { run: Some(run) });
        let script = Script { get: [answer].into(), ..Script::default() };
        super::tests::run(script, &["show", "r1", "-o", "csv"]).await.out.lines().next().map(str::to_owned)
    };
    let fresh = run_of("r1", RunState::Pending, 0);
    assert_eq!(columns(fresh).await, columns(failed_run()).await, "the columns stay the same");
}

#[tokio::test]
async fn a_run_that_is_not_known_is_an_error_in_one_line() {
    let script = Script { get: [Answer::Refuses(Error::PricebookNotFound)].into(), ..Script::default() };
    let ran = run(script, &["show", "r9"]).await;
    assert!(ran.ended.expect_err("refused").starts_with("NOT_FOUND: "));
    assert_eq!(ran.out, "");
}

#[tokio::test]
async fn watching_ends_like_the_run() {
    for (state, severity, code) in [
        (RunState::Succeeded, Severity::Info, 0),
        (RunState::Succeeded, Severity::Warning, 0),
        (RunState::Succeeded, Severity::Error, 2),
        (RunState::Failed, Severity::Info, 1),
        (RunState::Cancelled, Severity::Error, 1),
    ] {
        let streams = Streams::ends([run_of("r1", RunState::Running, 5), ended_run(state, severity)]);
        let ran = run(watch(streams), &["watch", "r1", "-o", "csv"]).await;
        assert_eq!((ran.ended, ran.err.as_str()), (Ok(ExitCode::from(code)), ""), "{state:?} {severity:?}");
        assert_eq!(ran.out.lines().count(), 2, "{}", ran.out);
    }
}

#[tokio::test]
async fn watching_in_json_is_a_line_a_message_across_an_absence() {
    let script = Script {
        watch: [
            Answer::Is(Streams::breaks([run_of("r1", RunState::Running, 5)])),
            Answer::Is(Streams::ends([run_of("r1", RunState::Pending, 5), failed_run()])),
        ]
        .into(),
        ..Script::default()
    };
    let ran = run(script, &["watch", "r1", "-o", "json"]).await;
    assert_eq!(ran.ended, Ok(ExitCode::FAILURE));
    let states = ran.out.lines().map(|line| {
        let json: serde_json::Value = serde_json::from_str(line).expect("an object");
        json["run"]["state"].as_str().map(str::to_owned).unwrap_or_default()
    });
    let expected = ["RUN_STATE_RUNNING", "RUN_STATE_PENDING", "RUN_STATE_FAILED"];
    assert_eq!(states.collect::<Vec<_>>(), expected);
    assert_eq!(ran.err, "rater: UNAVAILABLE: later; looking for the run again\n");
}

#[tokio::test]
async fn a_service_that_cannot_be_watched_fails_the_command() {
    let ran = run(Script::default(), &["watch", "r1"]).await;
    assert!(ran.ended.expect_err("refused").starts_with("UNIMPLEMENTED: "));
}

#[tokio::test]
async fn a_reader_that_is_gone_does_not_change_how_watching_ends() {
    struct Gone;
    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Err(ErrorKind::BrokenPipe.into())
        }
    }
    for format in ["json", "csv", "table"] {
        let streams = Streams::ends([
            run_of("r1", RunState::Running, 5),
            ended_run(RunState::Succeeded, Severity::Error),
        ]);
        let console = Console::to(Gone, Gone);
        let (ended, _) = run_on(watch(streams), &["watch", "r1", "-o", format], console).await;
        assert_eq!(ended, Ok(ExitCode::from(2)), "{format}");
    }
}

#[tokio::test]
async fn a_run_that_is_cancelled_is_printed_and_waited_for_when_asked() {
    let cancel = |state| {
        let answer = Answer::Is(CancelRunResponse { run: Some(run_of("r1", state, 5)) });
        Script { cancel: [answer].into(), ..Script::default() }
    };
    let state = |ran: &Ran| {
        let json: serde_json::Value = serde_json::from_str(&ran.out).expect("one object");
        json["run"]["state"].as_str().map(str::to_owned)
    };
    let arguments = ["cancel", "r1", "-o", "json"];
    let ran = run(cancel(RunState::Cancelled), &arguments).await;
    assert_eq!((&ran.ended, ran.err.as_str()), (&Ok(ExitCode::SUCCESS), ""));
    assert_eq!(state(&ran).as_deref(), Some("RUN_STATE_CANCELLED"));
    let ran = run(cancel(RunState::Cancelling), &arguments).await;
    assert_eq!(ran.err, "rater: run r1 stops after the chunk in flight\n");
    assert_eq!((state(&ran).as_deref(), ran.service.watched()), (Some("RUN_STATE_CANCELLING"), 0));

    let streams = Streams::ends([run_of("r1", RunState::Cancelled, 6)]);
    let script = Script { watch: [Answer::Is(streams)].into(), ..cancel(RunState::Cancelling) };
    let ran = run(script, &[&arguments[..], &["--wait"]].concat()).await;
    assert_eq!((&ran.ended, ran.service.watched()), (&Ok(ExitCode::SUCCESS), 1));
    assert_eq!(state(&ran).as_deref(), Some("RUN_STATE_CANCELLED"));
    let ran = run(cancel(RunState::Cancelled), &[&arguments[..], &["--wait"]].concat()).await;
    assert_eq!(ran.service.watched(), 0, "nothing to wait for");
}

fn anomaly(events: i64) -> Anomaly {
    Anomaly {
        kind: AnomalyKind::AmbiguousBase.into(),
        auth_id: "acme".into(),
        model_id: "ft:x".into(),
        base_models: vec!["a".into(), "b".into()],
        events,
        sample_request_id: "q1".into(),
        ..Anomaly::default()
    }
}

#[tokio::test]
async fn anomalies_come_from_all_pages_with_the_columns_grouped_by() {
    let page = |events: &[i64], next: &str| {
        let anomalies = events.iter().map(|events| anomaly(*events)).collect();
        Answer::Is(ListAnomaliesResponse { anomalies, next_page_token: next.into() })
    };
    let script = || Script { anomalies: [page(&[3, 2], "more"), page(&[1], "")].into(), ..Script::default() };
    let ran = run(script(), &["anomalies", "-o", "csv"]).await;
    assert_eq!(
        ran.out.lines().collect::<Vec<_>>(),
        [
            "kind,model_id,since,last,events,prompt_tokens,cached_tokens,completion_tokens,base_models,\
             sample_request_id",
            "ambiguous_base,ft:x,,,3,0,0,0,a b,q1",
            "ambiguous_base,ft:x,,,2,0,0,0,a b,q1",
            "ambiguous_base,ft:x,,,1,0,0,0,a b,q1",
        ]
    );
    let arguments = ["anomalies", "--group-by", "day", "--group-by", "auth-id", "--kind", "ambiguous-base"];
    let narrow = ["--since", "2026-06-01T00:00:00Z", "--model-id", "ft:x", "-o", "csv", "--limit", "2"];
    let ran = run(script(), &[&arguments[..], &narrow].concat()).await;
    assert!(ran.out.starts_with("kind,auth_id,since,last,events,"), "{}", ran.out);
    assert_eq!((ran.out.lines().count(), ran.service.anomalies().len()), (3, 1));
    let asked = ran.service.anomalies().remove(0);
    assert_eq!(asked.group_by, [Dimension::Day, Dimension::AuthId].map(i32::from));
    assert_eq!((asked.kinds, asked.page_size), (vec![i32::from(AnomalyKind::AmbiguousBase)], 2));
    let filter = asked.filter.expect("a filter");
    assert_eq!(
        (filter.model_ids, filter.since.map(|since| since.to_string())),
        (vec!["ft:x".to_owned()], Some("2026-06-01T00:00:00Z".into()))
    );
}
