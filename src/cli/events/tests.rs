//! Against a service that does as it is told.

use std::io::ErrorKind;

use super::*;
use crate::domain::violation::Violation;
use crate::grpc::client::scripted::{Does, serve};
use crate::proto::RejectedEvent;
use crate::service::Error;

/// What a `send` did.
struct Ran {
    complete: bool,
    out: String,
    err: String,
    /// How many events each call had.
    calls: Vec<usize>,
}

#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    events: Events,
}

/// Runs `rater events send - ARGUMENTS` on `input`.
async fn run(script: Vec<Does>, arguments: &[&str], input: &str) -> Ran {
    let service = serve(script, 0).await;
    let url = service.server().url;
    let arguments = [&["events", "send", "-", "--server", &url], arguments].concat();
    let cli = <Cli as clap::Parser>::try_parse_from(arguments).expect("valid arguments");
    let Command::Send(send) = cli.events.command else { panic!("send") };
    let channel = send.client.channel().await.expect("it listens");
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let console = Console::to(&mut out, &mut err);
    let sent = send.send("in.ndjson", input.as_bytes(), channel, console).await;
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Ran { complete: sent.expect("printed"), out: text(out), err: text(err), calls: service.calls() }
}

fn lines(count: usize) -> String {
    (0..count).map(|i| format!("{{\"request_id\":\"r{i}\"}}\n")).collect()
}

#[tokio::test]
async fn a_file_is_sent_in_batches_and_summed_up() {
    let ran = run(vec![], &["--batch-size", "2"], &lines(5)).await;
    assert!(ran.complete, "{}", ran.err);
    assert_eq!((ran.calls, ran.err.as_str()), (vec![2, 2, 1], ""));
    assert_eq!(ran.out, "stored  duplicates  rejected\n     5           0         0\n");
    let ran = run(vec![], &["-o", "csv"], &lines(5)).await;
    assert_eq!((ran.calls, ran.out.as_str()), (vec![5], "stored,duplicates,rejected\n5,0,0\n"));
    let ran = run(vec![], &["-o", "json"], "").await;
    assert!(ran.complete && ran.calls.is_empty());
    assert_eq!(ran.out, "{\"stored\":\"0\",\"duplicates\":\"0\",\"rejected\":[]}\n");
}

#[tokio::test]
async fn a_batch_without_an_answer_is_told_once_and_tried_again() {
    let script = [ErrorKind::ConnectionRefused, ErrorKind::TimedOut].map(Does::Fails).into();
    let ran = run(script, &[], &lines(2)).await;
    assert!(ran.complete, "{}", ran.err);
    assert_eq!(
        (ran.calls, ran.err.as_str()),
        (vec![2; 3], "UNAVAILABLE: later; trying again for up to 60s\n")
    );
}

#[tokio::test]
async fn a_service_that_stays_away_fails_the_command() {
    let script = (0..100).map(|_| Does::Fails(ErrorKind::ConnectionRefused)).collect();
    let ran = run(script, &["--retry-for", "300ms"], &lines(2)).await;
    assert!(!ran.complete);
    let last = ran.err.lines().last().unwrap_or_default();
    assert!(
        last.starts_with(
            "in.ndjson:1-2: given up; these lines may be stored or not: UNAVAILABLE: later; 0 stored"
        ),
        "{last}"
    );
}

#[tokio::test]
async fn a_refused_batch_names_the_lines_and_is_not_tried_again() {
    let refusal = Error::Invalid(vec![
        Violation::new("events[0].prompt_tokens", "NEGATIVE", "is -1; a token count is 0 or more"),
        Violation::new("events[1].request_id", "MISSING", "is empty; give each event an id of its own"),
    ]);
    let input = format!("{}\n\n{}", lines(2), lines(2));
    let ran = run(vec![Does::Rejects(vec![]), Does::Refuses(refusal)], &["--batch-size", "2"], &input).await;
    assert!(!ran.complete);
    assert_eq!(ran.calls, [2, 2]);
    let err: Vec<&str> = ran.err.lines().collect();
    assert_eq!(err[0], "in.ndjson:5: prompt_tokens: NEGATIVE: is -1; a token count is 0 or more");
    assert_eq!(err[1], "in.ndjson:6: request_id: MISSING: is empty; give each event an id of its own");
    assert!(
        err[2].starts_with("in.ndjson:5-6: these lines were not stored: INVALID_ARGUMENT: "),
        "{}",
        err[2]
    );
    assert!(err[2].contains(
        "; fix them, or leave out the bad ones with --skip-invalid; 2 stored and 0 duplicates before"
    ));
    assert_eq!(ran.out.lines().last().map(str::trim), Some("2           0         0"));
}

#[tokio::test]
async fn a_bad_line_ends_the_command_and_says_what_was_stored_before_it() {
    for skip in [&[][..], &["--skip-invalid"]] {
        let input = format!("{}{{\"promt_tokens\":1}}\n{}", lines(3), lines(3));
        let arguments = [&["--batch-size", "2"], skip].concat();
        let ran = run(vec![], &arguments, &input).await;
        assert!(!ran.complete);
        assert_eq!(ran.calls, [2]);
        assert!(ran.err.starts_with("in.ndjson:4: there is no field \"promt_tokens\"; "), "{}", ran.err);
        assert!(ran.err.contains("2 stored and 0 duplicates before"), "{}", ran.err);
        assert_eq!(ran.err.lines().count(), 1);
    }
}

#[tokio::test]
async fn rejected_events_are_named_by_line_and_fail_the_command() {
    let rejected = |index| RejectedEvent {
        index,
        request_id: "r\n1".into(),
        field: "prompt_tokens".into(),
        reason: "NEGATIVE".into(),
    };
    let script = || vec![Does::Rejects(vec![rejected(1)]), Does::Rejects(vec![rejected(0)])];
    let input = format!("\n{}", lines(4));
    let arguments = ["--skip-invalid", "--batch-size", "2", "-o"];
    let ran = run(script(), &[&arguments[..], &["csv"]].concat(), &input).await;
    assert!(!ran.complete, "not every event is stored");
    let expected = "in.ndjson:3: rejected: prompt_tokens NEGATIVE (request_id \"r\\n1\")\n\
                    in.ndjson:4: rejected: prompt_tokens NEGATIVE (request_id \"r\\n1\")\n";
    assert_eq!(ran.err, expected);
    assert_eq!(ran.out, "stored,duplicates,rejected\n2,0,2\n");

    let ran = run(script(), &[&arguments[..], &["json"]].concat(), &input).await;
    // Indices of the whole input, not of the calls.
    let json: serde_json::Value = serde_json::from_str(&ran.out).expect("one object");
    assert_eq!((&json["rejected"][0]["index"], &json["rejected"][1]["index"]), (&1.into(), &2.into()));
    assert_eq!(json["rejected"][0]["request_id"], "r\n1");
}
