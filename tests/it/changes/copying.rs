//! A first copy, then changes: pages that are read while everything changes, and what comes after
//! their cursor, lead to exactly what the table says.

use std::time::Duration;

use rater::proto::*;
use tokio::sync::watch;

use super::writers::Writers;
use super::{Client, Copy, changes, filtered, table};
use crate::events::Random;
use crate::harness::soak;
use crate::stage::hour;

/// A copy that is not yet in step, and the cursor of any of its pages.
struct FirstCopy {
    filter: UsageFilter,
    copy: Copy,
    cursor: String,
    pages: usize,
}

async fn first_copy(client: &Client, filter: UsageFilter, random: &mut Random) -> FirstCopy {
    let mut first = FirstCopy { filter, copy: Copy::default(), cursor: String::new(), pages: 0 };
    let mut page_token = String::new();
    loop {
        let request = GetRatedUsageRequest {
            filter: Some(first.filter.clone()),
            page_size: 1 + random.below(120) as i32,
            page_token,
        };
        let page = client.clone().get_rated_usage(request).await.unwrap().into_inner();
        first.pages += 1;
        if first.cursor.is_empty() || random.below(5) == 0 {
            first.cursor = page.change_cursor;
        }
        for row in page.rated_usage {
            assert_eq!(first.copy.0.insert(row.id.clone(), row), None, "no row is on two pages");
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return first;
        }
        tokio::time::sleep(Duration::from_millis(random.below(15))).await;
    }
}

fn filters() -> [UsageFilter; 4] {
    [
        UsageFilter::default(),
        UsageFilter { auth_ids: vec!["auth-1".into(), "auth-5".into()], ..Default::default() },
        UsageFilter { since: Some(hour(5)), until: Some(hour(17)), ..Default::default() },
        UsageFilter { model_ids: vec!["acme/large".into()], ..Default::default() },
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_and_the_changes_after_them_are_the_table_whatever_is_written_meanwhile() {
    let (rounds, seed) = (if soak() { 25 } else { 4 }, 41);
    let writers = Writers::new(2, 24).await;
    let mut random = Random(seed);
    writers.round(0, &mut random).await;
    let (stop, over) = watch::channel(false);
    let copiers: Vec<_> = (1..=4)
        .map(|n| {
            let (services, over, mut random) = (writers.services.clone(), over.clone(), Random(seed + n));
            tokio::spawn(async move {
                let client = services[n as usize % services.len()].client_rating().await;
                let mut copies = Vec::new();
                while !*over.borrow() {
                    let filter = filters()[random.below(4) as usize].clone();
                    copies.push(first_copy(&client, filter, &mut random).await);
                }
                copies
            })
        })
        .collect();
    for round in 1..=rounds {
        writers.round(round, &mut random).await;
    }
    stop.send(true).unwrap();

    let client = writers.services[0].client_rating().await;
    let (mut copies, mut pages, mut applied, mut had_already) = (0, 0, 0, 0);
    for copier in copiers {
        for FirstCopy { filter, mut copy, cursor, pages: read } in copier.await.unwrap() {
            let (after, _) = changes(&client, filtered(&cursor, &filter)).await;
            for change in &after {
                let id = &change.before.as_ref().or(change.after.as_ref()).unwrap().id;
                had_already += usize::from(copy.0.get(id) != change.before.as_ref());
                copy.apply(change);
            }
            assert_eq!(copy.0, table(&client, &filter).await, "seed {seed}, {filter:?}");
            (copies, pages, applied) = (copies + 1, pages + read, applied + after.len());
        }
    }
    println!(
        "{copies} first copies of {pages} pages, then {applied} changes, {had_already} of them on rows that \
         already told later (seed {seed})"
    );
    assert!(copies >= 8 && pages > 5 * copies && applied > 1_000, "{copies} {pages} {applied}");
    assert!(had_already > 0, "nothing was written while pages were read");
}
