//! Cursors that are refused by name: nothing is ever skipped in silence.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rater::proto::*;
use serde_json::{Value, json};
use tonic::Code;
use tonic_types::StatusExt;

use super::{Client, asked, at, changes, end, fabricate, filtered, ids, messages, place, refused};
use crate::harness::empty_database;
use crate::rig::{BOOK, Rig, backfill, hour, timestamp};

async fn assert_unknown(client: &Client, cursor: &str) {
    let refusal = refused(client, asked(cursor)).await;
    assert_eq!(
        (refusal.code, refusal.reason.as_str()),
        (Code::FailedPrecondition, "CURSOR_UNKNOWN"),
        "{cursor}"
    );
    assert!(refusal.message.contains("take a new first copy"), "{}", refusal.message);
}

/// The cursor with something else in it.
fn tampered(cursor: &str, change: impl Fn(&mut Value)) -> String {
    let mut token: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(cursor).unwrap()).unwrap();
    change(&mut token["k"]);
    URL_SAFE_NO_PAD.encode(token.to_string())
}

#[tokio::test]
async fn a_cursor_that_this_database_never_issued_is_unknown() {
    let rig = Rig::start(BOOK, &[]).await;
    fabricate(rig.pool(), &[3, 2]).await;
    let client = rig.client();
    let good = end(&client).await;
    assert_eq!(changes(&client, asked(&good)).await.0, []);
    for garbage in ["x", "0", "null", "e30", "cursor", "ünknown", "\u{0}", &good[1..], &"A".repeat(100_000)]
    {
        assert_unknown(&client, garbage).await;
    }
    let newest: i64 = rig.one("SELECT max(position) FROM change_batch").await;
    for (field, value) in [
        ("position", json!(newest + 1)),
        ("position", json!(newest - 1)),
        ("position", json!(0)),
        ("position", json!(-1)),
        ("position", json!(i64::MAX)),
        ("position", json!(i64::MIN)),
        ("position", json!("2")),
        ("position", json!(1.5)),
        ("batch_id", json!("00000000-0000-0000-0000-000000000000")),
        ("batch_id", json!("2")),
        ("batch_id", Value::Null),
        ("ordinal", json!(3)),
        ("ordinal", json!(-1)),
        ("ordinal", json!(i64::MAX)),
        ("ordinal", json!(i64::MIN)),
        ("feed_id", json!("00000000-0000-0000-0000-000000000000")),
    ] {
        assert_unknown(&client, &tampered(&good, |place| place[field] = value.clone())).await;
    }
    // Of pages, which are of the same make.
    rig.insert([at("a", 10), at("b", 11)]).await;
    rig.rate(backfill(10, 12)).await.unwrap();
    let request = GetRatedUsageRequest { page_size: 1, ..Default::default() };
    let page = client.clone().get_rated_usage(request).await.unwrap().into_inner();
    assert_unknown(&client, &page.next_page_token).await;
}

#[tokio::test]
async fn a_cursor_of_another_database_is_unknown_even_where_both_are_empty() {
    let one = Rig::start(BOOK, &[]).await;
    // Migrated, and not a copy of what was.
    let other = Rig::on(empty_database().await, BOOK, &["--migrate"]).await;
    let of_nothing = end(&other.client()).await;
    assert_unknown(&one.client(), &of_nothing).await;
    for rig in [&one, &other] {
        fabricate(rig.pool(), &[3]).await;
    }
    let of_something = end(&other.client()).await;
    assert_unknown(&one.client(), &of_something).await;
    assert_eq!(changes(&other.client(), asked(&of_nothing)).await.0.len(), 3);
}

/// A backup holds the feed up to a moment; what was told after it is told of another history.
#[tokio::test]
async fn a_restored_database_knows_the_cursors_that_its_backup_knew_and_no_others() {
    let rig = Rig::start(BOOK, &[]).await;
    let client = rig.client();
    let beginning = end(&client).await;
    fabricate(rig.pool(), &[3, 2]).await;
    let backed_up = end(&client).await;
    fabricate(rig.pool(), &[4, 1, 2]).await;
    let middle = tampered(&end(&client).await, |place| place["ordinal"] = json!(1));
    let lost = [
        end(&client).await,
        middle,
        place(&rig, 3, 4).await,
        place(&rig, 3, 1).await,
        place(&rig, 4, 1).await,
    ];
    rig.sql(
        "DELETE FROM rated_usage_change WHERE batch_id IN (SELECT batch_id FROM change_batch WHERE position > 2);
         DELETE FROM change_batch WHERE position > 2;
         ALTER TABLE change_batch ALTER COLUMN position RESTART WITH 3",
    )
    .await;
    for written in 0..5 {
        for cursor in &lost {
            assert_unknown(&client, cursor).await;
        }
        assert_eq!(changes(&client, asked(&backed_up)).await.0.len(), written * 4);
        assert_eq!(changes(&client, asked(&beginning)).await.0.len(), 5 + written * 4);
        fabricate(rig.pool(), &[4]).await;
    }
    // What its operator does: then first copies that began before are refused, too.
    rig.sql("UPDATE change_feed SET feed_id = gen_random_uuid()").await;
    for cursor in [&beginning, &backed_up] {
        assert_unknown(&client, cursor).await;
    }
    let anew = end(&client).await;
    fabricate(rig.pool(), &[1]).await;
    assert_eq!(changes(&client, asked(&anew)).await.0.len(), 1);
}

#[tokio::test]
async fn a_cursor_belongs_to_its_filter() {
    let rig = Rig::start(BOOK, &[]).await;
    fabricate(rig.pool(), &[20]).await;
    let client = rig.client();
    let auths = |ids: &[&str]| UsageFilter {
        auth_ids: ids.iter().map(|id| id.to_string()).collect(),
        ..Default::default()
    };
    let (told, cursor) = changes(&client, filtered("", &auths(&["auth-1", "auth-2"]))).await;
    assert_eq!(told.len(), 4);
    // The order of values, and one that is there twice, is the same filter.
    let same = filtered(&cursor, &auths(&["auth-2", "auth-1", "auth-2"]));
    assert_eq!(changes(&client, same).await, (vec![], cursor.clone()));
    let since = UsageFilter { since: Some(timestamp(&hour(10))), ..auths(&["auth-1", "auth-2"]) };
    for other in [UsageFilter::default(), auths(&["auth-1"]), since] {
        let refused = messages(&client, filtered(&cursor, &other)).await.expect_err("another filter");
        assert_eq!(refused.code(), Code::InvalidArgument);
        let wrong = refused.get_details_bad_request().unwrap().field_violations;
        assert_eq!(wrong.len(), 1);
        assert_eq!(wrong[0].field, "cursor");
        assert!(wrong[0].description.starts_with("OTHER_FILTER"), "{}", wrong[0].description);
    }
    // A page's cursor belongs to the page's filter.
    let request = GetRatedUsageRequest { filter: Some(auths(&["auth-1"])), ..Default::default() };
    let copied = client.clone().get_rated_usage(request).await.unwrap().into_inner().change_cursor;
    fabricate(rig.pool(), &[20]).await;
    let (told, _) = changes(&client, filtered(&copied, &auths(&["auth-1"]))).await;
    assert_eq!(told.len(), 2);
}

#[tokio::test]
async fn a_filter_that_is_none_is_refused_by_its_field() {
    let rig = Rig::start(BOOK, &[]).await;
    let many = |count: usize| (0..count).map(|n| n.to_string()).collect::<Vec<_>>();
    let none = UsageFilter::default;
    let (late, early) = (Some(timestamp(&hour(11))), Some(timestamp(&hour(10))));
    for (field, filter) in [
        ("filter.until", UsageFilter { since: late, until: early, ..none() }),
        ("filter.auth_ids", UsageFilter { auth_ids: many(1_001), ..none() }),
        ("filter.resource_ids", UsageFilter { resource_ids: many(1_001), ..none() }),
        ("filter.model_ids", UsageFilter { model_ids: vec!["a\0".into()], ..none() }),
        (
            "filter.since",
            UsageFilter { since: Some(prost_types::Timestamp { seconds: i64::MAX, nanos: 0 }), ..none() },
        ),
    ] {
        let refused = messages(&rig.client(), filtered("", &filter)).await.expect_err(field);
        assert_eq!(refused.code(), Code::InvalidArgument, "{field}");
        assert_eq!(refused.get_details_bad_request().unwrap().field_violations[0].field, field);
    }
    let most = UsageFilter { auth_ids: many(1_000), ..none() };
    assert_eq!(changes(&rig.client(), filtered("", &most)).await.0, []);
}

/// A table that was adopted with rows in it: the first change is not where its story begins.
#[tokio::test]
async fn an_empty_cursor_is_expired_where_the_first_change_is_not_the_whole_story() {
    let rig = Rig::start(BOOK, &[]).await;
    rig.sql("UPDATE change_feed SET whole_story = false").await;
    let client = rig.client();
    let copied = end(&client).await;
    for written in 0..2 {
        let refusal = refused(&client, asked("")).await;
        assert_eq!((refusal.code, refusal.reason.as_str()), (Code::FailedPrecondition, "CURSOR_EXPIRED"));
        assert!(refusal.message.contains("take a new first copy"), "{}", refusal.message);
        let (told, _) = changes(&client, asked(&copied)).await;
        assert_eq!(ids(&told).len(), written * 2);
        fabricate(rig.pool(), &[2]).await;
    }
}
