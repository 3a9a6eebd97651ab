use prost::Message;

use super::*;
use crate::proto::RecordEventsRequest;

async fn read(text: &[u8], size: usize) -> Result<Vec<Batch>, InputError> {
    // A small buffer, so that lines span several fills.
    let mut input = Input::new(tokio::io::BufReader::with_capacity(16, text));
    let mut batches = Vec::new();
    loop {
        let batch = input.batch(size).await?;
        if batch.events.is_empty() {
            return Ok(batches);
        }
        batches.push(batch);
    }
}

async fn refused(text: &str) -> (u64, String) {
    let error = read(text.as_bytes(), 10).await.expect_err(text);
    (error.line, error.what)
}

#[tokio::test]
async fn both_forms_of_field_names_are_taken() {
    let text = concat!(
        r#"{"request_id":"a","prompt_tokens":12,"cached_tokens":"3","event_time":"2026-06-01T00:00:00.5Z"}"#,
        "\n",
        r#"{"requestId":"a","promptTokens":"12","cachedTokens":3,"eventTime":"2026-06-01T02:00:00.500+02:00"}"#,
    );
    let batches = read(text.as_bytes(), 10).await.expect("valid");
    let [snake, camel] = &batches[0].events[..] else { panic!("two events") };
    assert_eq!(snake, camel);
    assert_eq!((snake.prompt_tokens, snake.cached_tokens), (12, 3));
    let time = prost_types::Timestamp { seconds: 1_780_272_000, nanos: 500_000_000 };
    assert_eq!(snake.event_time, Some(time));
}

#[tokio::test]
async fn lines_are_counted_and_blank_ones_skipped() {
    let text = "\n{\"request_id\":\"a\"}\r\n \t\r\n\n{\"request_id\":\"b\"}\n{\"request_id\":\"c\"}";
    let batches = read(text.as_bytes(), 2).await.expect("valid");
    assert_eq!(batches.iter().map(|b| b.lines.clone()).collect::<Vec<_>>(), [vec![2, 5], vec![6]]);
    assert!(read(b"", 2).await.expect("empty").is_empty());
    assert!(read(b"\n\n", 2).await.expect("blank").is_empty());
}

#[tokio::test]
async fn a_bad_line_is_named_with_what_to_do() {
    let good = r#"{"request_id":"a"}"#;
    for (bad, says) in [
        ("{", "column 1: EOF while parsing"),
        ("[]", "invalid type: sequence, expected an object"),
        ("null", "invalid type: null, expected an object"),
        (r#"{"promt_tokens":1}"#, "no field \"promt_tokens\""),
        (r#"{"prompt_tokens":1.5}"#, "column 20: expected integer"),
        (r#"{"prompt_tokens":"x"}"#, "column 20"),
        (r#"{"request_id":1}"#, "expected a string"),
        (r#"{"event_time":"yesterday"}"#, "column 25"),
        (r#"{"prompt_tokens":1,"prompt_tokens":2}"#, "\"prompt_tokens\" stands twice"),
        (r#"{"prompt_tokens":1,"promptTokens":2}"#, "\"prompt_tokens\" stands twice"),
        (r#"{"request_id":"a"} {"request_id":"b"}"#, "trailing characters"),
        ("{\"request_id\":\"\u{0}\"}", "control character"),
    ] {
        let (line, what) = refused(&format!("{good}\n\n{bad}\n{good}\n")).await;
        assert_eq!(line, 3);
        assert!(what.contains(says), "{bad}: {what}");
        assert!(what.contains("; "), "what to do: {what}");
    }
    let (_, what) = refused(&format!("{{\"\\u001b[31m{}\":1}}", "x".repeat(10_000))).await;
    assert!(what.len() < 250 && !what.contains('\u{1b}'), "{what}");
    let bytes = read(b"{\"request_id\":\"\xff\"}", 10).await.expect_err("not UTF-8");
    assert!(bytes.what.contains("unicode"), "{}", bytes.what);
}

#[tokio::test]
async fn a_line_without_an_end_is_refused_and_not_read_to_the_end() {
    let mut input = Input::new(tokio::io::BufReader::new(tokio::io::repeat(b'x')));
    let error = input.batch(10).await.expect_err("endless");
    assert!(error.what.contains("put one event on a line"), "{}", error.what);
}

#[tokio::test]
async fn a_batch_stays_below_2_mib() {
    let line = format!("{{\"request_id\":\"{}\"}}\n", "x".repeat(200 * 1024));
    let batches = read(line.repeat(25).as_bytes(), 1_000).await.expect("valid");
    assert_eq!(batches.iter().map(|batch| batch.events.len()).sum::<usize>(), 25);
    for batch in batches {
        let request = RecordEventsRequest { events: batch.events, skip_invalid: true };
        assert!(request.encoded_len() < 2 * 1024 * 1024, "{}", request.encoded_len());
    }
}
