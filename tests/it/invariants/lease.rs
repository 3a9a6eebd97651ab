//! R8: overlapping runs never write at the same time, and a run without its lease commits nothing.

use std::time::Duration;

use chrono::{DateTime, Utc};
use nix::sys::signal::Signal;

use crate::harness::event;
use crate::rig::{BOOK, Rig, backfill, eventually, routine};

/// A lease as another process holds it, and that process's run.
async fn other_run(rig: &Rig, since: u32, until: u32, expires: &str) {
    rig.sql(&format!(
        "INSERT INTO pricebook (digest, pricebook_yaml) VALUES ('other', '') ON CONFLICT DO NOTHING;
         INSERT INTO rating_lease (run_id, during, expires_at)
            VALUES ('other', tstzrange('2026-06-01T{since:02}:00Z', '2026-06-01T{until:02}:00Z'), clock_timestamp() + '{expires}');
         INSERT INTO rating_run (run_id, window_start, window_end, trigger, rate_basis, state, pricebook_digest,
            currency_code, fence, requested_by, request_hash)
         SELECT run_id, lower(during), upper(during), 'backfill', 'pricebook', 'running', 'other', 'USD', fence, '', ''
         FROM rating_lease"
    ))
    .await;
}

/// Takes a run's lease away at a moment of its own transactions.
async fn usurp(rig: &Rig, table: &str) {
    rig.sql(&format!(
        "CREATE FUNCTION usurp() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN DELETE FROM rating_lease WHERE run_id = NEW.run_id; RETURN NULL; END $$;
         CREATE TRIGGER usurp AFTER INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION usurp()"
    ))
    .await;
}

#[tokio::test]
async fn r08_an_overlapping_window_is_refused_with_who_holds_it_and_until_when() {
    let rig = Rig::with_events([event("a")]).await;
    other_run(&rig, 9, 11, "1 hour").await;
    let expires: DateTime<Utc> = rig.one("SELECT expires_at FROM rating_lease").await;
    for request in [routine(10, 11), backfill(8, 10), backfill(8, 12), backfill(10, 12)] {
        let failure = rig.refused(request).await;
        assert_eq!((failure.code, failure.reason.as_str()), ("ABORTED", "WINDOW_BUSY"));
        assert_eq!(failure.metadata["run"], "other");
        assert_eq!(failure.metadata["until"].parse::<DateTime<Utc>>().unwrap(), expires);
        let wait = failure.retry_after.unwrap();
        assert!(wait > Duration::from_secs(3_000) && wait <= Duration::from_secs(3_600), "{wait:?}");
    }
    // What only touches it is free.
    rig.rated(backfill(8, 9)).await;
    rig.rated(backfill(11, 12)).await;
    assert_eq!((rig.rows().await.len(), rig.count("rating_run").await), (0, 3));
    assert_eq!(rig.metric("rater_lease_conflicts_total").await.as_deref(), Some("4"));
}

#[tokio::test]
async fn r08_a_run_in_flight_keeps_others_off_its_window_alone() {
    let rig = Rig::with_events([event("a"), event("b").at("2026-06-01T11:15:00Z")]).await;
    let hold = rig.hold_writes().await;
    let run = rig.rate(backfill(10, 11));
    let others = async {
        rig.until_blocked(1).await;
        let busy = rig.refused(routine(10, 12)).await;
        hold.rollback().await.unwrap();
        busy
    };
    let (run, busy) = tokio::join!(run, others);
    assert_eq!((busy.reason.as_str(), &busy.metadata["run"]), ("WINDOW_BUSY", &run.unwrap().run_id));
    assert_eq!(rig.rated(routine(10, 12)).await.inserted_rollups, 1);
    assert_eq!(rig.count("rating_lease").await, 0);
}

#[tokio::test]
async fn r08_an_expired_lease_is_taken_over_and_its_run_fails_with_its_hours() {
    let rig = Rig::with_events([event("a")]).await;
    other_run(&rig, 9, 11, "-1 second").await;
    let fence: i64 = rig.one("SELECT fence FROM rating_run").await;
    rig.rated(backfill(10, 12)).await;
    assert!(rig.rows().await[0].fence > fence);
    let (state, reason, remaining) = rig.run("other").await;
    assert_eq!((state.as_str(), reason.as_deref()), ("failed", Some("LEASE_LOST")));
    assert_eq!(remaining.unwrap().to_rfc3339(), "2026-06-01T11:00:00+00:00");
}

#[tokio::test]
async fn r08_a_run_whose_lease_is_gone_before_it_begins_commits_nothing() {
    let rig = Rig::with_events([event("a")]).await;
    usurp(&rig, "rating_run").await;
    let failure = rig.refused(backfill(10, 11)).await;
    assert_eq!((failure.code, failure.reason.as_str()), ("ABORTED", "LEASE_LOST"));
    assert_eq!(failure.metadata["hours_committed"], "0");
    assert_eq!(failure.metadata["left_start"], "2026-06-01T10:00:00Z");
    assert_eq!(failure.metadata["left_end"], "2026-06-01T11:00:00Z");
    let counts = (
        rig.count("rated_usage").await,
        rig.count("change_batch").await,
        rig.count("rating_run_chunk").await,
    );
    assert_eq!(counts, (0, 0, 0));
    // Nobody else has its hours: the service goes on with it.
    eventually("the run is done", async || rig.run(&failure.metadata["run"]).await.0 == "succeeded").await;
    assert_eq!(rig.rows().await.len(), 1);
}

#[tokio::test]
async fn r08_a_lease_lost_in_a_chunk_rolls_the_chunk_back() {
    let rig = Rig::with_events([event("a")]).await;
    usurp(&rig, "rating_run_chunk").await;
    assert_eq!(rig.refused(backfill(10, 11)).await.reason, "LEASE_LOST");
    assert_eq!((rig.rows().await.len(), rig.count("rated_usage_change").await), (0, 0));
}

#[tokio::test]
async fn r08_a_lease_lost_between_chunks_keeps_what_is_committed_and_lists_the_rest() {
    let rig = Rig::start(BOOK, &["--chunk-hours", "1"]).await;
    rig.insert((9..12).map(|h| event(&h.to_string()).at(&format!("2026-06-01T{h:02}:15:00Z")))).await;
    usurp(&rig, "change_batch").await;
    let failure = rig.refused(backfill(9, 12)).await;
    assert_eq!((failure.reason.as_str(), failure.metadata["hours_committed"].as_str()), ("LEASE_LOST", "1"));
    // Newest first.
    assert_eq!(failure.metadata["left_start"], "2026-06-01T09:00:00Z");
    assert_eq!(failure.metadata["left_end"], "2026-06-01T11:00:00Z");
    assert_eq!(rig.costs().await, [("11".to_string(), "0.00045".to_string())]);
    rig.assert_explained().await;
    rig.sql("DROP TRIGGER usurp ON change_batch").await;
    eventually("the run is done", async || rig.run(&failure.metadata["run"]).await.0 == "succeeded").await;
    assert_eq!(rig.rows().await.len(), 3);
}

#[tokio::test]
async fn r08_a_row_of_a_higher_fence_aborts_the_chunk() {
    let rig = Rig::with_events([event("a"), event("b").auth("auth-2")]).await;
    rig.rated(backfill(10, 11)).await;
    rig.sql("UPDATE rated_usage SET fence = 1000000000 WHERE auth_id = 'auth-1'").await;
    rig.insert([event("c"), event("d").auth("auth-2")]).await;
    let versions = rig.versions("rated_usage").await;
    for request in [backfill(10, 11), routine(10, 11)] {
        assert_eq!(rig.refused(request).await.reason, "LEASE_LOST");
    }
    // Not even the row that it could have written.
    assert_eq!((rig.versions("rated_usage").await, rig.count("change_batch").await), (versions, 1));
}

#[tokio::test]
async fn r08_a_holder_that_hangs_is_taken_over_and_then_commits_nothing() {
    let rig = Rig::start(BOOK, &["--lease-ttl", "1s"]).await;
    rig.insert([event("a")]).await;
    let book = rig.book_path();
    let arguments = ["--pricebook", book.to_str().unwrap()];
    let other = crate::harness::Service::start(&rig.db.url, &arguments).await;
    let hold = rig.hold_writes().await;
    let mut client = rig.client();
    let hung = tokio::spawn(async move { client.rate_window(backfill(10, 11)).await });
    rig.until_blocked(1).await;
    rig.service.signal(Signal::SIGSTOP);
    hold.rollback().await.unwrap();
    // Its statement ends, and its session is idle in a transaction that holds the lease's lock.
    let mut rating = other.client_rating().await;
    let mut taken = None;
    eventually("the window is free", async || {
        taken = rating.rate_window(backfill(10, 11)).await.ok();
        taken.is_some()
    })
    .await;
    rig.service.signal(Signal::SIGCONT);
    let failure = rater::grpc::client::Failure::from(hung.await.unwrap().expect_err("it lost its lease"));
    assert!(["LEASE_LOST", "DATABASE_UNAVAILABLE"].contains(&failure.reason.as_str()), "{failure:?}");
    let rows = rig.rows().await;
    assert_eq!((rows.len(), &rows[0].run_id), (1, &taken.unwrap().into_inner().run_id));
    assert_eq!(rig.count("change_batch").await, 1);
    assert_eq!(rig.run(&failure.metadata["run"]).await.0, "failed");
}
