//! A caller's own id: the same request is the same run, whatever happened to its first answer.

use rater::proto::RateWindowRequest;

use crate::harness::event;
use crate::rig::{Rig, backfill, routine};

fn with_id(id: &str, request: RateWindowRequest) -> RateWindowRequest {
    RateWindowRequest { request_id: id.into(), ..request }
}

#[tokio::test]
async fn the_same_request_gets_the_same_run_and_the_same_result() {
    let rig = Rig::with_events([event("a"), event("b").model("acme/unknown")]).await;
    let request = with_id(&"é".repeat(128), routine(10, 11));
    let first = rig.rate(request.clone()).await.unwrap();
    rig.insert([event("later")]).await;
    let again = rig.rate(request).await.unwrap();
    assert_eq!(first, again);
    assert_eq!((rig.rows().await[0].event_count, rig.count("rating_run").await), (1, 1));
    // Another id is another run.
    let other = rig.rate(with_id("other", routine(10, 11))).await.unwrap();
    assert_ne!(other.run_id, first.run_id);
    assert_eq!(rig.rows().await[0].event_count, 2);
}

#[tokio::test]
async fn the_same_request_twice_at_once_is_one_run() {
    let rig = Rig::with_events([event("a")]).await;
    let hold = rig.hold_writes().await;
    let request = with_id("both", backfill(10, 11));
    let release = async {
        rig.until_blocked(1).await;
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        hold.rollback().await.unwrap();
    };
    let (one, two, ()) = tokio::join!(rig.rate(request.clone()), rig.rate(request.clone()), release);
    assert_eq!(one.unwrap(), two.unwrap());
    assert_eq!((rig.count("rating_run").await, rig.count("change_batch").await), (1, 1));
}

#[tokio::test]
async fn the_same_id_with_other_arguments_is_refused() {
    let rig = Rig::with_events([event("a")]).await;
    let run = rig.rate(with_id("id", backfill(10, 11))).await.unwrap();
    for other in [
        backfill(10, 12),
        routine(10, 11),
        RateWindowRequest { reason: "because".into(), ..backfill(10, 11) },
        RateWindowRequest { rate_basis: rater::proto::RateBasis::Frozen.into(), ..backfill(10, 11) },
        RateWindowRequest { expected_pricebook_digest: "0".repeat(64), ..backfill(10, 11) },
        RateWindowRequest::default(),
    ] {
        let failure = rig.refused(with_id("id", other)).await;
        assert_eq!((failure.code, failure.reason.as_str()), ("ALREADY_EXISTS", "REQUEST_ID_REUSED"));
        assert_eq!(failure.metadata["run"], run.run_id);
    }
    assert_eq!(rig.count("rating_run").await, 1);
}

#[tokio::test]
async fn a_request_that_was_refused_does_not_use_its_id_up() {
    let rig = Rig::with_events([event("a")]).await;
    let id = |request| with_id("id", request);
    rig.refused(id(backfill(11, 10))).await;
    rig.refused(id(RateWindowRequest { dry_run: true, ..backfill(10, 11) })).await;
    rig.sql(
        "INSERT INTO rating_lease (run_id, during, expires_at)
         VALUES ('other', '[2026-06-01T10:00Z,2026-06-01T11:00Z)', now() + interval '1 hour')",
    )
    .await;
    assert_eq!(rig.refused(id(backfill(10, 11))).await.reason, "WINDOW_BUSY");
    rig.sql("DELETE FROM rating_lease").await;
    assert_eq!(rig.rated(id(routine(10, 11))).await.inserted_rollups, 1);
}

#[tokio::test]
async fn an_id_is_forgotten_after_a_day() {
    let rig = Rig::with_events([event("a")]).await;
    let first = rig.rate(with_id("id", backfill(10, 11))).await.unwrap();
    rig.sql("UPDATE rating_run SET created_at = created_at - interval '24 hours'").await;
    let second = rig.rate(with_id("id", routine(10, 11))).await.unwrap();
    assert_ne!(first.run_id, second.run_id);
}

#[tokio::test]
async fn a_run_that_failed_is_recorded_and_its_retry_gets_the_failure_again() {
    let rig = Rig::with_events([event("a")]).await;
    rig.sql(
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'secret'; END $$;
         CREATE TRIGGER no BEFORE INSERT ON rated_usage FOR EACH ROW EXECUTE FUNCTION no()",
    )
    .await;
    let request = with_id("id", backfill(9, 11));
    let first = rig.refused(request.clone()).await;
    assert_eq!((first.code, first.reason.as_str()), ("INTERNAL", "INTERNAL"));
    assert!(!format!("{first:?}").contains("secret"), "{first:?}");
    assert_eq!(first.metadata["hours_committed"], "0");
    assert_eq!(first.metadata["left_end"], "2026-06-01T11:00:00Z");
    let (state, reason, remaining) = rig.run(&first.metadata["run"]).await;
    assert_eq!((state.as_str(), reason.as_deref()), ("failed", Some("INTERNAL")));
    assert_eq!(remaining.unwrap().to_rfc3339(), "2026-06-01T11:00:00+00:00");
    rig.sql("DROP TRIGGER no ON rated_usage").await;
    assert_eq!(rig.refused(request).await, first);
    assert_eq!(rig.rated(with_id("new", backfill(9, 11))).await.inserted_rollups, 1);
    let line = rig.logged(|line| line["message"] == "run failed").await;
    // The log has where it was raised. What a trigger says may quote a row.
    let (said, function) = (line.to_string(), "P0001, PL/pgSQL function no() line 1 at RAISE");
    assert!(said.contains(function) && !said.contains("secret"), "{line}");
    assert_eq!(
        rig.metric(r#"rater_runs_total{trigger="backfill",state="failed"}"#).await.as_deref(),
        Some("1")
    );
}
