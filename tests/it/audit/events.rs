//! Every closed hour against a fresh rating of its events.

use std::fs;

use super::{UNCHECKED, audit, listed, totals};
use crate::harness::event;
use crate::rig::{BOOK, Rig, backfill, dearer};

/// Ten events of ten customers in each of the hours 10 to 14, rated.
async fn rated() -> Rig {
    let events = (0..50).map(|n| {
        event(&format!("e-{n}"))
            .auth(&format!("auth-{}", n % 10))
            .at(&format!("2026-06-01T{}:15:00Z", 10 + n / 10))
    });
    let rig = Rig::with_events(events).await;
    rig.rated(backfill(10, 15)).await;
    rig
}

fn from_events(rig: &Rig) -> (Option<i32>, serde_json::Value) {
    audit(rig, &["--from-events", "--pricebook", rig.book_path().to_str().unwrap()])
}

#[tokio::test]
async fn what_was_rated_agrees_at_its_own_rates_whatever_today_costs() {
    let rig = rated().await;
    let dear = rig.book_path().with_file_name("dear.yaml");
    fs::write(&dear, dearer()).unwrap();
    let before = (rig.versions("rated_usage").await, rig.versions("rating_run").await);
    let drift = vec!["rate_drift USD 50 0.0225 0 0".to_string()];
    for (book, notes) in [(&rig.book_path(), vec![]), (&dear, drift)] {
        let (code, said) = audit(&rig, &["--from-events", "--pricebook", book.to_str().unwrap()]);
        assert_eq!((code, totals(&said)), (Some(0), notes), "{said}");
        // Its rows, its events, and the rows once more beside them.
        assert_eq!((&said["job"]["rows_done"], &said["job"]["rows"]), (&"150".into(), &"150".into()));
    }
    assert_eq!((rig.versions("rated_usage").await, rig.versions("rating_run").await), before);
}

#[tokio::test]
async fn rows_missing_rows_too_many_and_other_tokens_are_told_in_money_by_currency() {
    let rig = rated().await;
    rig.sql(&format!(
        "{UNCHECKED};
         -- 10: a row is gone. 11: its events are, of two. 12: fewer tokens, and one more event.
         DELETE FROM rated_usage WHERE auth_id = 'auth-1' AND window_start = '2026-06-01T10:00Z';
         DELETE FROM billing_event WHERE auth_id IN ('auth-1', 'auth-2') AND event_ts = '2026-06-01T11:15Z';
         UPDATE billing_event SET completion_tokens = 9 WHERE auth_id = 'auth-1' AND event_ts = '2026-06-01T12:15Z';
         INSERT INTO billing_event (request_id, auth_id, resource_id, model, event_ts, prompt_tokens)
         VALUES ('late', 'auth-2', 'resource-1', 'acme/large', '2026-06-01T12:59:59.999999Z', 1000000);
         -- 13: no longer priced, and a cost that its own tokens and rates do not explain, in euros.
         UPDATE billing_event SET model = 'acme/none' WHERE auth_id = 'auth-1' AND event_ts = '2026-06-01T13:15Z';
         UPDATE rated_usage SET model_id = 'acme/none' WHERE auth_id = 'auth-1' AND window_start = '2026-06-01T13:00Z';
         UPDATE rated_usage SET currency_code = 'EUR', cost = cost + 2.5
         WHERE window_start = '2026-06-01T14:00Z' AND auth_id = 'auth-3';
         UPDATE rated_usage SET currency_code = 'EUR' WHERE window_start = '2026-06-01T14:00Z'"
    ))
    .await;
    let (code, said) = from_events(&rig);
    assert_eq!(code, Some(2), "{said}");
    let said: Vec<String> = totals(&said).into_iter().filter(|line| line.starts_with("events_")).collect();
    assert_eq!(
        said,
        [
            "events_cost EUR 1 2.50045 2.5 0",
            "events_currency EUR 9 0.00405 0 0",
            "events_extra_row USD 2 0.0009 0.0009 0",
            "events_missing_row USD 1 0 0 0.00045",
            "events_not_priced USD 1 0.00045 0.00045 0",
            "events_tokens USD 2 0.0009 0.000015 3",
        ]
    );
    let rows = listed(&rig);
    let late =
        rows.iter().find(|row| row["auth_id"] == "auth-2" && row["finding"] == "events_tokens").unwrap();
    assert_eq!((&late["billed"], &late["expected"]), (&"0.00045".into(), &"3.00045".into()));
    assert_eq!(
        late["detail"],
        "it has 1 events, 100 prompt, 0 cached, 10 completion tokens; by its events it has 2, 1000100, 0, 10"
    );
    // A backfill at those rates is what mends it.
    rig.sql("DELETE FROM rated_usage WHERE window_start >= '2026-06-01T14:00Z'").await;
    rig.rate(backfill(10, 15)).await.unwrap();
    assert_eq!(from_events(&rig).0, Some(0));
}

#[tokio::test]
async fn what_an_adopted_row_does_not_state_can_not_disagree() {
    let rig = rated().await;
    rig.sql(&format!(
        "{UNCHECKED};
         UPDATE rated_usage SET event_count = NULL, billable_prompt_tokens = NULL, currency_code = NULL,
             id = md5(id), fence = NULL, run_id = NULL, rated_at = NULL, pricebook_digest = NULL"
    ))
    .await;
    let (code, said) = from_events(&rig);
    assert_eq!(code, Some(0), "{said}");
    rig.sql("UPDATE rated_usage SET applied_prompt_rate = NULL, cost = NULL WHERE auth_id = 'auth-9'").await;
    let (code, said) = from_events(&rig);
    let said: Vec<String> = totals(&said).into_iter().filter(|line| line.starts_with("events_")).collect();
    assert_eq!((code, said), (Some(2), vec!["events_cost  5 0 0 0.00225".into()]), "by the pricebook");
}

#[tokio::test]
async fn an_hour_that_is_open_is_not_compared_and_one_that_can_not_be_rated_is_passed_over() {
    let rig = rated().await;
    rig.insert([event("open").at(&chrono::Utc::now().to_rfc3339())]).await;
    assert_eq!(from_events(&rig).0, Some(0));
    rig.sql(
        "ALTER TABLE billing_event ALTER prompt_tokens TYPE bigint;
         UPDATE billing_event SET prompt_tokens = 9223372036854775807 WHERE event_ts = '2026-06-01T12:15Z';
         UPDATE billing_event SET auth_id = 'auth-1' WHERE event_ts = '2026-06-01T12:15Z';
         DELETE FROM billing_event WHERE event_ts = '2026-06-01T14:15Z' AND auth_id = 'auth-1'",
    )
    .await;
    let (code, said) = from_events(&rig);
    assert_eq!((code, &said["job"]["rows_passed_over"]), (Some(2), &"1".into()), "{said}");
    assert_eq!(totals(&said), ["events_extra_row USD 1 0.00045 0.00045 0", "unreadable  1 0 0 0"]);
    let rows = listed(&rig);
    assert_eq!(rows[0]["window_start"], "2026-06-01T12:00:00+00:00");
    assert!(rows[0]["detail"].as_str().unwrap().starts_with("the hour could not be rated: "), "{rows:?}");
}

#[tokio::test]
async fn prices_of_rows_that_are_missing_come_from_the_book_that_is_given() {
    let rig = Rig::with_events([event("a")]).await;
    let (code, said) = from_events(&rig);
    assert_eq!((code, totals(&said)), (Some(2), vec!["events_missing_row USD 1 0 0 0.00045".into()]));
    let euro = rig.book_path().with_file_name("euro.yaml");
    fs::write(&euro, BOOK.replace("version: 1", "version: 1\ncurrency: EUR")).unwrap();
    let (_, said) = audit(&rig, &["--from-events", "--pricebook", euro.to_str().unwrap()]);
    assert_eq!(totals(&said), ["events_missing_row EUR 1 0 0 0.00045"]);
}

/// A run refuses the window of such an hour, so that nothing of it is ever rated again.
#[tokio::test]
async fn r13_a_row_in_another_currency_than_the_pricebook_does_not_agree() {
    let rig = rated().await;
    rig.sql("UPDATE rated_usage SET currency_code = 'EUR' WHERE window_start = '2026-06-01T12:00Z'").await;
    let notes = ["currencies EUR 10 0.0045 0 0", "currencies USD 40 0.018 0 0"].map(String::from).to_vec();
    let (code, said) = audit(&rig, &[]);
    assert_eq!((code, totals(&said)), (Some(0), notes.clone()), "a table may have had two pricebooks");
    let (code, said) = from_events(&rig);
    let found = [notes, vec!["events_currency EUR 10 0.0045 0 0".into()]].concat();
    assert_eq!((code, totals(&said)), (Some(2), found), "{said}");
    let detail = "it is in EUR and the pricebook in USD: no run goes over its hour";
    assert_eq!(listed(&rig)[0]["detail"], detail);
    rig.rate(backfill(10, 15)).await.unwrap_err();
}

#[tokio::test]
async fn r15_a_row_that_no_event_can_be_behind_does_not_agree_whatever_its_hour() {
    let rig = rated().await;
    let moved = [
        (1, "'2099-01-01Z'::timestamptz"),
        (2, "date_trunc('hour', now(), 'UTC')"),
        (3, "'0044-03-15T10:00Z BC'::timestamptz"),
        (4, "'4714-11-24Z BC'::timestamptz"),
    ];
    for (auth, hour) in moved {
        let one = format!("auth_id = 'auth-{auth}'");
        rig.sql(&format!(
            "UPDATE rated_usage SET window_start = {hour}, window_end = {hour} + interval '1 hour'
             WHERE {one} AND window_start = '2026-06-01T10:00Z';
             DELETE FROM billing_event WHERE {one} AND event_ts = '2026-06-01T10:15Z'"
        ))
        .await;
    }
    let (code, said) = from_events(&rig);
    let found: Vec<String> = totals(&said).into_iter().filter(|line| line.starts_with("events_")).collect();
    let expected = ["events_extra_row USD 2 0.0009 0.0009 0", "events_open_hour USD 2 0.0009 0 0"];
    assert_eq!((code, found), (Some(2), expected.map(String::from).to_vec()), "{said}");
    assert_eq!(audit(&rig, &[]).0, Some(0), "against itself each of them agrees");
}

#[tokio::test]
async fn an_hour_that_no_run_had_the_time_to_rate_is_no_missing_money() {
    let rig = rated().await;
    let hour = "date_trunc('hour', now(), 'UTC') - interval '1 hour'";
    rig.sql(&format!(
        "INSERT INTO billing_event (request_id, auth_id, resource_id, model, event_ts, prompt_tokens)
         VALUES ('new', 'auth-1', 'resource-1', 'acme/large', {hour} + interval '5 min', 100)"
    ))
    .await;
    let (code, said) = from_events(&rig);
    assert_eq!((code, totals(&said)), (Some(0), vec![]), "{said}");
    let book = rig.book_path();
    let at_once = ["--from-events", "--rated-within", "0s", "--pricebook", book.to_str().unwrap()];
    let (code, said) = audit(&rig, &at_once);
    assert_eq!((code, totals(&said)), (Some(2), vec!["events_missing_row USD 1 0 0 0.0003".into()]));
    // A row there is not compared without a word.
    rig.sql(&format!(
        "UPDATE rated_usage SET window_start = {hour}, window_end = {hour} + interval '1 hour'
         WHERE auth_id = 'auth-2' AND window_start = '2026-06-01T10:00Z';
         DELETE FROM billing_event WHERE auth_id = 'auth-2' AND event_ts = '2026-06-01T10:15Z'"
    ))
    .await;
    let (code, said) = from_events(&rig);
    let notes = ["foreign_id USD 1 0.00045 0 0", "not_compared USD 1 0.00045 0 0"];
    assert_eq!((code, totals(&said)), (Some(0), notes.map(String::from).to_vec()), "{said}");
}

#[tokio::test]
async fn r03_events_that_nobody_bills_and_rates_that_are_not_the_books_are_told() {
    let rig = rated().await;
    rig.sql(
        "INSERT INTO billing_event (request_id, auth_id, resource_id, model, event_ts, prompt_tokens)
         VALUES ('u-1', 'a', 'r', 'acme/none', '2026-06-01T16:05Z', 1), ('u-2', 'b', 'r', 'acme/none', '2026-06-01T16:05Z', 1),
             ('m', 'a', 'r', 'acme/large', '2026-06-01T16:05Z', -1), ('n', '', 'r', 'acme/large', '2026-06-01T17:05Z', 1);
         UPDATE rated_usage SET applied_prompt_rate = 0, applied_cached_rate = 0, applied_completion_rate = 0, cost = 0
         WHERE auth_id = 'auth-1' AND window_start = '2026-06-01T10:00Z'",
    )
    .await;
    let (code, said) = from_events(&rig);
    let notes = [
        "rate_drift USD 1 0 0 0",
        "unbilled_malformed  1 0 0 0",
        "unbilled_unattributable  1 0 0 0",
        "unbilled_unpriced  2 0 0 0",
    ];
    assert_eq!((code, totals(&said)), (Some(0), notes.map(String::from).to_vec()), "{said}");
}

#[tokio::test]
async fn r01_token_counts_past_all_counting_spoil_no_hour() {
    let rig = rated().await;
    rig.sql(&format!(
        "{UNCHECKED}; UPDATE rated_usage SET prompt_tokens = 9223372036854775807, cached_tokens = -1,
             billable_prompt_tokens = NULL WHERE auth_id = 'auth-1' AND window_start = '2026-06-01T10:00Z'"
    ))
    .await;
    let (code, said) = from_events(&rig);
    assert_eq!((code, &said["job"]["rows_passed_over"]), (Some(2), &"0".into()), "{said}");
    assert!(totals(&said).contains(&"events_tokens USD 1 0.00045 0 0".into()), "{said}");
}
