//! R14 and R15: hours are UTC, and only closed ones are rated.

use chrono::{DateTime, TimeDelta, Timelike, Utc};
use rater::proto::{RateBasis, RateWindowRequest, RatingResult, Trigger};

use crate::harness::{database, event};
use crate::rig::{BOOK, Rig, backfill, timestamp};

fn bounds(result: &RatingResult) -> (DateTime<Utc>, DateTime<Utc>) {
    let window = result.window.unwrap();
    let time = |t: Option<prost_types::Timestamp>| DateTime::from_timestamp(t.unwrap().seconds, 0).unwrap();
    (time(window.start), time(window.end))
}

/// The start of the database's current hour, less a delay; asked again should it turn meanwhile.
async fn limit(rig: &Rig, delay: &str) -> DateTime<Utc> {
    rig.one(&format!("SELECT date_trunc('hour', now() - interval '{delay}', 'UTC')")).await
}

#[tokio::test]
async fn r14_hours_are_utc_whatever_the_databases_time_zone() {
    let db = database().await;
    let name: String =
        sqlx::query_scalar("SELECT current_database()::text").fetch_one(db.pool()).await.unwrap();
    let sql = format!("ALTER DATABASE {name} SET timezone = 'Asia/Kolkata'");
    sqlx::query(sqlx::AssertSqlSafe(sql)).execute(db.pool()).await.unwrap();
    let rig = Rig::on(db, BOOK, &[]).await;
    rig.insert([
        event("a").at("2026-06-01T10:00:00Z"),
        event("b").at("2026-06-01T10:59:59.999999Z"),
        event("c").at("2026-06-01T11:00:00Z"),
    ])
    .await;
    let result = rig.rated(backfill(10, 12)).await;
    assert_eq!((result.events, result.rollups), (3, 2));
    let rows = rig.rows().await;
    let hours: Vec<_> = rows.iter().map(|row| (row.window_start.to_rfc3339(), row.event_count)).collect();
    let expected =
        [("2026-06-01T10:00:00+00:00".to_string(), 2), ("2026-06-01T11:00:00+00:00".to_string(), 1)];
    assert_eq!(hours, expected);
    let id: String = rig.one("SELECT md5('6:auth-1|10:resource-1|10:acme/large|1780308000')").await;
    assert_eq!(rows[0].id, id);
    let trailing = rig.rated(RateWindowRequest::default()).await;
    let (start, end) = bounds(&trailing);
    assert_eq!((start.minute(), end.minute(), (end - start).num_hours()), (0, 0, 24));
}

#[tokio::test]
async fn r14_an_event_counts_at_its_own_time_or_when_it_was_stored() {
    let rig = Rig::with_events([event("a").stored_at("2026-06-01T10:30:00Z"), {
        let mut both = event("b").auth("auth-2").at("2026-06-01T10:10:00Z");
        both.created_at = Some("2026-06-01T12:00:00Z".parse().unwrap());
        both
    }])
    .await;
    assert_eq!(rig.rated(backfill(10, 11)).await.rated_events, 2);
    assert_eq!(rig.rated(backfill(11, 13)).await.events, 0);
}

#[tokio::test]
async fn r15_a_window_past_the_last_closed_hour_is_refused() {
    let rig = Rig::start(BOOK, &[]).await;
    let now = limit(&rig, "0").await;
    let stamp = |time: DateTime<Utc>| Some(timestamp(&time.to_rfc3339()));
    let hour = TimeDelta::hours(1);
    for (since, until) in [
        // Two hours on, so that a turn of the hour changes nothing.
        (stamp(now - hour), stamp(now + hour * 2)),
        (None, stamp(now + hour * 2)),
        (stamp(now + hour), None),
        (stamp(now + hour), stamp(now + hour * 3)),
    ] {
        for trigger in [Trigger::Unspecified, Trigger::Routine] {
            let request = RateWindowRequest { since, until, trigger: trigger.into(), ..Default::default() };
            let failure = rig.refused(request).await;
            assert_eq!((failure.code, failure.reason.as_str()), ("FAILED_PRECONDITION", "WINDOW_NOT_CLOSED"));
            let closed: DateTime<Utc> = failure.metadata["closing_limit"].parse().unwrap();
            assert!(closed == now || closed == now + hour, "{failure:?}");
        }
    }
    let last = RateWindowRequest { since: stamp(now - hour), until: stamp(now), ..Default::default() };
    rig.rated(last).await;
    assert_eq!(rig.count("rating_run").await, 1);
}

#[tokio::test]
async fn r15_the_closing_delay_holds_hours_open() {
    let rig = Rig::start(BOOK, &["--closing-delay", "150m", "--trailing-hours", "3"]).await;
    let before = limit(&rig, "150 minutes").await;
    let result = rig.rated(RateWindowRequest::default()).await;
    let (start, end) = bounds(&result);
    assert!(end == before || end == limit(&rig, "150 minutes").await);
    assert_eq!(
        (end - start, result.trigger(), result.rate_basis()),
        (TimeDelta::hours(3), Trigger::Routine, RateBasis::Frozen)
    );
    let open = timestamp(&(end + TimeDelta::hours(2)).to_rfc3339());
    let failure = rig.refused(RateWindowRequest { until: Some(open), ..Default::default() }).await;
    assert_eq!(failure.reason, "WINDOW_NOT_CLOSED");
}
