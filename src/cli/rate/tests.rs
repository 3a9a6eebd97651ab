//! Against a service that answers from a script.

use std::io::ErrorKind;
use std::time::Duration;

use super::*;
use crate::domain::violation::Violation;
use crate::grpc::client::scripted::Answer;
use crate::grpc::client::scripted::rating::{Script, ScriptedRating, Streams, run as progress, serve};
use crate::proto::{CostChange, Finding, FindingCode, RatingResult, RunState, Window};
use crate::service::{Error, FailureReason, RunFailure};

#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    rate: Rate,
}

/// What a `rate` did.
struct Ran {
    ended: Result<ExitCode, String>,
    out: String,
    err: String,
    service: ScriptedRating,
}

impl Ran {
    /// Which of its calls were detached.
    fn detached(&self) -> Vec<bool> {
        self.service.rated().iter().map(|request| request.detach).collect()
    }
}

async fn run(script: Script, arguments: &[&str]) -> Ran {
    interrupted(script, arguments, std::future::pending()).await
}

async fn interrupted(script: Script, arguments: &[&str], interrupt: impl Future<Output = ()>) -> Ran {
    let service = serve(script).await;
    let url = service.server().url;
    let arguments = [&["rate", "--server", &url], arguments].concat();
    let cli = <Cli as clap::Parser>::try_parse_from(arguments).expect("valid arguments");
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let ended = cli.rate.rate(&mut Console::to(&mut out, &mut err), interrupt).await;
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Ran { ended, out: text(out), err: text(err), service }
}

fn begun() -> Answer<RateWindowResponse> {
    Answer::Is(RateWindowResponse { run_id: "r1".into(), state: RunState::Running.into(), result: None })
}

fn answered(severity: Severity) -> Answer<RateWindowResponse> {
    let result = RatingResult { severity: severity.into(), ..plan() };
    let state = RunState::Succeeded.into();
    Answer::Is(RateWindowResponse { run_id: "r1".into(), state, result: Some(result) })
}

fn plan() -> RatingResult {
    let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    let change = |name: &str, total: &str| CostChange {
        name: name.into(),
        previous_cost: "1".into(),
        total_cost: total.into(),
        ..CostChange::default()
    };
    let finding = Finding {
        code: FindingCode::RateDrift.into(),
        severity: Severity::Warning.into(),
        count: 1,
        message: "it drifts".into(),
    };
    RatingResult {
        severity: Severity::Warning.into(),
        findings: vec![finding],
        window: Some(Window { start: at(0), end: at(3_600) }),
        trigger: Trigger::Backfill.into(),
        updated_rollups: 2,
        plan_hash: "abc".into(),
        changes_by_model: vec![change("m", "1.5")],
        changes_by_auth_id: vec![change("acme", "1.25"), change("", "1.25")],
        ..RatingResult::default()
    }
}

fn dry() -> Script {
    let response = RateWindowResponse { result: Some(plan()), ..RateWindowResponse::default() };
    Script { rate: [Answer::Is(response)].into(), ..Script::default() }
}

fn followed(severity: Severity) -> Script {
    let streams =
        Streams::ends([progress("r1", RunState::Running, 5), progress("r1", RunState::Succeeded, 24)]);
    Script {
        rate: [begun(), answered(severity)].into(),
        watch: [Answer::Is(streams)].into(),
        ..Script::default()
    }
}

#[tokio::test]
async fn rate_follows_its_run_and_prints_only_the_result() {
    for (severity, code) in [(Severity::Info, 0), (Severity::Warning, 0), (Severity::Error, 2)] {
        let ran = run(followed(severity), &["--request-id", "id", "-o", "json"]).await;
        assert_eq!((ran.ended.as_ref(), ran.err.as_str()), (Ok(&ExitCode::from(code)), ""));
        assert_eq!((ran.detached(), ran.service.watched()), (vec![true, false], 1));
        assert!(ran.service.rated().iter().all(|request| request.request_id == "id"));
        let json: serde_json::Value = serde_json::from_str(&ran.out).expect("one object");
        assert_eq!(json["run_id"], "r1");
        assert_eq!(json["result"]["severity"], severity.as_str_name());
    }
}

#[tokio::test]
async fn a_service_that_cant_be_watched_is_waited_for() {
    let script = Script { rate: [begun(), answered(Severity::Info)].into(), ..Script::default() };
    let ran = run(script, &[]).await;
    assert_eq!((ran.ended.as_ref(), ran.err.as_str()), (Ok(&ExitCode::SUCCESS), ""));
    assert_eq!((ran.detached(), ran.service.watched()), (vec![true, false], 1));
}

#[tokio::test]
async fn a_run_is_looked_for_while_its_service_is_away_and_that_is_told_once() {
    let mut script = followed(Severity::Info);
    script.watch.push_front(Answer::Fails(ErrorKind::ConnectionRefused));
    script.watch.push_front(Answer::Is(Streams::breaks([progress("r1", RunState::Running, 1)])));
    script.rate.insert(1, Answer::Refuses(Error::ShuttingDown));
    let ran = run(script, &["--request-id", "nightly", "--quiet"]).await;
    assert_eq!(ran.ended, Ok(ExitCode::SUCCESS));
    assert_eq!(ran.err, "rater: UNAVAILABLE: later; looking for the run again (request id nightly)\n");
    assert_eq!(ran.service.watched(), 3);
}

#[tokio::test]
async fn a_service_that_stays_away_leaves_a_run_to_look_at() {
    let away = |count| (0..count).map(|_| Answer::Fails(ErrorKind::ConnectionRefused));
    let rate = [begun()].into_iter().chain(away(100)).collect();
    let watch = (0..100).map(|_| Answer::Fails(ErrorKind::ConnectionRefused)).collect();
    let ran = run(Script { rate, watch, ..Script::default() }, &["--retry-for", "1500ms"]).await;
    let said = ran.ended.expect_err("given up");
    assert!(said.ends_with("; run r1 may go on: see `rater runs show r1`"), "{said}");
    assert_eq!((ran.service.watched(), ran.service.rated().len()), (2, 2), "--retry-for is used up once");
}

#[tokio::test]
async fn a_run_that_fails_tells_what_is_left() {
    let failure = RunFailure {
        run_id: "r1".into(),
        reason: FailureReason::OutcomeUnknown,
        message: "cut off".into(),
        hours_committed: 3,
        left: Some(crate::domain::window::Window {
            start: "2026-06-01T10:00:00Z".parse().expect("a time"),
            end: "2026-06-01T12:00:00Z".parse().expect("a time"),
        }),
        goes_on: false,
    };
    let watch = [Answer::Is(Streams::ends([progress("r1", RunState::Failed, 3)]))].into();
    let rate = [begun(), Answer::Refuses(Error::RunFailed(failure))].into();
    let ran = run(Script { rate, watch, ..Script::default() }, &[]).await;
    assert_eq!(
        ran.ended.expect_err("failed"),
        "UNAVAILABLE: run r1 failed: cut off; hours committed: 3; \
         not rated: 2026-06-01T10:00:00Z to 2026-06-01T12:00:00Z"
    );
    assert_eq!((ran.out.as_str(), ran.err.as_str()), ("", ""));
}

#[tokio::test]
async fn ctrl_c_leaves_the_run_and_says_how_to_find_it() {
    let watch = [Answer::Is(Streams::hangs([progress("r1", RunState::Running, 5)]))].into();
    let script = Script { rate: [begun()].into(), watch, ..Script::default() };
    let ran = interrupted(script, &["--quiet"], tokio::time::sleep(Duration::from_millis(500))).await;
    assert_eq!((ran.ended, ran.out.as_str()), (Ok(ExitCode::from(130)), ""));
    assert_eq!(
        ran.err,
        "rater: run r1 goes on; watch it with `rater runs watch r1`, or stop it with `rater runs cancel r1`\n"
    );
    let script = Script { rate: [Answer::Hangs].into(), ..Script::default() };
    let arguments = ["--request-id", "id"];
    let ran = interrupted(script, &arguments, tokio::time::sleep(Duration::from_millis(200))).await;
    assert_eq!(ran.ended, Ok(ExitCode::from(130)));
    assert!(ran.err.contains("--request-id id finds it again"), "{}", ran.err);
}

#[tokio::test]
async fn a_long_run_tells_its_progress_on_standard_error_alone_unless_quiet() {
    let script = || {
        let mut script = followed(Severity::Info);
        let streams = Streams::hangs([progress("r1", RunState::Running, 5)]);
        script.watch.push_front(Answer::Is(streams));
        script
    };
    let three_seconds = || tokio::time::sleep(Duration::from_secs(3));
    let ran = interrupted(script(), &["-o", "json"], three_seconds()).await;
    assert_eq!(ran.out, "");
    let lines: Vec<&str> = ran.err.lines().collect();
    assert_eq!((lines[0], lines.len()), ("rater: run r1: 5 of 24 hours, 500 events", 2));
    let ran = interrupted(script(), &["-q"], three_seconds()).await;
    assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
}

#[tokio::test]
async fn a_detached_run_prints_its_id_and_state_and_is_left() {
    for (format, expected) in [
        ("table", "run          \nrun_id  r1\nstate   running\n"),
        ("csv", "run_id,state\nr1,running\n"),
        ("json", "{\"run_id\":\"r1\",\"state\":\"RUN_STATE_RUNNING\"}\n"),
    ] {
        let script = Script { rate: [begun()].into(), ..Script::default() };
        let ran = run(script, &["--detach", "-o", format]).await;
        assert_eq!((ran.ended.as_ref(), ran.err.as_str()), (Ok(&ExitCode::SUCCESS), ""));
        let trimmed = |text: &str| text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
        assert_eq!(trimmed(&ran.out), trimmed(expected));
        assert_eq!((ran.detached(), ran.service.watched()), (vec![true], 0));
    }
}

#[tokio::test]
async fn a_dry_run_prints_its_plan_and_how_to_apply_it() {
    let ran = run(dry(), &["--dry-run"]).await;
    assert_eq!((ran.ended.as_ref(), ran.err.as_str()), (Ok(&ExitCode::SUCCESS), ""));
    let asked = ran.service.rated().remove(0);
    assert_eq!((asked.dry_run, asked.detach, asked.request_id.as_str()), (true, false, ""));
    let places = ["plan_hash", "\nmodel", "+0.5", "\nauth_id", "acme", "(all others)", "RATE_DRIFT"];
    let found: Vec<Option<usize>> = places.iter().map(|place| ran.out.find(place)).collect();
    assert!(found.iter().all(Option::is_some) && found.is_sorted(), "{found:?}\n{}", ran.out);
    assert_eq!(
        ran.out.lines().last(),
        Some("to apply it: rater rate --since 1970-01-01T00:00:00Z --until 1970-01-01T01:00:00Z --apply abc")
    );
    let ran = run(dry(), &["--dry-run", "-o", "csv"]).await;
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_eq!(lines.len(), 2, "{}", ran.out);
    assert!(lines[0].ends_with(",pricebook_digest,plan_hash") && lines[1].ends_with(",abc"), "{}", ran.out);
    let ran = run(dry(), &["--dry-run", "-o", "json"]).await;
    let json: serde_json::Value = serde_json::from_str(&ran.out).expect("one object");
    assert_eq!(json["result"]["changes_by_model"][0]["total_cost"], "1.5");
}

#[tokio::test]
async fn an_invalid_candidate_is_told_like_validate_does() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "version: 1\n").expect("written");
    let name = file.path().to_str().expect("UTF-8");
    let refusal = Error::Invalid(vec![
        Violation::new("pricebook_yaml:3:42", "unquoted_rate", "the rate is not quoted"),
        Violation::new("pricebook_yaml", "too_large", "split it"),
    ]);
    let script = Script { rate: [Answer::Refuses(refusal)].into(), ..Script::default() };
    let ran = run(script, &["--dry-run", "--pricebook", name]).await;
    assert_eq!((ran.ended, ran.out.as_str()), (Ok(ExitCode::FAILURE), ""));
    let expected = format!(
        "{name}:3:42: error: the rate is not quoted [unquoted_rate]\n{name}: error: split it [too_large]\n"
    );
    assert_eq!(ran.err, expected);
    assert_eq!(ran.service.rated().remove(0).pricebook_yaml, "version: 1\n");
}

#[tokio::test]
async fn what_does_not_go_together_is_refused_before_anything_is_asked() {
    for (arguments, named) in [
        (&["--dry-run", "--apply", "abc"][..], "--apply"),
        (&["--dry-run", "--detach"], "--detach"),
        (&["--dry-run", "--request-id", "id"], "--request-id"),
        (&["--pricebook", "new.yaml"], "--dry-run"),
        (&["--dry-run", "--pricebook", "/no/such/new.yaml"], "/no/such/new.yaml"),
    ] {
        let ran = run(Script::default(), arguments).await;
        let said = ran.ended.expect_err("refused");
        assert!(said.contains(named), "{arguments:?}: {said}");
        assert!(ran.service.rated().is_empty());
    }
}
