//! What is told: each change once, in order, as the table has it, from any cursor on.

use rater::proto::*;
use serde_json::Value;

use super::{Copy, asked, at, changes, end, fabricate, filtered, ids, messages, table};
use crate::rig::{BOOK, Rig, backfill, dearer, hour, routine, timestamp};

/// Every change record as JSON, with its batch's columns, in the feed's order.
async fn recorded(rig: &Rig) -> Vec<Value> {
    let money = ["cost", "applied_prompt_rate", "applied_cached_rate", "applied_completion_rate"];
    let canonical: Vec<String> = ["before", "after"]
        .iter()
        .flat_map(|side| money.map(|name| format!("'{side}_{name}', trim_scale({side}_{name})::text")))
        .collect();
    let sql = format!(
        "SELECT array_agg(to_jsonb(c) || to_jsonb(b) || jsonb_build_object({}) ORDER BY position, ordinal)
         FROM rated_usage_change c JOIN change_batch b USING (batch_id)",
        canonical.join(", ")
    );
    rig.one(&sql).await
}

fn text(row: &Value, name: &str) -> String {
    row[name].as_str().unwrap_or_default().to_string()
}

fn time(row: &Value, name: &str) -> Option<prost_types::Timestamp> {
    row[name].as_str().map(timestamp)
}

/// One side of a record; of a rollup that a run wrote, nothing is missing.
fn side(row: &Value, side: &str) -> RatedUsage {
    let named = |name: &str| format!("{side}_{name}");
    let number = |name: &str| row[named(name)].as_i64().unwrap();
    let string = |name: &str| row[named(name)].as_str().unwrap().to_string();
    let start = timestamp(row["window_start"].as_str().unwrap());
    RatedUsage {
        id: text(row, "id"),
        auth_id: text(row, "auth_id"),
        resource_id: text(row, "resource_id"),
        model_id: text(row, "model_id"),
        window_start: Some(start),
        window_end: Some(prost_types::Timestamp { seconds: start.seconds + 3600, ..start }),
        prompt_tokens: number("prompt_tokens"),
        cached_tokens: number("cached_tokens"),
        completion_tokens: number("completion_tokens"),
        billable_prompt_tokens: number("billable_prompt_tokens"),
        event_count: number("event_count"),
        currency_code: string("currency_code"),
        cost: string("cost"),
        applied_prompt_rate: string("applied_prompt_rate"),
        applied_cached_rate: string("applied_cached_rate"),
        applied_completion_rate: string("applied_completion_rate"),
        pricebook_digest: string("pricebook_digest"),
        run_id: if side == "before" { string("run_id") } else { text(row, "run_id") },
        rated_at: time(row, &named("rated_at")),
        price_class: text(row, "price_class"),
    }
}

fn expected(row: &Value) -> RatedUsageChange {
    let operation = text(row, "operation");
    RatedUsageChange {
        before: (operation != "insert").then(|| side(row, "before")),
        after: (operation != "delete").then(|| side(row, "after")),
        run_id: text(row, "run_id"),
        trigger: if row["trigger"] == "routine" { Trigger::Routine } else { Trigger::Backfill }.into(),
        changed_at: time(row, "changed_at"),
        change_id: format!("{}-{}", text(row, "batch_id"), row["ordinal"]),
    }
}

/// Inserts, updates, deletes and new prices, by routine runs and backfills.
async fn lively() -> Rig {
    let rig = Rig::start(BOOK, &["--chunk-hours", "1"]).await;
    rig.insert((8..12).flat_map(|h| {
        [at(&format!("a{h}"), h), at(&format!("b{h}"), h).auth("auth-2").model("acme/small").tokens(7, 5, 3)]
    }))
    .await;
    rig.rated(backfill(8, 12)).await;
    rig.insert([at("more", 9), at("new", 10).model("ft:named")]).await;
    rig.sql("DELETE FROM billing_event WHERE request_id IN ('b8', 'b9')").await;
    rig.rated(routine(8, 12)).await;
    rig.reload(&dearer()).await;
    rig.rated(backfill(8, 12)).await;
    rig
}

#[tokio::test]
async fn each_insert_update_and_delete_is_told_once_and_exactly() {
    let rig = lively().await;
    let expected: Vec<_> = recorded(&rig).await.iter().map(expected).collect();
    let (told, _) = changes(&rig.client(), asked("")).await;
    assert_eq!(told, expected);
    let kinds = told.iter().map(|c| (c.before.is_some(), c.after.is_some()));
    let of = |kind| kinds.clone().filter(|k| *k == kind).count();
    assert_eq!((of((false, true)), of((true, false))), (9, 2));
    assert!(of((true, true)) > 5);
    assert!(told.iter().any(|c| c.trigger() == Trigger::Routine));
    assert!(told.iter().all(|c| c.change_id.len() < 100));

    let mut copy = Copy::default();
    told.iter().for_each(|change| copy.apply_strictly(change));
    assert_eq!(copy.0, table(&rig.client(), &UsageFilter::default()).await);
}

#[tokio::test]
async fn a_consumer_goes_on_after_any_message() {
    let rig = Rig::start(BOOK, &[]).await;
    fabricate(rig.pool(), &[3, 1, 2_500, 999, 1, 1]).await;
    fabricate(rig.pool(), &[1; 450]).await;
    let client = rig.client();
    let whole = messages(&client, asked("")).await.unwrap();
    let all: Vec<_> = whole.iter().flat_map(|message| message.changes.clone()).collect();
    let order: Vec<String> = rig
        .one(
            "SELECT array_agg(batch_id || '-' || ordinal ORDER BY position, ordinal)
             FROM rated_usage_change JOIN change_batch USING (batch_id)",
        )
        .await;
    assert_eq!(ids(&all), order);
    assert!(whole.len() > 4, "a batch is cut, and small ones are told together: {}", whole.len());
    assert!(whole.len() < 16, "{}", whole.len());
    let mut had = 0;
    for message in &whole {
        had += message.changes.len();
        let (rest, last) = changes(&client, asked(&message.cursor)).await;
        assert_eq!(ids(&rest), ids(&all[had..]));
        assert_eq!(last, whole.last().unwrap().cursor);
    }
    assert_eq!(whole.last().unwrap().cursor, end(&client).await);
}

#[tokio::test]
async fn a_message_stays_small_however_large_its_changes_are() {
    let rig = Rig::start(BOOK, &[]).await;
    fabricate(rig.pool(), &[1_200]).await;
    rig.sql("UPDATE rated_usage_change SET model_id = repeat('m', 20000) || model_id").await;
    let whole = messages(&rig.client(), asked("")).await.unwrap();
    assert!(whole.len() > 10, "{}", whole.len());
    let mut told: Vec<_> = whole.iter().flat_map(|message| ids(&message.changes)).collect();
    assert_eq!(told.len(), 1_200);
    told.dedup();
    assert_eq!(told.len(), 1_200);
    let middle = &whole[5];
    let (rest, _) = changes(&rig.client(), asked(&middle.cursor)).await;
    assert_eq!(ids(&rest), told[1_200 - rest.len()..]);
}

#[tokio::test]
async fn a_filter_lets_through_its_rollups_and_the_cursor_moves_past_the_others() {
    let rig = lively().await;
    let client = rig.client();
    let (all, end) = changes(&client, asked("")).await;
    let at = |h| Some(timestamp(&hour(h)));
    let some = |text: &str| vec![text.to_string(), "nobody".to_string()];
    for filter in [
        UsageFilter { since: at(10), ..Default::default() },
        UsageFilter { until: at(10), ..Default::default() },
        UsageFilter { auth_ids: some("auth-2"), ..Default::default() },
        UsageFilter { model_ids: some("ft:named"), ..Default::default() },
        UsageFilter { resource_ids: some("resource-1"), since: at(9), until: at(10), ..Default::default() },
        UsageFilter { auth_ids: vec!["nobody".into()], ..Default::default() },
    ] {
        let (told, last) = changes(&client, filtered("", &filter)).await;
        let passes = |change: &RatedUsageChange| {
            let row = change.before.as_ref().or(change.after.as_ref()).unwrap();
            let within = |values: &[String], value| values.is_empty() || values.contains(value);
            let start = row.window_start.unwrap().seconds;
            filter.since.is_none_or(|since| start >= since.seconds)
                && filter.until.is_none_or(|until| start < until.seconds)
                && within(&filter.auth_ids, &row.auth_id)
                && within(&filter.resource_ids, &row.resource_id)
                && within(&filter.model_ids, &row.model_id)
        };
        let expected: Vec<_> = all.iter().filter(|change| passes(change)).cloned().collect();
        assert_eq!(told, expected, "{filter:?}");
        assert!(told.len() < all.len());
        // At the same place as without: nothing of it is read again.
        assert_ne!(last, end, "bound to the filter");
        assert_eq!(changes(&client, filtered(&last, &filter)).await, (vec![], last));
    }
}

#[tokio::test]
async fn at_the_end_there_is_nothing_but_the_cursor() {
    let rig = Rig::start(BOOK, &[]).await;
    let client = rig.client();
    let (none, beginning) = changes(&client, asked("")).await;
    assert_eq!((none, &beginning), (vec![], &end(&client).await));
    rig.insert([at("a", 10)]).await;
    rig.rated(backfill(10, 11)).await;
    let (told, last) = changes(&client, asked(&beginning)).await;
    assert_eq!(told.len(), 1);
    assert_eq!(changes(&client, asked(&last)).await, (vec![], last));
}

#[tokio::test]
async fn an_adopted_time_that_no_message_can_hold_is_nothing_and_stops_nobody() {
    let rig = Rig::start(BOOK, &[]).await;
    rig.sql(
        "INSERT INTO rated_usage (id, auth_id, resource_id, model_id, window_start, window_end, prompt_tokens,
            cached_tokens, completion_tokens, billable_prompt_tokens, cost, applied_prompt_rate,
            applied_cached_rate, applied_completion_rate, rated_at, currency_code)
         SELECT n::text, 'a', 'r', n::text, '2026-06-01T10:00Z', time, 0, 0, 0, 0, 0, 0, 0, 0, time, 'USD'
         FROM unnest('{infinity,-infinity,0044-03-15 BC,290000-01-01,2026-06-01}'::timestamptz[])
            WITH ORDINALITY AS t (time, n)",
    )
    .await;
    let times = |rows: &[RatedUsage]| {
        let times = rows.iter().map(|row| (row.window_end.is_some(), row.rated_at.is_some()));
        times.collect::<Vec<_>>()
    };
    let none = (false, false);
    let expected = [none, none, none, none, (true, true)];
    let page = rig.client().get_rated_usage(GetRatedUsageRequest::default()).await.unwrap().into_inner();
    assert_eq!(times(&page.rated_usage), expected);
    // They have no events, and go.
    rig.rated(backfill(10, 11)).await;
    let (told, _) = changes(&rig.client(), asked(&page.change_cursor)).await;
    let before: Vec<RatedUsage> = told.into_iter().filter_map(|change| change.before).collect();
    assert_eq!(times(&before), expected);
}
