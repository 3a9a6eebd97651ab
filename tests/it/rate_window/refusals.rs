//! The window table over the wire, and every refusal by the name of its field.

use chrono::DateTime;
use rater::proto::*;

use crate::harness::event;
use crate::rig::{BOOK, Rig, backfill, hour, routine, timestamp};

fn asked(since: Option<&str>, until: Option<&str>) -> RateWindowRequest {
    RateWindowRequest { since: since.map(timestamp), until: until.map(timestamp), ..Default::default() }
}

fn past_9999() -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds: 253_402_300_800, nanos: 0 })
}

#[tokio::test]
async fn each_line_of_the_window_table_gets_what_it_says() {
    let rig = Rig::start(BOOK, &["--trailing-hours", "2"]).await;
    let (ten, twelve) = (hour(10), hour(12));
    let limit = rig.one::<DateTime<chrono::Utc>>("SELECT date_trunc('hour', now(), 'UTC')").await;
    let (backfilled, scheduled) =
        ((Trigger::Backfill, RateBasis::Pricebook), (Trigger::Routine, RateBasis::Frozen));
    for (since, until, trigger, gets) in [
        (None, None, Trigger::Unspecified, scheduled),
        (None, None, Trigger::Routine, scheduled),
        (Some(&ten), Some(&twelve), Trigger::Unspecified, backfilled),
        (Some(&ten), Some(&twelve), Trigger::Backfill, backfilled),
        (Some(&ten), None, Trigger::Unspecified, backfilled),
        (None, Some(&twelve), Trigger::Backfill, backfilled),
        (Some(&ten), Some(&twelve), Trigger::Routine, scheduled),
        (None, Some(&twelve), Trigger::Routine, scheduled),
    ] {
        let base = asked(since.map(String::as_str), until.map(String::as_str));
        let result = rig.rated(RateWindowRequest { trigger: trigger.into(), ..base }).await;
        let window = result.window.unwrap();
        let (start, end) = (window.start.unwrap().seconds, window.end.unwrap().seconds);
        match until {
            Some(until) => assert_eq!(end, timestamp(until).seconds),
            None => assert!(end == limit.timestamp() || end == limit.timestamp() + 3_600),
        }
        match since {
            Some(since) => assert_eq!(start, timestamp(since).seconds),
            None => assert_eq!(end - start, 2 * 3_600),
        }
        assert_eq!((result.trigger(), result.rate_basis()), gets);
        assert!(!result.dry_run);
    }
}

#[tokio::test]
async fn what_is_wrong_is_refused_by_the_name_of_its_field_and_leaves_nothing() {
    let rig = Rig::with_events([event("a")]).await;
    let (ten, eleven) = (hour(10), hour(11));
    let half = "2026-06-01T10:30:00Z";
    let nano = "2026-06-01T10:00:00.000000001Z";
    let usual = || asked(Some(&ten), Some(&eleven));
    let cases = [
        (asked(Some(half), Some(&eleven)), vec!["since"]),
        (asked(Some(nano), Some(half)), vec!["since", "until"]),
        (asked(Some(&ten), Some(&ten)), vec!["until"]),
        (asked(Some(&eleven), Some(&ten)), vec!["until"]),
        (RateWindowRequest { until: past_9999(), ..usual() }, vec!["until"]),
        (RateWindowRequest { since: past_9999(), ..usual() }, vec!["since"]),
        (RateWindowRequest { trigger: Trigger::Backfill.into(), ..Default::default() }, vec!["trigger"]),
        (
            RateWindowRequest { rate_basis: RateBasis::Pricebook.into(), ..routine(10, 11) },
            vec!["rate_basis"],
        ),
        (RateWindowRequest { trigger: 99, rate_basis: -1, ..usual() }, vec!["trigger", "rate_basis"]),
        (RateWindowRequest { request_id: "é".repeat(129), ..usual() }, vec!["request_id"]),
        (RateWindowRequest { request_id: "a\0".into(), ..usual() }, vec!["request_id"]),
        (RateWindowRequest { reason: "a\0".into(), ..usual() }, vec!["reason"]),
        (
            RateWindowRequest { expected_pricebook_digest: "ABC".into(), ..usual() },
            vec!["expected_pricebook_digest"],
        ),
    ];
    for (request, fields) in cases {
        let failure = rig.refused(request.clone()).await;
        let named: Vec<_> = failure.violations.iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!((failure.code, named), ("INVALID_ARGUMENT", fields), "{request:?}");
        assert!(failure.violations.iter().all(|(_, what)| !what.is_empty()));
    }
    assert_eq!(
        (rig.rows().await.len(), rig.count("rating_run").await, rig.count("rating_lease").await),
        (0, 0, 0)
    );
}

#[tokio::test]
async fn a_run_with_another_pricebook_than_expected_is_refused() {
    let rig = Rig::with_events([event("a")]).await;
    let book = rig.client().get_pricebook(GetPricebookRequest::default()).await.unwrap().into_inner();
    let expecting = |digest: &str| RateWindowRequest {
        expected_pricebook_digest: digest.into(),
        request_id: "expecting".into(),
        ..backfill(10, 11)
    };
    let failure = rig.refused(expecting(&"0".repeat(64))).await;
    assert_eq!((failure.code, failure.reason.as_str()), ("FAILED_PRECONDITION", "PRICEBOOK_MISMATCH"));
    assert_eq!(failure.metadata["loaded"], book.digest);
    assert_eq!(rig.count("rating_run").await, 0);
    // The refusal did not use its id up.
    assert_eq!(rig.rated(expecting(&book.digest)).await.inserted_rollups, 1);
}

#[tokio::test]
async fn a_long_reason_is_cut_with_one_warning() {
    let rig = Rig::with_events([event("a")]).await;
    let reason = "why ".repeat(500);
    let run = rig.rate(RateWindowRequest { reason: reason.clone(), ..backfill(10, 11) }).await.unwrap();
    rig.logged(|line| line["message"] == "run succeeded").await;
    let logs = rig.service.logs();
    let warnings: Vec<_> = logs.iter().filter(|line| line["level"] == "WARN").collect();
    assert_eq!(warnings.len(), 1, "{warnings:#?}");
    let warning = warnings[0];
    assert_eq!((&warning["run_id"], &warning["what"]), (&run.run_id.as_str().into(), &"reason".into()));
    assert_eq!((&warning["length"], &warning["limit"]), (&2_000.into(), &1_000.into()));
    assert!(!warning.to_string().contains("why"), "{warning}");
    assert_eq!(rig.one::<String>("SELECT reason FROM rating_run").await, reason[..1_000]);
}
