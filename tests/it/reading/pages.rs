//! Pages of GetRatedUsage: whatever their size, together they are the table.

use std::collections::BTreeSet;

use rater::proto::*;

use super::{all, filled, page};
use crate::harness::event;
use crate::rig::{BOOK, Rig, backfill, hour, timestamp};

/// Six hours, of which the second to the fifth hold 999 to 1,002 rows; stored in no order.
async fn uneven() -> Rig {
    let rig = Rig::start(BOOK, &[]).await;
    rig.sql(
        "INSERT INTO rated_usage (id, auth_id, resource_id, model_id, window_start, prompt_tokens, cached_tokens,
            completion_tokens, billable_prompt_tokens, cost, applied_prompt_rate, applied_cached_rate,
            applied_completion_rate)
         SELECT md5(h || '/' || n), CASE n % 3 WHEN 0 THEN 'giant' ELSE 'Auth_' || n % 25 END,
            CASE n % 2 WHEN 0 THEN 'r-' ELSE 'R_' END || n % 7, 'm' || n,
            timestamptz '2026-06-01T00:00Z' + make_interval(hours => h), 0, 0, 0, 0, 0, 0, 0, 0
         FROM generate_series(1, 6) h,
            LATERAL generate_series(1, CASE h WHEN 1 THEN 40 WHEN 6 THEN 300 ELSE 997 + h END) n
         ORDER BY md5(h || '/' || n)",
    )
    .await;
    rig
}

/// The ids that a condition chooses, in the order of pages.
async fn ids(rig: &Rig, condition: &str) -> Vec<String> {
    let sql = format!(
        "SELECT coalesce(string_agg(id, ',' ORDER BY window_start, auth_id COLLATE \"C\", resource_id COLLATE \"C\",
            model_id COLLATE \"C\", price_class COLLATE \"C\"), '')
         FROM rated_usage WHERE {condition}"
    );
    let ids: String = rig.one(&sql).await;
    ids.split(',').filter(|id| !id.is_empty()).map(String::from).collect()
}

/// Filters, and the conditions that they mean.
fn filters() -> Vec<(UsageFilter, String)> {
    let none = UsageFilter::default;
    let strings = |ids: &[&str]| ids.iter().map(|id| id.to_string()).collect::<Vec<_>>();
    let of = |ids: &[&str]| UsageFilter { auth_ids: strings(ids), ..none() };
    let of_hours = |from, to| {
        let (since, until) = (Some(timestamp(&hour(from))), Some(timestamp(&hour(to))));
        UsageFilter { since, until, ..none() }
    };
    let hours = |from, to| {
        format!("window_start >= '2026-06-01T0{from}:00Z' AND window_start < '2026-06-01T0{to}:00Z'")
    };
    let giant = "auth_id = 'giant'";
    // As many identities as are read one by one, and one more.
    let numbered = |to: u32| {
        let ids = (0..to).map(|n| format!("Auth_{n}")).chain(["giant".into()]).collect();
        let numbers = (0..to).map(|n| format!("'Auth_{n}'")).collect::<Vec<_>>().join(", ");
        (UsageFilter { auth_ids: ids, ..none() }, format!("auth_id IN ({numbers}, 'giant')"))
    };
    let mut filters = vec![
        (none(), "true".into()),
        (of(&["giant"]), giant.into()),
        (of(&["giant", "Auth_1", "giant", "nobody"]), "auth_id IN ('giant', 'Auth_1')".into()),
        numbered(15),
        numbered(16),
        (
            UsageFilter { auth_ids: strings(&["giant"]), ..of_hours(2, 4) },
            format!("{giant} AND {}", hours(2, 4)),
        ),
        (UsageFilter { resource_ids: strings(&["r-2"]), ..none() }, "resource_id = 'r-2'".into()),
        (
            UsageFilter { resource_ids: strings(&["r-2"]), ..of(&["giant"]) },
            format!("{giant} AND resource_id = 'r-2'"),
        ),
        (UsageFilter { model_ids: strings(&["m6", "m7"]), ..none() }, "model_id IN ('m6', 'm7')".into()),
    ];
    filters.extend((2..=5).map(|h| (of_hours(h, h + 1), hours(h, h + 1))));
    filters
}

#[tokio::test]
async fn all_pages_are_the_table_whatever_their_size_and_filter() {
    let rig = uneven().await;
    for (filter, condition) in filters() {
        let expected = ids(&rig, &condition).await;
        assert!(!expected.is_empty(), "{condition}");
        for size in [33, 999, 1_000, 1_001, 1_002, 2_000, 10_000] {
            let (rows, pages) = all(&rig, filter.clone(), size).await;
            let found: Vec<String> = rows.into_iter().map(|row| row.id).collect();
            assert!(found == expected, "{condition}, by {size}: {} of {}", found.len(), expected.len());
            assert_eq!(pages, expected.len().div_ceil(size as usize), "{condition}, by {size}");
        }
    }
}

/// Rows of the longest ids, four bytes a character.
async fn long_rows(rig: &Rig, rows: u32, prefix: &str) {
    rig.sql(&format!(
        "INSERT INTO rated_usage (id, auth_id, resource_id, model_id, window_start, window_end, prompt_tokens,
            cached_tokens, completion_tokens, billable_prompt_tokens, event_count, cost, applied_prompt_rate,
            applied_cached_rate, applied_completion_rate, currency_code, pricebook_digest, run_id, rated_at)
         SELECT md5('{prefix}' || n), repeat('🎈', 64), repeat('🎈', 64), rpad('{prefix}' || n, 255, '🎈'),
            '2026-06-01T10:00Z', '2026-06-01T11:00Z', 0, 0, 0, 0, 1, 0, 0.000000000001, 0.000000000001,
            0.000000000001, 'USD', repeat('d', 64), repeat('r', 36), now()
         FROM generate_series(1, {rows}) n"
    ))
    .await;
}

#[tokio::test]
async fn a_page_of_long_ids_stays_under_2_mib_and_nothing_is_lost() {
    let rig = Rig::start(BOOK, &[]).await;
    long_rows(&rig, 10_000, "m").await;
    let (rows, pages) = all(&rig, UsageFilter::default(), 10_000).await;
    assert!(pages > 5, "{pages}");
    let ids: BTreeSet<_> = rows.iter().map(|row| row.model_id.clone()).collect();
    assert_eq!((rows.len(), ids.len()), (10_000, 10_000));
    assert!(rows.windows(2).all(|two| two[0].model_id < two[1].model_id));
}

#[tokio::test]
async fn a_page_size_past_the_limit_is_clamped() {
    let rig = Rig::start(BOOK, &[]).await;
    rig.free_rollups(10_500).await;
    let sizes = async |page_size| {
        let mut request = GetRatedUsageRequest { page_size, ..GetRatedUsageRequest::default() };
        let first = page(&rig, request.clone()).await;
        request.page_token = first.next_page_token;
        (first.rated_usage.len(), page(&rig, request).await.rated_usage.len())
    };
    // Rows of nothing but zeros: 10,000 of them, or as many as 1.9 MB are reckoned to hold.
    let (first, second) = sizes(i32::MAX).await;
    assert!(first <= 10_000 && first > 5_000, "{first}");
    assert!(second >= 500);
    assert_eq!(sizes(0).await, (1_000, 1_000));
    assert_eq!(all(&rig, UsageFilter::default(), 20_000).await.0.len(), 10_500);
}

#[tokio::test]
async fn rows_that_become_longer_or_shorter_within_a_page_are_all_there() {
    let rig = Rig::start(BOOK, &[]).await;
    long_rows(&rig, 3_000, "b").await;
    rig.sql(
        "INSERT INTO rated_usage (id, auth_id, resource_id, model_id, window_start, prompt_tokens, cached_tokens,
            completion_tokens, billable_prompt_tokens, cost, applied_prompt_rate, applied_cached_rate,
            applied_completion_rate)
         SELECT left(md5(h || '/' || n), 9), 'a', 'r', n::text,
            timestamptz '2026-06-01T10:00Z' + h * interval '1 hour', 0, 0, 0, 0, 0, 0, 0, 0
         FROM unnest(ARRAY[-1, 1]) h, generate_series(1, 3000) n",
    )
    .await;
    let expected = ids(&rig, "true").await;
    for size in [1_000, 2_500, 10_000] {
        let (rows, _) = all(&rig, UsageFilter::default(), size).await;
        let found: Vec<String> = rows.into_iter().map(|row| row.id).collect();
        assert!(found == expected, "by {size}: {} of {}", found.len(), expected.len());
    }
}

#[tokio::test]
async fn every_page_of_a_read_has_the_cursor_of_its_first() {
    let rig = filled().await;
    let mut request = GetRatedUsageRequest { page_size: 5, ..GetRatedUsageRequest::default() };
    let first = page(&rig, request.clone()).await;
    assert!(!first.change_cursor.is_empty());
    let (mut token, mut pages) = (first.next_page_token, 1);
    while !token.is_empty() {
        // Meanwhile the feed goes on.
        rig.insert([event(&format!("late-{pages}")).at("2026-06-01T10:30:00Z")]).await;
        rig.rated(backfill(10, 11)).await;
        request.page_token = token;
        let next = page(&rig, request.clone()).await;
        assert_eq!(next.change_cursor, first.change_cursor);
        (token, pages) = (next.next_page_token, pages + 1);
    }
    assert_eq!(pages, 5);
    let anew = page(&rig, GetRatedUsageRequest::default()).await;
    assert_ne!(anew.change_cursor, first.change_cursor, "a read that begins now begins at the feed's end");
    let filter = Some(UsageFilter { auth_ids: vec!["auth-a".into()], ..UsageFilter::default() });
    let of_filter = page(&rig, GetRatedUsageRequest { filter, ..GetRatedUsageRequest::default() }).await;
    assert_ne!(of_filter.change_cursor, anew.change_cursor, "a cursor is of a filter");
}
