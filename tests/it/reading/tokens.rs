//! Tokens and other input of GetRatedUsage that is not as it should be: refused by field, or read as
//! what it says; never a panic, and never an error of the service's own.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rater::grpc::client::Failure;
use rater::proto::*;
use tonic::Status;

use super::{filled, page};
use crate::rig::{Rig, backfill, hour, timestamp};

fn violation(status: Status) -> String {
    let failure = Failure::from(status);
    assert_eq!(failure.code, "INVALID_ARGUMENT", "{failure:?}");
    failure.violations[0].0.clone()
}

async fn refused(rig: &Rig, request: GetRatedUsageRequest) -> String {
    violation(rig.client().get_rated_usage(request).await.expect_err("refused"))
}

fn with(filter: Option<UsageFilter>, page_token: &str) -> GetRatedUsageRequest {
    GetRatedUsageRequest { filter, page_size: 3, page_token: page_token.into() }
}

fn of_identity() -> Option<UsageFilter> {
    Some(UsageFilter { auth_ids: vec!["auth-a".into()], ..UsageFilter::default() })
}

/// Whether a page is read, of the filter's rows in their order; else its token is refused.
async fn is_read(rig: &Rig, token: &str) -> bool {
    match rig.client().get_rated_usage(with(of_identity(), token)).await {
        Ok(page) => {
            let rows = page.into_inner().rated_usage;
            assert!(rows.iter().all(|row| row.auth_id == "auth-a"), "{token}");
            let key = |row: &RatedUsage| {
                (row.window_start.map(|time| time.seconds), row.resource_id.clone(), row.model_id.clone())
            };
            assert!(rows.windows(2).all(|two| key(&two[0]) < key(&two[1])), "{token}");
            true
        }
        Err(status) => {
            assert_eq!(violation(status), "page_token", "{token}");
            false
        }
    }
}

#[tokio::test]
async fn a_token_is_good_for_its_filter_alone() {
    let rig = filled().await;
    let token = page(&rig, with(of_identity(), "")).await.next_page_token;
    let other = Some(UsageFilter { auth_ids: vec!["auth-B".into()], ..UsageFilter::default() });
    for filter in [None, other] {
        assert_eq!(refused(&rig, with(filter, &token)).await, "page_token");
    }
    // Another page size is no other filter, nor are the same values twice.
    let larger = GetRatedUsageRequest { page_size: 9, ..with(of_identity(), &token) };
    assert_eq!(page(&rig, larger).await.rated_usage.len(), 9);
    let twice = UsageFilter { auth_ids: vec!["auth-a".into(); 2], ..UsageFilter::default() };
    assert_eq!(page(&rig, with(Some(twice), &token)).await.rated_usage.len(), 3);
}

#[tokio::test]
async fn what_is_no_token_is_refused() {
    let rig = filled().await;
    let token = page(&rig, with(of_identity(), "")).await.next_page_token;
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let whole = String::from_utf8(URL_SAFE_NO_PAD.decode(&token).unwrap()).unwrap();
    let mut wrong: Vec<String> = ["x", "%%%", "null", " ", "\u{0}", "🎈"].map(String::from).into();
    wrong.extend(["{}", "[1]", "\u{0}", "null", "\"\"", "{\"v\":3}"].map(encode));
    wrong.extend([token[1..].into(), token[..token.len() - 2].into(), "A".repeat(10_000)]);
    wrong.extend([format!("{token}{token}"), format!("{token}="), format!(" {token}")]);
    let mut change = |from: &str, to: &str| {
        assert!(whole.contains(from), "{from} in {whole}");
        wrong.push(encode(&whole.replace(from, to)));
    };
    // Of an older and of a newer build; and keys that no row can have.
    for version in ["2", "4", "-1", "300", "3.5"] {
        change("\"v\":3", &format!("\"v\":{version}"));
    }
    for day in ["+262142-06-01T", "0000-06-01T", "-4800-06-01T", "2026-06-31T", "x"] {
        change("2026-06-01T", day);
    }
    change("auth-a", "auth-\\u0000");
    change("\"auth-a\"", "7");
    change("\"position\":", "\"position\":1e300,\"p\":");
    change("\"ordinal\":", "\"ordinal\":99999999999999999999,\"o\":");
    for token in wrong {
        assert_eq!(refused(&rig, with(of_identity(), &token)).await, "page_token", "{token:.300}");
    }
}

#[tokio::test]
async fn a_token_with_any_byte_changed_is_refused_or_read_as_what_it_says() {
    let rig = filled().await;
    let token = page(&rig, with(of_identity(), "")).await.next_page_token;
    assert!(is_read(&rig, &token).await);
    let mut changed = Vec::new();
    for at in 0..token.len() {
        for byte in [b'A', b'!', token.as_bytes()[at] ^ 1] {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = byte;
            changed.extend(String::from_utf8(bytes));
        }
    }
    // And of what is inside.
    let inside = URL_SAFE_NO_PAD.decode(&token).unwrap();
    for at in 0..inside.len() {
        for byte in [b'0', b'"', 0xff, inside[at] ^ 1, inside[at] ^ 0x20] {
            let mut bytes = inside.clone();
            bytes[at] = byte;
            changed.push(URL_SAFE_NO_PAD.encode(bytes));
        }
    }
    let all = changed.len();
    let mut read = 0;
    for token in changed {
        read += usize::from(is_read(&rig, &token).await);
    }
    // Some bytes are of the key, and another key is one to read on from.
    assert!(read > all / 50 && read < all / 2, "{read} of {all}");
}

#[tokio::test]
async fn a_token_of_another_call_is_refused() {
    let rig = filled().await;
    rig.rated(backfill(10, 11)).await;
    let runs = ListRunsRequest { page_size: 1, ..ListRunsRequest::default() };
    let of_runs = rig.client().list_runs(runs.clone()).await.unwrap().into_inner().next_page_token;
    assert!(!of_runs.is_empty());
    assert_eq!(refused(&rig, with(None, &of_runs)).await, "page_token");
    let of_usage = page(&rig, with(None, "")).await;
    let runs = ListRunsRequest { page_token: of_usage.next_page_token, ..runs };
    assert_eq!(violation(rig.client().list_runs(runs).await.expect_err("refused")), "page_token");
    // A cursor is no token.
    assert_eq!(refused(&rig, with(None, &of_usage.change_cursor)).await, "page_token");
}

#[tokio::test]
async fn a_filter_that_is_not_as_it_should_be_is_refused_by_field() {
    let rig = filled().await;
    let none = UsageFilter::default;
    let filter = |filter| GetRatedUsageRequest { filter: Some(filter), ..GetRatedUsageRequest::default() };
    let of = |ids: Vec<String>| {
        [
            ("filter.auth_ids", UsageFilter { auth_ids: ids.clone(), ..none() }),
            ("filter.resource_ids", UsageFilter { resource_ids: ids.clone(), ..none() }),
            ("filter.model_ids", UsageFilter { model_ids: ids, ..none() }),
        ]
    };
    let ids = |n: usize| (0..n).map(|n| format!("id-{n}")).collect::<Vec<_>>();
    for (field, many) in of(ids(1_001)) {
        assert_eq!(refused(&rig, filter(many)).await, field);
    }
    for (_, most) in of(ids(1_000)) {
        assert_eq!(page(&rig, filter(most)).await.rated_usage, []);
    }
    for (field, nul) in of(vec!["a".into(), "a\0".into()]) {
        assert_eq!(refused(&rig, filter(nul)).await, field);
    }
    for (_, odd) in of(vec![String::new(), "'; --".into(), "{\",\\".into(), "🎈".repeat(1_000)]) {
        assert_eq!(page(&rig, filter(odd)).await.rated_usage, []);
    }
    let at = |h| Some(timestamp(&hour(h)));
    let inverted = UsageFilter { since: at(11), until: at(10), ..none() };
    assert_eq!(refused(&rig, filter(inverted)).await, "filter.until");
    let at = |seconds, nanos| Some(prost_types::Timestamp { seconds, nanos });
    for never in [at(i64::MAX, 0), at(i64::MIN, 0), at(0, -1), at(0, 1_000_000_000)] {
        assert_eq!(refused(&rig, filter(UsageFilter { since: never, ..none() })).await, "filter.since");
        assert_eq!(refused(&rig, filter(UsageFilter { until: never, ..none() })).await, "filter.until");
    }
    let ever = (at(-62_135_596_800, 0), at(253_402_300_799, 999_999_999));
    let ever = UsageFilter { since: ever.0, until: ever.1, ..none() };
    assert_eq!(page(&rig, filter(ever)).await.rated_usage.len(), 24);
    for page_size in [-1, i32::MIN] {
        let request = GetRatedUsageRequest { page_size, ..GetRatedUsageRequest::default() };
        assert_eq!(refused(&rig, request).await, "page_size");
    }
}
