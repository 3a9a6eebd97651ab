//! Retention as a job: by hand and by the service, and past records that can't be deleted.

use serde_json::Value;

use super::{SOON, beside, command, rows_done, slow};
use crate::changes::fabricate;
use crate::rig::{BOOK, Rig, eventually};

const DAY: [&str; 6] = ["retention", "run", "--change-retention", "1d", "-o", "json"];

async fn old(sizes: &[i64]) -> Rig {
    let rig = Rig::start(BOOK, &[]).await;
    fabricate(rig.pool(), sizes).await;
    rig.sql("UPDATE change_batch SET changed_at = now() - interval '2 days'").await;
    rig
}

fn said(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[tokio::test]
async fn retention_by_hand_takes_what_is_old_in_bounded_batches_and_says_how_much() {
    let rig = old(&[700, 2_500, 400, 400, 400]).await;
    rig.sql("UPDATE change_batch SET changed_at = now() WHERE position = 5").await;
    slow(&rig, "0").await;
    let output = command(&rig, &DAY);
    assert_eq!(output.code(), Some(0), "{output:?}");
    let job = said(&output.stdout);
    assert_eq!(
        (&job["state"], &job["rows_done"], &job["rows"]),
        (&"succeeded".into(), &"4000".into(), &"4000".into())
    );
    assert_eq!(rig.count("rated_usage_change").await, 400);
    let most: i64 = rig.one("SELECT max(done) FROM batch_log").await;
    assert_eq!(most, 1_000);
    // Nothing is old any more: nothing is written, and the record stays.
    let before = rig.versions("table_job").await;
    assert_eq!(said(&command(&rig, &DAY).stdout), job);
    assert_eq!(rig.versions("table_job").await, before);
    let status = command(&rig, &["retention", "status"]);
    assert!(status.code() == Some(0) && status.stdout.contains("succeeded"), "{status:?}");
}

#[tokio::test]
async fn records_that_can_not_be_deleted_are_counted_and_passed_over() {
    let rig = old(&[50, 1_500, 1, 1, 20]).await;
    rig.sql(
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF OLD.ordinal = 7 THEN RAISE EXCEPTION 'kept for the auditors'; END IF;
             IF OLD.ordinal = 1200 THEN RETURN NULL; END IF;
             RETURN OLD;
         END $$;
         CREATE TRIGGER keep BEFORE DELETE ON rated_usage_change FOR EACH ROW EXECUTE FUNCTION keep()",
    )
    .await;
    let output = command(&rig, &DAY);
    assert_eq!(output.code(), Some(0), "{output:?}");
    let job = said(&output.stdout);
    assert_eq!((&job["state"], &job["rows_passed_over"]), (&"succeeded".into(), &"4".into()), "{job}");
    assert_eq!(rig.count("rated_usage_change").await, 4, "three seventh ones, and one of 1,200");
    assert_eq!(rig.one::<i64>("SELECT retired_through FROM change_feed").await, 5);
}

#[tokio::test]
async fn what_may_not_be_deleted_at_all_is_a_failure_and_not_for_ever_on_its_way() {
    let rig = old(&[1_500]).await;
    rig.sql(
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             RAISE EXCEPTION 'kept for the auditors'; END $$;
         CREATE TRIGGER keep BEFORE DELETE ON rated_usage_change FOR EACH ROW EXECUTE FUNCTION keep()",
    )
    .await;
    let output = command(&rig, &DAY);
    assert_eq!(output.code(), Some(1), "{output:?}");
    let status = command(&rig, &["retention", "status", "-o", "json"]);
    assert_eq!((status.code(), &said(&status.stdout)["state"]), (Some(1), &"failed".into()), "{status:?}");
    assert_eq!(rig.count("rated_usage_change").await, 1_500);
    rig.sql("DROP TRIGGER keep ON rated_usage_change").await;
    assert_eq!(command(&rig, &DAY).code(), Some(0));
}

#[tokio::test]
async fn a_command_that_was_killed_is_gone_on_with_by_the_service() {
    let rig = old(&[8_000]).await;
    slow(&rig, "0.2").await;
    let mut process = beside(&rig, &DAY);
    eventually("it is at work", async || rows_done(&rig, "change_retention").await > 0).await;
    process.kill();
    process.wait(SOON).await;
    let left = rig.count("rated_usage_change").await;
    assert!((1..8_000).contains(&left), "{left}");
    let book = rig.book_path();
    let arguments = ["--pricebook", book.to_str().unwrap(), "--change-retention", "1d"];
    let _service = crate::harness::Service::start(&rig.db.url, &arguments).await;
    eventually("it is done", async || rig.count("rated_usage_change").await == 0).await;
    eventually("it is written down", async || {
        let sql =
            "SELECT state = 'succeeded' AND rows_done = 8000 FROM table_job WHERE job = 'change_retention'";
        rig.one::<bool>(sql).await
    })
    .await;
}

/// Such as a service of before there were jobs, which retires by itself.
#[tokio::test]
async fn retention_that_finds_the_mark_held_by_another_session_is_not_done() {
    let rig = old(&[150]).await;
    let mut other = rig.pool().begin().await.unwrap();
    sqlx::query("SELECT FROM change_feed FOR UPDATE").execute(&mut *other).await.unwrap();
    let mut process = beside(&rig, &DAY);
    eventually("it waits for the mark", async || {
        let waits = "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database()
            AND wait_event_type = 'Lock' AND query LIKE '%change_feed FOR UPDATE%'";
        rig.one::<bool>(waits).await
    })
    .await;
    assert_eq!(
        rig.one::<String>("SELECT state FROM table_job WHERE job = 'change_retention'").await,
        "running"
    );
    other.rollback().await.unwrap();
    assert_eq!(process.wait(SOON).await.code(), Some(0));
    assert_eq!(rig.count("rated_usage_change").await, 0);
}
