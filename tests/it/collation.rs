//! A database that sorts text by a language, not by its bytes: what is paged is in the order of bytes
//! all the same, each row once, and sums and copies are exact.

use std::collections::BTreeMap;

use rater::proto::*;

use crate::changes::{Copy, asked, changes, filtered, table};
use crate::harness::{Event, event, sorted_database};
use crate::rig::{Rig, backfill, timestamp};
use crate::{reading, summaries};

/// What a prompt token costs is a millionth, whatever the model.
const BOOK: &str = r#"version: 1
base_models:
  "acme/Large": {prompt: "0.000001", cached: "0", completion: "0"}
  "acme/large": {prompt: "0.000001", cached: "0", completion: "0"}
  "acme_large": {prompt: "0.000001", cached: "0", completion: "0"}
  "acme-large": {prompt: "0.000001", cached: "0", completion: "0"}
"#;
const MODELS: [&str; 4] = ["acme-large", "acme/Large", "acme/large", "acme_large"];
/// A language has `a` before `B`, hardly looks at `-` and `_`, and puts accents with their letters.
const AUTHS: [&str; 20] = [
    "-a", "A", "B", "Z", "_a", "a", "a-b", "a_b", "ab", "aB", "b", "e", "e\u{301}", "z", "ä", "á", "é", "ß",
    "ss", "🎈",
];
const RESOURCES: [&str; 5] = ["R", "r", "r-1", "r_1", "ŕ"];

/// An event of each, in three hours; each has other tokens.
fn events(round: u32) -> Vec<Event> {
    let mut events = Vec::new();
    for (a, auth) in AUTHS.into_iter().enumerate() {
        for (r, resource) in RESOURCES.into_iter().enumerate() {
            for (m, model) in MODELS.into_iter().enumerate() {
                let tokens = (round * 1_000 + 1) as i32 + (a * 31 + r * 7 + m) as i32;
                let hour = 10 + (a + r + m) % 3;
                let made = event(&format!("{round}-{a}-{r}-{m}")).auth(auth).resource(resource).model(model);
                events.push(made.tokens(tokens, 0, 0).at(&format!("2026-06-01T{hour}:15:00Z")));
            }
        }
    }
    events
}

/// Those events rated, in a database that sorts otherwise.
async fn rig() -> Rig {
    let rig = Rig::on(sorted_database().await, BOOK, &[]).await;
    rig.insert(events(0)).await;
    rig.rated(backfill(10, 13)).await;
    rig
}

fn key(row: &RatedUsage) -> (i64, &str, &str, &str) {
    (row.window_start.unwrap().seconds, &row.auth_id, &row.resource_id, &row.model_id)
}

fn strings(ids: &[&str]) -> Vec<String> {
    ids.iter().map(|id| id.to_string()).collect()
}

#[tokio::test]
async fn pages_of_any_size_are_each_row_once_in_the_order_of_bytes() {
    let rig = rig().await;
    if rig
        .one::<bool>("SELECT datlocprovider = 'i' FROM pg_database WHERE datname = current_database()")
        .await
    {
        assert!(
            rig.one::<bool>("SELECT 'a' < 'B' AND 'ä' < 'b' AND 'a_b' < 'ab'").await,
            "it sorts otherwise"
        );
    }
    let none = UsageFilter::default;
    for filter in [
        none(),
        // One by one, and more than are read so.
        UsageFilter { auth_ids: strings(&["é", "a", "B", "_a", "-a", "z"]), ..none() },
        UsageFilter { auth_ids: strings(&AUTHS[1..]), ..none() },
        UsageFilter { resource_ids: strings(&["r_1", "R"]), model_ids: strings(&["acme/large"]), ..none() },
        UsageFilter { since: Some(timestamp("2026-06-01T11:00:00Z")), ..none() },
    ] {
        let within =
            |ids: &[String], id: &Option<String>| ids.is_empty() || ids.contains(id.as_ref().unwrap());
        let mut expected: Vec<_> = events(0)
            .into_iter()
            .filter(|event| {
                within(&filter.auth_ids, &event.auth_id)
                    && within(&filter.resource_ids, &event.resource_id)
                    && within(&filter.model_ids, &event.model)
                    && filter.since.is_none_or(|since| event.event_ts.unwrap().timestamp() >= since.seconds)
            })
            .map(|event| {
                let start = event.event_ts.unwrap().timestamp() / 3600 * 3600;
                let ids = [event.auth_id, event.resource_id, event.model].map(Option::unwrap);
                (start, ids, i64::from(event.prompt_tokens))
            })
            .collect();
        expected.sort();
        for size in [1, 2, 3, 7, 50, 1_000] {
            let (rows, pages) = reading::all(&rig, filter.clone(), size).await;
            let found: Vec<_> = rows
                .iter()
                .map(|row| {
                    let (start, auth, resource, model) = key(row);
                    (start, [auth, resource, model].map(String::from), row.prompt_tokens)
                })
                .collect();
            assert_eq!(found, expected, "{filter:?} by {size}");
            assert_eq!(pages, expected.len().div_ceil(size as usize), "{filter:?} by {size}");
        }
    }
}

#[tokio::test]
async fn sums_by_any_ids_are_exact_in_pages_of_any_size_and_in_the_order_of_bytes() {
    let rig = rig().await;
    for set in 1..8 {
        let dimensions = [Dimension::AuthId, Dimension::ResourceId, Dimension::ModelId];
        let group_by: Vec<i32> =
            (0..3).filter(|bit| set & (1 << bit) != 0).map(|bit| dimensions[bit] as i32).collect();
        let mut expected: BTreeMap<[String; 3], i64> = BTreeMap::new();
        for event in events(0) {
            let ids = [event.auth_id, event.resource_id, event.model].map(Option::unwrap);
            let mut bit = 0..3;
            let key = ids.map(|id| if set & (1 << bit.next().unwrap()) != 0 { id } else { String::new() });
            *expected.entry(key).or_default() += i64::from(event.prompt_tokens);
        }
        for page_size in [1, 2, 3, 13, 1_000] {
            let ask = SummarizeRatedUsageRequest { page_size, ..summaries::by(&group_by) };
            let (told, pages) = summaries::all(&rig, ask).await;
            let told: Vec<_> = told
                .into_iter()
                .map(|sum| ([sum.auth_id, sum.resource_id, sum.model_id], sum.prompt_tokens, sum.cost))
                .collect();
            let expected: Vec<_> =
                expected.iter().map(|(key, tokens)| (key.clone(), *tokens, millionths(*tokens))).collect();
            assert_eq!(told, expected, "{group_by:?} by {page_size}");
            assert_eq!(pages, expected.len().div_ceil(page_size as usize), "{group_by:?} by {page_size}");
        }
    }
}

/// As a canonical decimal.
fn millionths(number: i64) -> String {
    let text = format!("{}.{:06}", number / 1_000_000, number % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

#[tokio::test]
async fn a_first_copy_and_the_changes_after_it_are_the_table() {
    let rig = rig().await;
    let client = rig.client();
    let few = UsageFilter { auth_ids: strings(&["é", "e", "A", "a", "a-b"]), ..Default::default() };
    for (n, filter) in [UsageFilter::default(), few].into_iter().enumerate() {
        let mut request =
            GetRatedUsageRequest { filter: Some(filter.clone()), page_size: 23, ..Default::default() };
        let (mut copy, mut round) = (Copy::default(), 100 * n as u32);
        let cursor = loop {
            let page = reading::page(&rig, request.clone()).await;
            for row in page.rated_usage {
                assert_eq!(copy.0.insert(row.id.clone(), row), None, "no row is on two pages");
            }
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                break page.change_cursor;
            }
            // Some change, some go, and some are back, on pages that are read and on others.
            round += 1;
            if round % 100 < 4 {
                let of_round = events(round).into_iter().skip(round as usize).step_by(3);
                rig.insert(of_round.collect::<Vec<_>>()).await;
                let gone = AUTHS[round as usize % AUTHS.len()];
                rig.sql(&format!("DELETE FROM billing_event WHERE auth_id = '{gone}'")).await;
                rig.rated(backfill(10, 13)).await;
            }
        };
        let (after, _) = changes(&client, filtered(&cursor, &filter)).await;
        assert!(after.len() > 20, "{}", after.len());
        after.iter().for_each(|change| copy.apply(change));
        assert_eq!(copy.0, table(&client, &filter).await, "{filter:?}");
    }
    let mut copy = Copy::default();
    changes(&client, asked("")).await.0.iter().for_each(|change| copy.apply_strictly(change));
    assert_eq!(copy.0, table(&client, &UsageFilter::default()).await);
}
