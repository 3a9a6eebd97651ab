//! Ids that are known already: duplicates and conflicts.

use rater::domain::event::RawEvent;
use rater::service::Error;

use super::{done, fixture, rejected, violations};

#[tokio::test]
async fn a_repeated_batch_is_all_duplicates_and_changes_nothing() {
    let f = fixture().await;
    let events = [f.event("a"), f.event("b")];
    assert_eq!(f.record(&events).await.unwrap(), done(2, 0));
    assert_eq!(f.record(&events).await.unwrap(), done(0, 2));
    let more = [f.event("c"), f.event("a")];
    assert_eq!(f.record(&more).await.unwrap(), done(1, 1));
    assert_eq!(f.count().await, 3);
}

#[tokio::test]
async fn an_event_without_a_time_of_its_own_repeats_as_a_duplicate() {
    let f = fixture().await;
    let event = RawEvent { event_time: None, ..f.event("a") };
    assert_eq!(f.record(std::slice::from_ref(&event)).await.unwrap(), done(1, 0));
    assert_eq!(f.record(&[event]).await.unwrap(), done(0, 1));
    assert_eq!(
        violations(f.record(&[f.event("a")]).await),
        [("events[0].request_id".into(), "EVENT_CONFLICT")]
    );
}

#[tokio::test]
async fn every_field_of_the_content_counts() {
    let f = fixture().await;
    f.record(&[f.event("a")]).await.unwrap();
    let set: [fn(&mut RawEvent); 15] = [
        |e| e.auth_id = "x".into(),
        |e| e.user_id = "x".into(),
        |e| e.group_id = "x".into(),
        |e| e.resource_id = "x".into(),
        |e| e.resource_type = "x".into(),
        |e| e.model = String::new(),
        |e| e.base_model = "x".into(),
        |e| e.adapter = "x".into(),
        |e| e.prompt_tokens += 1,
        |e| e.cached_tokens += 1,
        |e| e.completion_tokens += 1,
        |e| e.finish_reason = "x".into(),
        |e| e.gpu_type = "x".into(),
        |e| e.aborted = true,
        |e| e.event_time = Some((1_780_000_000, 6_000)),
    ];
    for (i, set) in set.into_iter().enumerate() {
        let mut other = f.event("a");
        set(&mut other);
        // Against what is stored, and against an earlier event of the batch.
        let known = f.record_skipping(&[other.clone()]).await.unwrap();
        assert_eq!(rejected(&known), [(0, "request_id", "EVENT_CONFLICT")], "field {i}");
        let (first, mut second) = (f.event(&i.to_string()), other);
        second.request_id.clone_from(&first.request_id);
        let both = f.record_skipping(&[first, second]).await.unwrap();
        assert_eq!(
            (both.stored, rejected(&both)),
            (1, vec![(1, "request_id", "EVENT_CONFLICT")]),
            "field {i}"
        );
    }
    assert_eq!(f.prompt_tokens("a").await, 10);
}

#[tokio::test]
async fn empty_text_and_a_missing_aborted_of_other_writers_compare_as_ours() {
    let f = fixture().await;
    sqlx::query(
        "INSERT INTO billing_event (request_id, auth_id, user_id, group_id, resource_id, resource_type, model,
            base_model, adapter, finish_reason, gpu_type, aborted)
        VALUES ($1, '', '', '', '', '', '', '', '', '', '', NULL), ($2, NULL, '', NULL, '', NULL, '',
            NULL, '', NULL, '', false)",
    )
    .bind("a")
    .bind("b")
    .execute(f.other())
    .await
    .unwrap();
    let event = |name: &str| RawEvent { request_id: name.into(), ..RawEvent::default() };
    assert_eq!(f.record(&[event("a"), event("b")]).await.unwrap(), done(0, 2));
    let aborted = RawEvent { aborted: true, ..event("a") };
    assert_eq!(violations(f.record(&[aborted]).await), [("events[0].request_id".into(), "EVENT_CONFLICT")]);
}

#[tokio::test]
async fn rows_that_others_stored_beyond_our_ranges_conflict_and_do_no_harm() {
    let f = fixture().await;
    sqlx::query(
        "INSERT INTO billing_event (request_id, event_ts, prompt_tokens) VALUES ($1, 'infinity', -5)",
    )
    .bind("a")
    .execute(f.other())
    .await
    .unwrap();
    let recorded = f.record_skipping(&[f.event("a"), f.event("b")]).await.unwrap();
    assert_eq!((recorded.stored, rejected(&recorded)), (1, vec![(0, "request_id", "EVENT_CONFLICT")]));
}

#[tokio::test]
async fn a_conflict_stores_none_of_the_batch_and_names_each() {
    let f = fixture().await;
    f.record(&[f.event("b")]).await.unwrap();
    let events = [
        f.event("a"),
        RawEvent { prompt_tokens: 11, ..f.event("b") },
        f.event("c"),
        RawEvent { prompt_tokens: 12, ..f.event("b") },
    ];
    let result = f.record(&events).await;
    assert!(matches!(result, Err(Error::EventConflict(_))), "{result:?}");
    let expected = [
        ("events[1].request_id".into(), "EVENT_CONFLICT"),
        ("events[3].request_id".into(), "EVENT_CONFLICT"),
    ];
    assert_eq!(violations(result), expected);
    assert_eq!((f.count().await, f.prompt_tokens("b").await), (1, 10));
}

#[tokio::test]
async fn within_a_batch_the_first_is_stored_and_later_ones_are_held_against_it() {
    let f = fixture().await;
    let other = RawEvent { prompt_tokens: 11, ..f.event("a") };
    let result = f.record(&[f.event("a"), other.clone(), f.event("b")]).await;
    assert_eq!(violations(result), [("events[1].request_id".into(), "EVENT_CONFLICT")]);
    assert_eq!(f.count().await, 0);

    assert_eq!(f.record(&[f.event("a"), f.event("a")]).await.unwrap(), done(1, 1));
    let recorded = f.record_skipping(&[f.event("c"), f.event("c"), other]).await.unwrap();
    assert_eq!((recorded.stored, recorded.duplicates), (1, 1));
    assert_eq!(rejected(&recorded), [(2, "request_id", "EVENT_CONFLICT")]);
}

#[tokio::test]
async fn every_event_of_an_id_is_held_against_what_is_stored_and_not_against_the_first() {
    let f = fixture().await;
    f.record(&[f.event("a")]).await.unwrap();
    let other = RawEvent { prompt_tokens: 11, ..f.event("a") };
    let batch = [other.clone(), f.event("a"), other];
    let expected = [
        ("events[0].request_id".into(), "EVENT_CONFLICT"),
        ("events[2].request_id".into(), "EVENT_CONFLICT"),
    ];
    assert_eq!(violations(f.record(&batch).await), expected);
    let recorded = f.record_skipping(&batch).await.unwrap();
    assert_eq!((recorded.stored, recorded.duplicates), (0, 1));
    assert_eq!(rejected(&recorded).len(), 2);
}

#[tokio::test]
async fn an_invalid_event_does_not_use_up_its_id() {
    let f = fixture().await;
    let bad = RawEvent { prompt_tokens: -1, ..f.event("a") };
    let recorded = f.record_skipping(&[bad, f.event("a")]).await.unwrap();
    assert_eq!((recorded.stored, rejected(&recorded)), (1, vec![(0, "prompt_tokens", "NEGATIVE")]));
}
