//! What is stored, and what never can be.

use std::time::{Duration, Instant};

use rater::domain::event::RawEvent;
use rater::service::Error;
use sqlx::Row;

use super::{done, fixture, rejected, violations};

#[tokio::test]
async fn an_event_is_stored_as_it_came() {
    let f = fixture().await;
    let event = RawEvent {
        user_id: "u".into(),
        group_id: "g".into(),
        resource_type: "deployment".into(),
        base_model: "b".into(),
        adapter: "a".into(),
        finish_reason: "stop".into(),
        gpu_type: "H100".into(),
        aborted: true,
        ..f.event("a")
    };
    assert_eq!(f.record(&[event]).await.unwrap(), done(1, 0));
    let row = sqlx::query(
        "SELECT concat_ws('|', auth_id, user_id, group_id, resource_id, resource_type, model, base_model,
            adapter, prompt_tokens, cached_tokens, completion_tokens, finish_reason, gpu_type, aborted,
            to_char(event_ts AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')) AS all,
            created_at > now() - interval '1 minute' AS fresh
        FROM billing_event WHERE request_id = $1",
    )
    .bind("a")
    .fetch_one(f.other())
    .await
    .unwrap();
    assert_eq!(
        row.get::<String, _>("all"),
        "acme|u|g|team|deployment|acme/large|b|a|10|4|3|stop|H100|t|2026-05-28 20:26:40.000005"
    );
    assert!(row.get::<bool, _>("fresh"));
}

#[tokio::test]
async fn empty_text_is_stored_as_null_and_not_aborted_as_false() {
    let f = fixture().await;
    let event = RawEvent { request_id: "a".into(), ..RawEvent::default() };
    assert_eq!(f.record(&[event]).await.unwrap(), done(1, 0));
    let row = sqlx::query(
        "SELECT num_nulls(auth_id, user_id, group_id, resource_id, resource_type, model, base_model, adapter,
            finish_reason, gpu_type, event_ts) AS nulls, aborted
        FROM billing_event WHERE request_id = $1",
    )
    .bind("a")
    .fetch_one(f.other())
    .await
    .unwrap();
    assert_eq!((row.get::<i32, _>("nulls"), row.get::<Option<bool>, _>("aborted")), (11, Some(false)));
}

#[tokio::test]
async fn times_are_stored_rounded_down_and_repeat_as_duplicates() {
    let f = fixture().await;
    // 1.5 µs before 1970, both ends of the range, and a nanosecond before an hour.
    let times =
        [(-1, 999_998_500), (-62_135_596_800, 0), (253_402_300_799, 999_999_999), (3_599, 999_999_999)];
    let events: Vec<RawEvent> = (times.iter().enumerate())
        .map(|(i, time)| RawEvent { event_time: Some(*time), ..f.event(&i.to_string()) })
        .collect();
    assert_eq!(f.record(&events).await.unwrap(), done(4, 0));
    assert_eq!(f.record(&events).await.unwrap(), done(0, 4));
    let mut stored = Vec::new();
    for i in 0..times.len() {
        let micros: i64 = sqlx::query_scalar(
            "SELECT (extract(epoch FROM event_ts) * 1000000)::bigint FROM billing_event WHERE request_id = $1",
        )
        .bind(i.to_string())
        .fetch_one(f.other())
        .await
        .unwrap();
        stored.push(micros);
    }
    assert_eq!(stored, [-2, -62_135_596_800_000_000, 253_402_300_799_999_999, 3_599_999_999]);
}

#[tokio::test]
async fn lengths_are_characters_as_the_columns_count_them() {
    let f = fixture().await;
    let fill = |n| "\u{1F600}".repeat(n);
    let event = RawEvent {
        request_id: fill(255),
        auth_id: fill(64),
        user_id: fill(32),
        group_id: fill(32),
        resource_id: fill(64),
        resource_type: fill(64),
        model: fill(255),
        base_model: fill(255),
        adapter: fill(255),
        finish_reason: fill(64),
        gpu_type: fill(64),
        ..RawEvent::default()
    };
    assert_eq!(f.record(std::slice::from_ref(&event)).await.unwrap(), done(1, 0));
    let longer = RawEvent { user_id: fill(33), ..event };
    assert_eq!(violations(f.record(&[longer]).await), [("events[0].user_id".into(), "TOO_LONG")]);
}

#[tokio::test]
async fn one_bad_event_stores_none_and_every_bad_field_is_named() {
    let f = fixture().await;
    let events = [
        f.event("a"),
        RawEvent { request_id: String::new(), prompt_tokens: -1, ..f.event("b") },
        f.event("c"),
        RawEvent { model: "a\0".into(), completion_tokens: 1 << 31, ..f.event("d") },
    ];
    let expected = [
        ("events[1].request_id".to_string(), "MISSING"),
        ("events[1].prompt_tokens".to_string(), "NEGATIVE"),
        ("events[3].model".to_string(), "NUL_CHARACTER"),
        ("events[3].completion_tokens".to_string(), "TOO_LARGE"),
    ];
    assert_eq!(violations(f.record(&events).await), expected);
    assert_eq!(f.count().await, 0);
}

#[tokio::test]
async fn skip_invalid_stores_the_others_and_rejects_each_bad_event_once() {
    let f = fixture().await;
    let events = [
        f.event("a"),
        RawEvent { prompt_tokens: -1, gpu_type: "x".repeat(65), ..f.event("b") },
        f.event("c"),
        RawEvent { prompt_tokens: 11, ..f.event("a") },
        RawEvent { request_id: String::new(), ..f.event("d") },
    ];
    let recorded = f.record_skipping(&events).await.unwrap();
    assert_eq!((recorded.stored, recorded.duplicates), (2, 0));
    let expected =
        [(1, "prompt_tokens", "NEGATIVE"), (3, "request_id", "EVENT_CONFLICT"), (4, "request_id", "MISSING")];
    assert_eq!(rejected(&recorded), expected);
    assert_eq!(recorded.rejected[0].request_id, "b");
    assert_eq!(f.count().await, 2);
    // None that could be stored is a fine batch, too.
    let recorded = f.record_skipping(&events[4..]).await.unwrap();
    assert_eq!(rejected(&recorded), [(0, "request_id", "MISSING")]);
}

#[tokio::test]
async fn a_batch_has_at_most_10_000_events() {
    let f = fixture().await;
    let mut events: Vec<RawEvent> = (0..10_001).map(|i| f.event(&i.to_string())).collect();
    for skip in [false, true] {
        let result = f.intake.record(events.clone(), skip).await;
        assert_eq!(violations(result), [("events".into(), "TOO_MANY")]);
    }
    assert_eq!(f.count().await, 0);
    events.pop();
    assert_eq!(f.record(&events).await.unwrap(), done(10_000, 0));
    assert_eq!(f.record(&events).await.unwrap(), done(0, 10_000));
}

#[tokio::test]
async fn an_empty_batch_is_fine() {
    let f = fixture().await;
    assert_eq!(f.record(&[]).await.unwrap(), done(0, 0));
}

#[tokio::test]
async fn batches_past_the_admission_are_refused_at_once() {
    let f = fixture().await;
    let mut writer = f.other().begin().await.unwrap();
    sqlx::query("INSERT INTO billing_event (request_id) VALUES ($1)")
        .bind("a")
        .execute(&mut *writer)
        .await
        .unwrap();
    // All of them wait for the other writer.
    let waiting: Vec<_> = (0..32)
        .map(|_| {
            let (intake, events) = (f.intake.clone(), vec![f.event("a")]);
            tokio::spawn(async move { intake.record(events, true).await })
        })
        .collect();
    let deadline = Instant::now() + Duration::from_secs(10);
    let refused = loop {
        assert!(Instant::now() < deadline, "33 batches at once");
        tokio::time::sleep(Duration::from_millis(10)).await;
        match tokio::time::timeout(Duration::from_secs(1), f.record(&[])).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => break error,
            Err(_) => panic!("queued instead of refused"),
        }
    };
    assert!(matches!(refused, Error::Overloaded), "{refused:?}");
    writer.rollback().await.unwrap();
    for task in waiting {
        task.await.unwrap().unwrap();
    }
    assert_eq!(f.record(&[f.event("a")]).await.unwrap(), done(0, 1));
}
