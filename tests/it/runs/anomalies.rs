//! ListAnomalies: what is told of what could not be billed, gathered by every set of dimensions,
//! and how it follows the latest run of each hour.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Datelike, NaiveTime, Utc};
use rater::proto::*;
use sqlx::FromRow;

use super::anomalies;
use crate::harness::{Event, event};
use crate::rig::{BOOK, Rig, backfill, hour, timestamp};

const DIMENSIONS: [Dimension; 6] = [
    Dimension::AuthId,
    Dimension::ResourceId,
    Dimension::ModelId,
    Dimension::Hour,
    Dimension::Day,
    Dimension::Month,
];

/// The hours of [`mixed`].
fn all_hours() -> RateWindowRequest {
    RateWindowRequest {
        since: Some(timestamp("2026-05-31T22:00:00Z")),
        until: Some(timestamp("2026-06-02T11:00:00Z")),
        ..RateWindowRequest::default()
    }
}

/// Every kind, for identities that a locale would sort otherwise, on both sides of midnight and
/// of the month's end.
async fn mixed() -> Rig {
    let mut events: Vec<Event> = Vec::new();
    let times = ["05-31T22:10", "05-31T23:50", "06-01T00:05", "06-01T10:15", "06-02T10:15"];
    for (n, time) in times.iter().enumerate() {
        let time = format!("2026-{time}:00Z");
        for auth in ["auth-B", "auth-a"] {
            let made = |id: &str| event(&format!("{auth}-{n}-{id}")).auth(auth).at(&time);
            events.push(made("ok"));
            events.push(made("unknown").model("acme/unknown").resource("r_1"));
            events.push(made("other").model("ACME/unknown").resource("r-1").tokens(7, 3, 1));
            events.push(made("nobody").without_resource().tokens(50, 5, 5));
            events.push(made("malformed").tokens(-1, 2, 3));
            events.push(made("two-1").model("ft:two").base("acme/large"));
            events.push(made("two-2").model("ft:two").base("acme/small"));
            // Thirteen bases in all, most in a single hour; "B-…" comes before "b-…" by bytes.
            for base in [format!("b-{n}"), format!("B-{n}"), "a".into(), format!("c-{}", n % 2)] {
                let id = format!("many-{base}");
                events.push(made(&id).model("ft:many").base(&base));
            }
        }
        events.push(event(&format!("none-{n}")).without_auth().without_model().at(&time));
    }
    let rig = Rig::with_events(events).await;
    rig.rated(all_hours()).await;
    rig
}

/// A row as it stands in the table.
#[derive(Debug, FromRow)]
struct Row {
    kind: String,
    auth_id: String,
    resource_id: String,
    model_id: String,
    window_start: DateTime<Utc>,
    base_models: Vec<String>,
    events: i64,
    prompt_tokens: i64,
    cached_tokens: i64,
    completion_tokens: i64,
    sample_request_id: String,
}

async fn rows(rig: &Rig) -> Vec<Row> {
    sqlx::query_as("SELECT * FROM rating_anomaly").fetch_all(rig.pool()).await.unwrap()
}

fn kind(name: &str) -> AnomalyKind {
    AnomalyKind::from_str_name(&format!("ANOMALY_KIND_{}", name.to_uppercase())).unwrap()
}

/// The rows gathered, in the order of pages, by plain sums.
fn gathered(rows: &[Row], by: &[Dimension]) -> Vec<Anomaly> {
    let by = if by.is_empty() { &[Dimension::ModelId] } else { by };
    let id = |dimension, id: &str| if by.contains(&dimension) { id.to_owned() } else { String::new() };
    let period = |time: DateTime<Utc>| {
        let midnight = time.with_time(NaiveTime::MIN).unwrap();
        match () {
            () if by.contains(&Dimension::Hour) => time,
            () if by.contains(&Dimension::Day) => midnight,
            () if by.contains(&Dimension::Month) => midnight.with_day(1).unwrap(),
            () => DateTime::UNIX_EPOCH,
        }
    };
    let mut groups: BTreeMap<_, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        let (auth_id, resource_id) =
            (id(Dimension::AuthId, &row.auth_id), id(Dimension::ResourceId, &row.resource_id));
        let model_id = id(Dimension::ModelId, &row.model_id);
        let key = (i32::from(kind(&row.kind)), auth_id, resource_id, model_id, period(row.window_start));
        groups.entry(key).or_default().push(row);
    }
    let groups = groups.into_iter().map(|((kind, auth_id, resource_id, model_id, _), rows)| {
        let bases: BTreeSet<&String> = rows.iter().flat_map(|row| &row.base_models).collect();
        let time = |time: Option<DateTime<Utc>>| time.map(|time| timestamp(&time.to_rfc3339()));
        let sum = |tokens: fn(&Row) -> i64| rows.iter().map(|row| tokens(row)).sum();
        Anomaly {
            kind,
            auth_id,
            resource_id,
            model_id,
            base_models: bases.into_iter().take(10).cloned().collect(),
            first_window_start: time(rows.iter().map(|row| row.window_start).min()),
            last_window_start: time(rows.iter().map(|row| row.window_start).max()),
            events: sum(|row| row.events),
            prompt_tokens: sum(|row| row.prompt_tokens),
            cached_tokens: sum(|row| row.cached_tokens),
            completion_tokens: sum(|row| row.completion_tokens),
            // One of the last hour, always the same.
            sample_request_id: rows
                .iter()
                .max_by_key(|row| (row.window_start, &row.sample_request_id))
                .map(|row| row.sample_request_id.clone())
                .unwrap_or_default(),
        }
    });
    groups.collect()
}

fn without_samples(anomalies: Vec<Anomaly>) -> Vec<Anomaly> {
    let without = |anomaly| Anomaly { sample_request_id: String::new(), ..anomaly };
    anomalies.into_iter().map(without).collect()
}

#[tokio::test]
async fn anomalies_are_gathered_by_every_set_of_dimensions() {
    let rig = mixed().await;
    let rows = rows(&rig).await;
    for set in 0..64u32 {
        let by: Vec<Dimension> =
            (0..6).filter(|n| set >> n & 1 == 1).map(|n| DIMENSIONS[n as usize]).collect();
        // In any order, and a duplicate changes nothing.
        let group_by: Vec<i32> = by.iter().rev().chain(by.first()).map(|d| i32::from(*d)).collect();
        let request = ListAnomaliesRequest { group_by, page_size: 1_000, ..Default::default() };
        let told = anomalies(&rig, request.clone()).await;
        assert_eq!(told.next_page_token, "");
        let whole = told.anomalies;
        assert_eq!(whole, gathered(&rows, &by), "{by:?}");
        // In pages, the same.
        let (mut paged, mut request) = (Vec::new(), ListAnomaliesRequest { page_size: 9, ..request });
        loop {
            let page = anomalies(&rig, request.clone()).await;
            paged.extend(page.anomalies);
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                break;
            }
        }
        assert_eq!(paged, whole, "{by:?} in pages");
    }
}

#[tokio::test]
async fn a_group_tells_its_bases_its_hours_and_an_example_of_the_last_one() {
    let rig = mixed().await;
    let told = anomalies(&rig, ListAnomaliesRequest::default()).await.anomalies;
    let keys: Vec<_> = told.iter().map(|a| (a.kind(), a.model_id.as_str())).collect();
    use AnomalyKind::*;
    assert_eq!(
        keys,
        [
            (Unpriced, "ACME/unknown"),
            (Unpriced, "acme/unknown"),
            (Unpriced, "ft:many"),
            (Unattributable, ""),
            (Unattributable, "acme/large"),
            (AmbiguousBase, "ft:two"),
            (Malformed, "acme/large"),
        ]
    );
    let many = &told[2];
    let bases = ["B-0", "B-1", "B-2", "B-3", "B-4", "a", "b-0", "b-1", "b-2", "b-3"];
    assert_eq!(many.base_models, bases, "ten of thirteen, by bytes");
    assert_eq!((many.auth_id.as_str(), many.resource_id.as_str()), ("", ""));
    assert_eq!(many.first_window_start, Some(timestamp("2026-05-31T22:00:00Z")));
    assert_eq!(many.last_window_start, Some(timestamp("2026-06-02T10:00:00Z")));
    assert_eq!(told[5].base_models, ["acme/large", "acme/small"]);
    // Of the last hour, of the group's own events, and the same each time.
    for (anomaly, of) in told.iter().zip(["other", "unknown", "many-", "none", "nobody", "two-", "malformed"])
    {
        let sample = &anomaly.sample_request_id;
        assert!(sample.contains("-4") && sample.contains(of), "{anomaly:?}");
    }
    assert_eq!(anomalies(&rig, ListAnomaliesRequest::default()).await.anomalies, told);
    // One that was never looked up does not hide those that were.
    rig.sql("UPDATE rating_anomaly SET sample_request_id = NULL WHERE window_start >= '2026-06-02Z'").await;
    let earlier = anomalies(&rig, ListAnomaliesRequest::default()).await.anomalies;
    assert!(earlier.iter().all(|anomaly| anomaly.sample_request_id.contains("-3")), "{earlier:?}");
    rig.sql("UPDATE rating_anomaly SET sample_request_id = NULL").await;
    let none = anomalies(&rig, ListAnomaliesRequest::default()).await.anomalies;
    assert_eq!(without_samples(told), none);
}

#[tokio::test]
async fn filters_choose_anomalies_and_work_together() {
    let rig = mixed().await;
    let rows = rows(&rig).await;
    let strings = |values: &[&str]| values.iter().map(|v| v.to_string()).collect::<Vec<_>>();
    let check = async |filter: UsageFilter, kinds: &[AnomalyKind], holds: &dyn Fn(&Row) -> bool| {
        let kinds: Vec<i32> = kinds.iter().map(|kind| i32::from(*kind)).collect();
        let request = ListAnomaliesRequest { filter: Some(filter), kinds, ..Default::default() };
        let told: i64 = anomalies(&rig, request).await.anomalies.iter().map(|a| a.events).sum();
        let held: i64 = rows.iter().filter(|row| holds(row)).map(|row| row.events).sum();
        assert!(held > 0);
        assert_eq!(told, held);
    };
    let none = UsageFilter::default;
    let (day, at) = ("2026-06-01T00:00:00Z", |text: &str| text.parse::<DateTime<Utc>>().unwrap());
    let since = UsageFilter { since: Some(timestamp(day)), ..none() };
    check(since.clone(), &[], &|row| row.window_start >= at(day)).await;
    check(UsageFilter { until: Some(timestamp(day)), ..none() }, &[], &|row| row.window_start < at(day))
        .await;
    check(UsageFilter { auth_ids: strings(&["auth-a", "x"]), ..none() }, &[], &|r| r.auth_id == "auth-a")
        .await;
    check(UsageFilter { auth_ids: strings(&[""]), ..none() }, &[], &|row| row.auth_id.is_empty()).await;
    check(UsageFilter { resource_ids: strings(&["r-1"]), ..none() }, &[], &|r| r.resource_id == "r-1").await;
    check(UsageFilter { model_ids: strings(&["ft:two"]), ..none() }, &[], &|r| r.model_id == "ft:two").await;
    let kinds = [AnomalyKind::Malformed, AnomalyKind::Unattributable, AnomalyKind::Malformed];
    check(none(), &kinds, &|row| matches!(&*row.kind, "malformed" | "unattributable")).await;
    let narrow = UsageFilter { auth_ids: strings(&["auth-B"]), model_ids: strings(&["ft:many"]), ..since };
    check(narrow, &[AnomalyKind::Unpriced], &|row| {
        row.auth_id == "auth-B" && row.model_id == "ft:many" && row.window_start >= at(day)
    })
    .await;
}

#[tokio::test]
async fn what_was_mended_is_gone_and_the_same_window_again_piles_nothing_up() {
    let at = |h: u32| format!("2026-06-01T{h}:30:00Z");
    let unknown = |h: u32| event(&format!("u{h}")).model("acme/new").at(&at(h));
    let rig = Rig::with_events([
        unknown(10),
        unknown(11),
        unknown(12),
        event("m").tokens(-1, 0, 0),
        event("n").without_auth().at(&at(11)),
    ])
    .await;
    let told = async || {
        let told = anomalies(&rig, ListAnomaliesRequest::default()).await.anomalies.into_iter();
        told.map(|a| (a.kind(), a.events, a.first_window_start.unwrap())).collect::<Vec<_>>()
    };
    let since = |h| timestamp(&hour(h));
    use AnomalyKind::*;
    assert_eq!(told().await, []);
    rig.rated(backfill(10, 13)).await;
    let all = [(Unpriced, 3, since(10)), (Unattributable, 1, since(11)), (Malformed, 1, since(10))];
    assert_eq!(told().await, all);
    let versions = rig.versions("rating_anomaly").await;
    for window in [backfill(10, 13), backfill(11, 12), backfill(9, 20)] {
        rig.rated(window).await;
        assert_eq!(told().await, all);
    }
    assert_eq!(rig.versions("rating_anomaly").await, versions);

    // A price for the model, the first hour rated again: what is left begins later.
    let priced = r#"base_models:
  "acme/new": {prompt: "0.1", cached: "0.1", completion: "0.1"}"#;
    rig.reload(&BOOK.replace("base_models:", priced)).await;
    assert_eq!(told().await, all, "nothing changes before a run");
    rig.rated(backfill(10, 11)).await;
    assert_eq!(told().await, [(Unpriced, 2, since(11)), all[1], all[2]]);
    rig.rated(backfill(10, 13)).await;
    assert_eq!(told().await, [all[1], all[2]]);
    // Mended where they come from, and one more of its kind.
    rig.sql("UPDATE billing_event SET auth_id = 'auth-1' WHERE request_id = 'n'").await;
    rig.insert([event("m2").tokens(0, -1, 0)]).await;
    rig.rated(backfill(10, 13)).await;
    assert_eq!(told().await, [(Malformed, 2, since(10))]);
}
