//! Bad input through a file, standard input and the socket: each line is named, and nothing of it
//! is half-stored.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::letters::list;
use super::producer::{Answer, Connection};
use super::*;
use crate::harness::Output;
use crate::stage::until;

/// What is no event, and what the service refuses with which reason; good lines around each.
fn bad_lines() -> Vec<(String, Bad)> {
    let event = |field: &str, value: Value| {
        let mut event = json!({"request_id": format!("bad-{field}"), "adapter": field});
        event[field] = value;
        event.to_string()
    };
    vec![
        ("this is no JSON".into(), Bad::NoEvent),
        (r#"{"request_id":"a","tokens":1}"#.into(), Bad::NoEvent),
        (r#"{"request_id":"a","prompt_tokens":9223372036854775808}"#.into(), Bad::NoEvent),
        (r#"{"request_id":"a","prompt_tokens":1.5}"#.into(), Bad::NoEvent),
        (r#"{"request_id":"a"} {"request_id":"b"}"#.into(), Bad::NoEvent),
        (r#"{"request_id":"a","#.into(), Bad::NoEvent),
        ("{\"request_id\":\"a\0b\"}".into(), Bad::NoEvent),
        (r#"["a"]"#.into(), Bad::NoEvent),
        (format!(r#"{{"request_id":"{}"}}"#, "l".repeat(300 * 1024)), Bad::TooLong),
        (event("prompt_tokens", json!(1_u64 << 31)), Bad::Content("TOO_LARGE")),
        (event("completion_tokens", json!(-1)), Bad::Content("NEGATIVE")),
        (event("request_id", json!("r".repeat(256))), Bad::Content("TOO_LONG")),
        (r#"{"adapter":"none"}"#.into(), Bad::Content("MISSING")),
        (event("model", json!("a\0b")), Bad::Content("NUL_CHARACTER")),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bad {
    NoEvent,
    TooLong,
    /// The service's to judge.
    Content(&'static str),
}

/// The bad lines, each after a good one, and the numbers that they stand at.
fn text() -> (String, Vec<(u64, String, Bad)>) {
    let (mut text, mut numbers) = (String::new(), Vec::new());
    for (n, (line, bad)) in bad_lines().into_iter().enumerate() {
        text += &format!("{{\"request_id\":\"good-{n}\"}}\n{line}\n");
        numbers.push((2 * n as u64 + 2, line, bad));
    }
    (text, numbers)
}

/// What every way in leaves behind.
async fn held(scene: &Scene, numbers: &[(u64, String, Bad)], lines_kept: bool) {
    let stored: Vec<String> = sqlx::query_scalar("SELECT request_id FROM billing_event ORDER BY request_id")
        .fetch_all(&scene.stage.pool)
        .await
        .unwrap();
    let good: BTreeSet<String> = (0..numbers.len()).map(|n| format!("good-{n}")).collect();
    assert_eq!(
        stored.into_iter().collect::<BTreeSet<_>>(),
        good,
        "the good ones, and nothing of the bad ones"
    );
    let letters = list(&scene.place.spool);
    let reason = |letter: &Value| letter["history"][0]["reason"].as_str().unwrap().to_string();
    let count = |wanted: &str| letters.iter().filter(|letter| reason(letter) == wanted).count();
    for (_, _, bad) in numbers {
        if let Bad::Content(wanted) = bad {
            assert_eq!(count(wanted), 1, "{wanted} in {letters:#?}");
        }
    }
    let lines: Vec<&str> = letters.iter().filter_map(|letter| letter["line"].as_str()).collect();
    for (_, line, bad) in numbers {
        if *bad == Bad::NoEvent {
            assert_eq!(lines.contains(&line.as_str()), lines_kept, "{line}");
        }
    }
}

async fn through(scene: &Scene, arguments: Vec<String>, input: String) -> Output {
    let place = scene.place.clone();
    let work = move || {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        place.forward(&arguments, &input)
    };
    tokio::task::spawn_blocking(work).await.unwrap()
}

fn assert_named(output: &Output, name: &str, numbers: &[(u64, String, Bad)]) {
    assert_eq!(output.code(), Some(1), "{output:?}");
    for (number, line, bad) in numbers {
        let start = format!("{name}:{number}: ");
        let named = output.stderr.lines().filter(|line| line.starts_with(&start)).count();
        let expected = usize::from(!matches!(bad, Bad::Content(_)));
        assert_eq!(named, expected, "line {number}, {:.40}, in {}", line, output.stderr);
    }
    assert!(!output.stderr.contains('\0'));
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_lines_of_a_file_are_named_and_kept_and_the_others_are_stored() {
    let scene = Scene::new().await;
    let (text, numbers) = text();
    let file = scene.place.spool.with_extension("ndjson");
    std::fs::write(&file, text).unwrap();
    let name = file.to_str().unwrap();
    let output = through(&scene, vec![name.into()], String::new()).await;
    assert_named(&output, name, &numbers);
    held(&scene, &numbers, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_lines_of_standard_input_are_named_and_kept_and_the_others_are_stored() {
    let scene = Scene::new().await;
    let (text, numbers) = text();
    let output = through(&scene, vec!["-".into()], text).await;
    assert_named(&output, "stdin", &numbers);
    held(&scene, &numbers, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_lines_on_the_socket_are_refused_by_number_and_the_connection_stays() {
    let scene = Scene::new().await;
    let sender = scene.place.start(&[]).await;
    let (text, numbers) = text();
    let mut connection = Connection::open(&scene.place.socket).await.unwrap();
    // A blank line counts; the last line has no end.
    let text = format!("{text}\n{}", r#"{"request_id":"good-0"}"#);
    let last = text.lines().count() as u64;
    let writing = text.clone();
    let path = scene.place.socket.clone();
    connection.write(writing.as_bytes()).await.unwrap();
    connection.end().await;
    let mut refused = Vec::new();
    let mut up_to = 0;
    while let Some(answer) = connection.answer().await.unwrap() {
        match answer {
            Answer::UpTo(line) => up_to = line,
            Answer::Refused { line, reason, error } => {
                assert!(!error.is_empty() && !error.chars().any(char::is_control), "{error:?}");
                refused.push((line, reason));
            }
        }
    }
    assert_eq!(up_to, last, "after what it was told of");
    let expected: Vec<(u64, String)> = numbers
        .iter()
        .filter_map(|(number, _, bad)| match bad {
            Bad::NoEvent => Some((*number, "NOT_AN_EVENT".into())),
            Bad::TooLong => Some((*number, "LINE_TOO_LONG".into())),
            Bad::Content(_) => None,
        })
        .collect();
    assert_eq!(refused, expected);
    // Others are served all the while, and bytes that are no text are refused, too.
    let mut other = Connection::open(&path).await.unwrap();
    other.write(b"\xff\xfe{}\n").await.unwrap();
    let answer = other.answer().await.unwrap().unwrap();
    assert!(matches!(answer, Answer::Refused { line: 1, .. }), "{answer:?}");
    let all = numbers.len() as i64;
    until("the good ones are stored", SOON, async || scene.stored().await == all).await;
    drop(sender);
    scene.place.drain().await;
    held(&scene, &numbers, false).await;
}
